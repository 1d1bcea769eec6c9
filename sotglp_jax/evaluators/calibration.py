"""Temperature scaling: probabilities that are right as often as they say.

Source: https://arxiv.org/abs/1706.04599.
"""

import numpy as np
from jaxtyping import Float, Int

LARGEST = 20.0  # a temperature is within 1 / LARGEST and LARGEST


def temperature(logits: Float[np.ndarray, "n C"], labels: Int[np.ndarray, " n"]) -> float:
    """The T for which softmax(logits / T) makes the labels most likely; 1 where none does.

    If every image is right, any lower T makes them more likely, so that nothing follows from them.

    Args:
      logits: of images that were not trained on.
      labels: their classes.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    if right(logits, labels) == 1:
        return 1.0
    logits = logits.astype(np.float64)
    own = logits[np.arange(len(labels)), labels]

    def surprise(log_t: float) -> float:
        scale = np.exp(-log_t)
        return float(np.mean(logsumexp(scale * logits, axis=-1) - scale * own))

    ends = np.log(LARGEST)
    return float(np.exp(minimize_scalar(surprise, bounds=(-ends, ends), method="bounded").x))


def right(logits: Float[np.ndarray, "n C"], labels: Int[np.ndarray, " n"]) -> float:
    """The share of the images whose largest logit is their class's, in [0, 1]."""
    return float(np.mean(logits.argmax(-1) == labels))
