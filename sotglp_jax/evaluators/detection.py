"""Out-of-distribution detection: scores that are high in distribution, and how they are judged."""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sotglp_jax.errors import InputError

RECALL = 0.95  # share of the in-distribution images that pass, as the field has it


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


def threshold(inside: np.ndarray, recall: float = RECALL) -> float:
    """The score that lets through a share of in-distribution images nearest to `recall`.

    An image passes if its score is not below. Of two equally near shares the larger is taken.

    Args:
      inside: scores of in-distribution images.
      recall: above 0 and at most 1.

    Raises:
      InputError: the recall is no such share.
    """
    if not 0 < recall <= 1:
        raise InputError(
            f"recall={recall} is no share of images: set one above 0 and at most 1, such as 0.95."
        )
    scores = np.unique(inside)
    passing = len(inside) - np.searchsorted(np.sort(inside), scores)
    # In whole numbers: rounded shares would decide between equally near ones.
    share = Fraction(recall).limit_denominator(10_000)
    far = np.abs(share.denominator * passing - share.numerator * len(inside))
    return float(scores[np.argmin(far)])


def separating(inside: np.ndarray, outside: np.ndarray) -> float:
    """The score of an in-distribution image that best separates two sets of scores.

    It is the threshold with the largest share of in-distribution images that pass, less the share
    of the others that do; of equally good ones the lowest.
    """
    scores = np.unique(inside)
    ours, theirs = (1 - np.searchsorted(np.sort(x), scores) / len(x) for x in (inside, outside))
    return float(scores[np.argmax(ours - theirs)])


def separates(area: float, inside: int, outside: int) -> bool:
    """Whether an AUROC is above what chance gives in 39 of 40 cases.

    Args:
      area: the AUROC.
      inside: number of in-distribution images.
      outside: number of the others.
    """
    deviation = np.sqrt((inside + outside + 1) / (12 * inside * outside))  # of equal scores' AUROC
    return bool(area > 0.5 + 1.96 * deviation)


def passing(inside: np.ndarray, limit: float) -> tuple[float, float, float]:
    """How many in-distribution images a threshold lets through.

    Args:
      inside: scores of n in-distribution images that were not trained on.
      limit: the threshold.

    Returns:
      Their share, and the ends of its 95 % interval (Clopper and Pearson), within which it lies for
      all such images. Of few images the interval is wide.
    """
    from scipy.stats import binomtest

    count = int(np.sum(np.asarray(inside) >= limit))
    found = binomtest(count, len(inside)).proportion_ci(0.95)
    return count / len(inside), float(found.low), float(found.high)


def fpr95(inside: np.ndarray, outside: np.ndarray) -> float:
    """Share of the other images that pass the threshold of 95 % recall, in [0, 1]."""
    return float(np.mean(outside >= threshold(inside)))


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Area under the ROC curve with in-distribution as the positive class, in [0, 1]."""
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([1, 0], [len(inside), len(outside)])
    return float(roc_auc_score(labels, np.concatenate([inside, outside])))
