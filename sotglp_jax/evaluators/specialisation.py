"""Whether the local prompts of a class look at different patches."""

import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sotglp_jax import transport
from sotglp_jax.methods.sotglp import Scores

TOP = 3  # patches of a prompt, as in the paper's figure 2


def sums(
    scores: Scores, labels: Int[Array, " B"], mask: Bool[Array, " B"]
) -> dict[str, Float[Array, "..."]]:
    """Sums over a batch, each image seen by the prompts of its own class.

    Returns:
      plan_entropy: of `transport.normalised_entropy`, 1 for a uniform plan.
      overlap: mean Jaccard index of two prompts' `TOP` most similar patches: 0 for prompts that
        look at different patches, 1 for prompts that look at the same.
      share: for each prompt (N_l,), the part of the kept patches that give it their largest share.
    """
    image = jnp.arange(len(labels))
    plan, sim = scores.plan[image, labels], scores.sim_local[image, :, labels]
    entropy = transport.normalised_entropy(plan)
    parts = {"plan_entropy": entropy, "overlap": overlap(sim), "share": shares(plan)}
    return {
        name: jnp.sum(jnp.where(jnp.reshape(mask, (-1,) + (1,) * (x.ndim - 1)), x, 0), axis=0)
        for name, x in parts.items()
    }


def shares(plan: Float[Array, "B K N"]) -> Float[Array, "B N"]:
    """The part of the patches that give each prompt their largest share; equals count in parts."""
    largest = plan == plan.max(-1, keepdims=True)
    return jnp.mean(largest / largest.sum(-1, keepdims=True), axis=1)


def overlap(sim: Float[Array, "B P N"]) -> Float[Array, " B"]:
    """Mean Jaccard index over all pairs of prompts; 0 where there is but one."""
    top = transport.support(sim, min(TOP, sim.shape[1]))  # (B, N, TOP)
    pairs = list(itertools.combinations(range(sim.shape[-1]), 2))
    if not pairs:
        return jnp.zeros(len(sim))
    a, b = (top[:, np.array(side)] for side in zip(*pairs, strict=True))
    common = jnp.sum(a[..., None] == b[..., None, :], axis=(-2, -1))
    return jnp.mean(common / (2 * top.shape[-1] - common), axis=-1)
