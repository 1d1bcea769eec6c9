"""Detection as other code bases measure it, where our rules differ."""

import numpy as np


def fpr95(inside: np.ndarray, outside: np.ndarray) -> float:
    """LoCoOp's and LSN's: thresholds are all distinct scores, and the lowest of equals counts.

    Ours takes the scores in distribution alone.

    Args:
      inside: scores, high in distribution.
      outside: scores of the others.
    """
    thresholds = np.unique(np.concatenate([inside, outside]))
    passing = np.array([(inside >= x).sum() for x in thresholds])
    wrong = np.abs(100 * passing - 95 * len(inside))  # whole numbers
    best = max(passing[wrong == wrong.min()])
    return float(np.mean(outside >= thresholds[passing == best].min()))


def strict_fpr95(inside: np.ndarray, outside: np.ndarray) -> float:
    """GalLoP's: n images in distribution are accepted, the nearest number to 95 % of them.

    Others count as accepted where they score strictly better than the next image in distribution.

    Args:
      inside: scores, high out of distribution.
      outside: scores of the others.
    """
    accepted = np.arange(len(inside))
    wrong = np.abs(100 * accepted - 95 * len(inside))
    n = accepted[wrong == wrong.min()].max()
    return float(np.mean(outside < np.sort(inside)[n]))
