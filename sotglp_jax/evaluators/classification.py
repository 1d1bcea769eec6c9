"""Top-1 accuracy of every classifier of a run."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Float, Int

CONFUSION = "confusion.npz"  # in a run folder


def predict(logits: Mapping[str, Float[Array, "B C"]]) -> dict[str, Int[Array, " B"]]:
    """The class that each classifier gives to every image; of equal logits the first."""
    return {name: x.argmax(-1) for name, x in logits.items()}


def accuracy(predicted: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"]) -> float:
    """The share of the images whose class is the predicted one, in [0, 1]."""
    return float(np.mean(predicted == labels))


def confusion(
    predicted: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], classes: int
) -> Int[np.ndarray, "C C"]:
    """The number of images by true class and by predicted class, int32."""
    counts = np.zeros((classes, classes), np.int32)
    np.add.at(counts, (labels, predicted), 1)
    return counts
