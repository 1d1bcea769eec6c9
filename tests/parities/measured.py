"""Detection as other code bases measure it, where our rules differ."""

import numpy as np


def fpr95(inside: np.ndarray, outside: np.ndarray) -> float:
    """LoCoOp's and LSN's: thresholds are all distinct scores; of equally good ones the lowest.

    Where all in distribution pass, it is the highest of them: their code stops there.

    Ours takes the scores in distribution alone.

    Args:
      inside: scores, high in distribution.
      outside: scores of the others.
    """
    thresholds = np.unique(np.concatenate([inside, outside]))
    passing = np.array([(inside >= x).sum() for x in thresholds])
    wrong = np.abs(100 * passing - 95 * len(inside))  # whole numbers
    best = max(passing[wrong == wrong.min()])
    equal = thresholds[passing == best]
    return float(np.mean(outside >= (equal.max() if best == len(inside) else equal.min())))


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
