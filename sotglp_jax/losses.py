"""Losses and accuracies over a batch whose padding is masked."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int


def masked_mean(x: Float[Array, " B"], mask: Bool[Array, " B"]) -> Float[Array, ""]:
    """Mean of the entries where `mask` is True."""
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def cross_entropy(
    logits: Float[Array, "B C"], labels: Int[Array, " B"], mask: Bool[Array, " B"]
) -> Float[Array, ""]:
    """-log softmax(logits)[label], averaged over the batch (equation 6)."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return masked_mean(losses, mask)


def accuracy(
    logits: Float[Array, "B C"], labels: Int[Array, " B"], mask: Bool[Array, " B"]
) -> Float[Array, ""]:
    """Share of the images whose largest logit is their label's."""
    return masked_mean((jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32), mask)
