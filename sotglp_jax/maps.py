"""Where the local prompts of a class look on an image (paper, figure 2)."""

import math
from collections.abc import Mapping

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from sotglp_jax import transport
from sotglp_jax.cache import image_features
from sotglp_jax.evaluators import specialisation
from sotglp_jax.methods.sotglp import ClassFeatures, Scores, SotGlp


@struct.dataclass
class Maps:
    """Of a batch of images, each seen by the local prompts of one class.

    Patches are numbered row by row, and those listed stand best first.

    Attributes:
      prompts: cosines of patches and each local prompt.
      tops: the three most similar patches of each prompt.
      combined: their mean over the prompts, the saliency that patches are kept by.
      kept: the K most salient patches.
      shares: the part of the kept patches that the plan gives mostly to each prompt. What a plan
        gives to a prompt in all is of no interest: 1 / N_l, unless it is unbalanced.
    """

    prompts: Float[Array, "B Nl h w"]
    tops: Int[Array, "B Nl 3"]
    combined: Float[Array, "B h w"]
    kept: Int[Array, "B K"]
    shares: Float[Array, "B Nl"]


def of(scores: Scores, labels: Int[Array, " B"]) -> Maps:
    """The maps of scored images.

    Args:
      scores: what `SotGlp.score` gave.
      labels: the class to look at on each image, such as the true or the predicted one.
    """
    image = jnp.arange(labels.shape[0])
    sim, plan = scores.sim_local[image, :, labels], scores.plan[image, labels]
    side = math.isqrt(sim.shape[1])
    combined = sim.mean(-1)
    return Maps(
        prompts=jnp.moveaxis(sim, -1, 1).reshape(labels.shape[0], -1, side, side),
        tops=transport.support(sim, min(specialisation.TOP, sim.shape[1])),
        combined=combined.reshape(-1, side, side),
        kept=transport.support(combined, plan.shape[1]),
        shares=specialisation.shares(plan),
    )


def measure(
    frozen: dict, trained: dict, text: ClassFeatures, batch: Mapping, method: SotGlp
) -> Maps:
    """The maps of a batch by the prompts of its labels.

    Args:
      frozen: CLIP's weights.
      trained: the trainable tree.
      text: class features.
      batch: see `loader.Batch`, or of a cache.
      method: the method; static.
    """
    image = image_features(method.towers, frozen, batch)
    return of(method.score(trained, frozen, text, image), batch["label"])
