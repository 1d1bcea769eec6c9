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
    """logits: "zero_shot" (B, C)."""

    logits: dict[str, Float[Array, "B C"]]


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
        """Scaled cosines of images and sentences."""
        features = self.towers.vision.apply(
            {"params": frozen["vision"]}, image.cls, method="project"
        )
        sim = cosines("bd,cd->bc", unit(features), unit(text))
        return Scores({"zero_shot": jnp.exp(frozen["logit_scale"]) * sim})
