"""Cosines: the similarities decide, so they are computed in full float32."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """x / |x| along the last axis."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def cosines(pattern: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """An einsum of unit vectors without TF32 or bf16."""
    return jnp.einsum(pattern, a, b, precision="highest")
