"""SOT-GLP's shared global prompts alone, for classes that have no local prompts."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from sotglp_jax.clip import ImageFeatures, Towers
from sotglp_jax.clip.tokenizer import Tokens
from sotglp_jax.methods import prompts
from sotglp_jax.methods.sotglp import cosines, unit
from sotglp_jax.methods.zeroshot import Scores


@dataclasses.dataclass(frozen=True)
class GlobalBranch:
    """s · mean over the prompts of f · t_c (section 3.3).

    Attributes:
      towers: CLIP's modules.
      chunk: classes per pass of the text tower, 0 for all.
    """

    towers: Towers
    chunk: int = 0

    def encode_classes(
        self, trainable: dict, frozen: dict, classes: Tokens
    ) -> Float[Array, "C Ng D"]:
        """Text features of the global prompts of every class, not normalised."""
        shared = trainable["global_prompts"]
        contexts = jnp.broadcast_to(shared, (len(classes.ids), *shared.shape))
        return prompts.encode(self.towers, frozen["text"], contexts, classes, self.chunk)

    def score(
        self, trainable: dict, frozen: dict, text: Float[Array, "C Ng D"], image: ImageFeatures
    ) -> Scores:
        """Logits "global"."""
        features = self.towers.vision.apply(
            {"params": frozen["vision"]}, image.cls, method="project"
        )
        sim = cosines("bd,cnd->bcn", unit(features), unit(text)).mean(-1)
        return Scores({"global": jnp.exp(frozen["logit_scale"]) * sim})
