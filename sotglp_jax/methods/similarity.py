"""Cosines: the similarities decide, so they are computed in full float32."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from sotglp_jax.clip import Towers
from sotglp_jax.methods.contract import Scores


def unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """x / |x| along the last axis."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def cosines(pattern: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """An einsum of unit vectors without TF32 or bf16."""
    return jnp.einsum(pattern, a, b, precision="highest")


def classify(
    towers: Towers,
    frozen: dict,
    features: Float[Array, "B W"],
    text: Float[Array, "C N D"],
    name: str,
) -> Scores:
    """CLIP's classifier: s · the mean over a class's N texts of f · t_cn.

    Args:
      towers: CLIP's modules.
      frozen: CLIP's weights.
      features: image features before their projection.
      text: text features, not normalised.
      name: of the logits.
    """
    sim = cosines("bd,cnd->bcn", unit(towers.project(frozen, features)), unit(text))
    return Scores({name: jnp.exp(frozen["logit_scale"]) * sim.mean(-1)}, {"global": sim})


def with_patches(
    scores: Scores, towers: Towers, frozen: dict, image: dict, text: Float[Array, "C N D"]
) -> Scores:
    """Adds the cosines of projected patches and texts, where the image's features have patches."""
    if "patches" not in image:
        return scores
    patches = unit(towers.project(frozen, image["patches"]))
    local = cosines("bpd,cnd->bpcn", patches, unit(text))
    return scores.replace(sims=scores.sims | {"local": local})
