"""CLIP's zero-shot classifier: one sentence a class, nothing to learn."""

import dataclasses

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from sotglp_jax.clip import ImageFeatures, Towers
from sotglp_jax.clip.tokenizer import Tokens
from sotglp_jax.methods.sotglp import cosines, unit


@struct.dataclass
class Scores:
    """Logits of a batch and the cosines that tell other images from it.

    Attributes:
      logits: "zero_shot", or "global".
      sim_global: cosines of images and sentences, or global prompts.
      sim_local: cosines of patches and sentences; None where there is no local branch.
    """

    logits: dict[str, Float[Array, "B C"]]
    sim_global: Float[Array, "B C Ng"]
    sim_local: Float[Array, "B P C 1"] | None


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """s · f · t_c with one template per data set."""

    towers: Towers

    def encode_classes(self, trainable: dict, frozen: dict, classes: Tokens) -> Float[Array, "C D"]:
        """Text features of whole sentences, not normalised; `trainable` is empty."""
        embeddings = self.towers.text.apply({"params": frozen["text"]}, classes.ids, method="embed")
        return self.towers.text.apply({"params": frozen["text"]}, embeddings, classes.eot)

    def score(
        self, trainable: dict, frozen: dict, text: Float[Array, "C D"], image: ImageFeatures
    ) -> Scores:
        """Scaled cosines of images and sentences; patches go through CLIP's own projection."""
        f_global, f_local = (
            unit(self.towers.vision.apply({"params": frozen["vision"]}, x, method="project"))
            for x in (image.cls, image.patches)
        )
        sim = cosines("bd,cd->bc", f_global, unit(text))
        sim_local = cosines("bpd,cd->bpc", f_local, unit(text))
        logits = {"zero_shot": jnp.exp(frozen["logit_scale"]) * sim}
        return Scores(logits, sim[..., None], sim_local[..., None])
