"""Whether the local prompts of a class look at different patches."""

import itertools
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sotglp_jax.methods import transport

if TYPE_CHECKING:
    from sotglp_jax.methods.contract import Scores

TOP = 3  # patches of a prompt, as in the paper's figure 2


def compute(scores: "Scores", labels: Int[Array, " B"]) -> dict[str, Float[Array, "B ..."]]:
    """Computes, image by image, how the prompts of the image's own class share its patches out.

    Args:
      scores: what the method's `score` gave: `sims["local"]` (B P C N), and `parts["plan"]`
        (B C K N).
      labels: true classes; what is computed for padding, whose label is -1, means nothing.

    Returns:
      Nothing where the method has no such cosines or plan, else
      plan_entropy (B,): of `transport.normalised_entropy`, 1 for a uniform plan;
      overlap (B,): mean Jaccard index of two prompts' `TOP` most similar patches: 0 for prompts
        that look at different patches, 1 for prompts that look at the same;
      share (B, N): the part of the kept patches that give each prompt their largest share.
    """
    if "local" not in scores.sims or "plan" not in scores.parts:
        return {}
    image = jnp.arange(len(labels))
    plan, sim = scores.parts["plan"][image, labels], scores.sims["local"][image, :, labels]
    entropy = transport.normalised_entropy(plan)
    return {"plan_entropy": entropy, "overlap": overlap(sim), "share": shares(plan)}


def shares(plan: Float[Array, "B K N"]) -> Float[Array, "B N"]:
    """Computes the part of the patches that give each prompt their largest share.

    A patch that gives equal shares to several prompts counts for each in part.
    """
    largest = plan == plan.max(-1, keepdims=True)
    return jnp.mean(largest / largest.sum(-1, keepdims=True), axis=1)


def overlap(sim: Float[Array, "B P N"]) -> Float[Array, " B"]:
    """Computes the mean Jaccard index over all pairs of prompts; 0 where there is but one."""
    top = transport.support(sim, min(TOP, sim.shape[1]))  # (B, N, TOP)
    pairs = list(itertools.combinations(range(sim.shape[-1]), 2))
    if not pairs:
        return jnp.zeros(len(sim))
    a, b = (top[:, np.array(side)] for side in zip(*pairs, strict=True))
    common = jnp.sum(a[..., None] == b[..., None, :], axis=(-2, -1))
    return jnp.mean(common / (2 * top.shape[-1] - common), axis=-1)
