"""Choosing how much the local branch weighs, on validation images, never on test images."""

from collections.abc import Iterable, Mapping

import jax
import numpy as np

from sotglp_jax.cache import image_features
from sotglp_jax.methods.sotglp import ClassFeatures, SotGlp

# Weights of the global and the local branch: λ from 0 over powers of 2 to infinity.
GRID = ((1.0, 0.0), *((1.0, 2.0**k) for k in range(-4, 4)), (0.0, 1.0))


def measure(
    frozen: dict, trained: dict, text: ClassFeatures, batch: Mapping, method: SotGlp
) -> dict[str, jax.Array]:
    """Logits of both branches with the labels and the mask of a batch."""
    image = image_features(method.towers, frozen, batch)
    logits = method.score(trained, frozen, text, image).logits
    kept = {name: logits[name] for name in ("global", "local")}
    return kept | {name: batch[name] for name in ("label", "mask")}


def choose(parts: Iterable[Mapping[str, np.ndarray]], trained_with: float) -> tuple[float, float]:
    """The pair of `GRID` with the best accuracy; of equals, the one nearest to the training's λ.

    Args:
      parts: what `measure` gave for the batches of the validation images.
      trained_with: λ of the training.

    Returns:
      Weights of the global and the local branch.
    """
    parts = list(parts)
    right = {pair: sum(int(np.sum(_right(part, *pair))) for part in parts) for pair in GRID}
    distances = {pair: abs(np.arctan2(*pair) - np.arctan2(1.0, trained_with)) for pair in GRID}
    return min(GRID, key=lambda pair: (-right[pair], distances[pair]))


def _right(part: Mapping[str, np.ndarray], of_global: float, of_local: float) -> np.ndarray:
    fused = of_global * part["global"] + of_local * part["local"]
    return (fused.argmax(-1) == part["label"]) & part["mask"]
