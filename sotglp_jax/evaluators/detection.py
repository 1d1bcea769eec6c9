"""Out-of-distribution detection: scores that are high in distribution, and how they are judged."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

PERCENT = 95  # of the in-distribution images pass


def deviation(sim: Float[Array, "... C"], temperature: float) -> Float[Array, "..."]:
    """Σ_c expm1((sim_c - max sim) / T), which `concept_matching` needs of a row of cosines.

    float32 keeps the differences that a softmax at a high temperature would round away.
    """
    return jnp.sum(jnp.expm1((sim - sim.max(-1, keepdims=True)) / temperature), axis=-1)


def concept_matching(deviations: Float[Array, "..."], classes: int) -> Float[Array, "..."]:
    """max_c softmax(sim / T): MCM (https://arxiv.org/abs/2211.13445).

    Args:
      deviations: what `deviation` gave; as float64, or a temperature far above 1 makes ties.
      classes: C.
    """
    return 1.0 / (classes + deviations)


def threshold(inside: np.ndarray) -> float:
    """The score that lets through a share of in-distribution images nearest to 95 %.

    An image passes if its score is not below. Of two equally near shares the larger is taken.
    """
    scores = np.unique(inside)
    passing = len(inside) - np.searchsorted(np.sort(inside), scores)
    # In whole numbers: rounded shares would decide between equally near ones.
    return float(scores[np.argmin(np.abs(100 * passing - PERCENT * len(inside)))])


def fpr95(inside: np.ndarray, outside: np.ndarray) -> float:
    """Share of the other images that pass the threshold of 95 % recall, in [0, 1]."""
    return float(np.mean(outside >= threshold(inside)))


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Area under the ROC curve with in-distribution as the positive class, in [0, 1]."""
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([1, 0], [len(inside), len(outside)])
    return float(roc_auc_score(labels, np.concatenate([inside, outside])))
