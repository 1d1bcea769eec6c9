"""SOT-GLP's shared global prompts alone, for classes that have no local prompts."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from sotglp_jax.clip import ImageFeatures, Towers
from sotglp_jax.clip.packing import PackedClasses
from sotglp_jax.methods import prompts
from sotglp_jax.methods.sotglp import cosines, unit
from sotglp_jax.methods.zeroshot import Scores


@dataclasses.dataclass(frozen=True)
class GlobalBranch:
    """s · mean over the prompts of f · t_c (section 3.3).

    Attributes:
      towers: CLIP's modules.
    """

    towers: Towers

    def encode_classes(
        self, trainable: dict, frozen: dict, classes: PackedClasses
    ) -> Float[Array, "C Ng D"]:
        """Text features of the global prompts of every class, not normalised."""
        shared = trainable["global_prompts"]
        none = jnp.zeros((len(classes.mask), 0, *shared.shape[1:]))
        return prompts.encode(self.towers, frozen["text"], shared, none, classes)[classes.places]

    def score(
        self, trainable: dict, frozen: dict, text: Float[Array, "C Ng D"], image: ImageFeatures
    ) -> Scores:
        """Logits "global"."""
        features = self.towers.vision.apply(
            {"params": frozen["vision"]}, image.cls, method="project"
        )
        sim = cosines("bd,cnd->bcn", unit(features), unit(text))
        return Scores({"global": jnp.exp(frozen["logit_scale"]) * sim.mean(-1)}, sim, None)
