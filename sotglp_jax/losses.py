"""Cross-entropy and accuracy where every device may hold some of the classes only."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sotglp_jax import collectives


def masked_sum(x: Float[Array, " B"], mask: Bool[Array, " B"]) -> Float[Array, ""]:
    """Sum of the entries where `mask` is True."""
    return jnp.sum(jnp.where(mask, x, 0.0))


def judge(
    logits: Float[Array, "n B C"],
    labels: Int[Array, " B"],
    extra: Float[Array, " B"],
    axes: collectives.Names = (),
) -> tuple[Float[Array, "n B"], Bool[Array, "n B"], Float[Array, " B"]]:
    """Of n classifiers, -log softmax(logits)[label] (equation 6) and whether it is the largest.

    Two reductions over the devices, however many classifiers there are.

    Args:
      logits: of this device's classes; -inf for none.
      labels: their indices among this device's classes; others are outside of 0 .. C - 1.
      extra: something else to be summed over the devices on the way.
      axes: that the classes are divided over.
    """
    own = jnp.arange(logits.shape[-1]) == labels[:, None]
    top = collectives.largest(jax.lax.stop_gradient(logits.max(-1)), axes)
    exponentials = jnp.exp(logits - top[..., None]).sum(-1)
    chosen = jnp.where(own, logits, 0.0).sum(-1)
    n = len(logits)
    sums = collectives.add(jnp.concatenate([exponentials, chosen, extra[None]]), axes)
    exponentials, chosen, extra = sums[:n], sums[n : 2 * n], sums[-1]
    return jnp.log(exponentials) + top - chosen, chosen >= top, extra
