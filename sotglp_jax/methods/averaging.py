"""Averages of the parameters over the epochs (PromptSRC, https://arxiv.org/abs/2307.06948)."""

import numpy as np


def gaussian(epochs: int, mean: float, std: float) -> tuple[float, ...]:
    """The weight of the parameters after each epoch: a Gaussian over their numbers, from 1.

    Args:
      epochs: how many there are.
      mean: μ, the epoch of the largest weight; it may lie outside.
      std: σ, in epochs, above 0.

    Returns:
      Weights that sum to 1.
    """
    distance = (np.arange(1, epochs + 1) - mean) / std
    weights = np.exp(-0.5 * (distance**2 - np.min(distance**2)))
    return tuple((weights / weights.sum()).tolist())
