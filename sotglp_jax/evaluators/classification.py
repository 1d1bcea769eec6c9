"""Top-1 accuracy of every classifier of a run, and what the deciding one says of every image."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sotglp_jax import workdir

FILE = "predictions.npz"  # in a run folder
BINS = 15  # of the probabilities, as usual for the calibration error


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What the deciding logits of a run say of its test images.

    Attributes:
      label: true classes.
      predicted: classes that were given.
      probability: of these, the softmax of the logits.
      own: the probability of the true class.
    """

    label: Int[np.ndarray, " n"]
    predicted: Int[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]
    own: Float[np.ndarray, " n"]

    @property
    def correct(self) -> np.ndarray:
        """Whether the class is right, bool (n,)."""
        return self.label == self.predicted

    @property
    def mistakes(self) -> Int[np.ndarray, " m"]:
        """Positions of the images with a wrong class, the most confident first."""
        wrong = np.flatnonzero(~self.correct)
        return wrong[np.argsort(-self.probability[wrong], kind="stable")]


def predict(logits: Mapping[str, Float[Array, "B C"]]) -> dict[str, Int[Array, " B"]]:
    """The class that each classifier gives to every image; of equal logits the first."""
    return {name: x.argmax(-1) for name, x in logits.items()}


def chances(logits: Float[Array, "B C"], labels: Int[Array, " B"]) -> dict[str, Float[Array, " B"]]:
    """The probabilities in `Predictions`; those of padding, whose label is -1, mean nothing."""
    found = jax.nn.softmax(logits.astype(jnp.float32))
    own = jnp.take_along_axis(found, labels[:, None], axis=-1)[:, 0]
    return {"probability": found.max(-1), "own": own}


def accuracy(predicted: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"]) -> float:
    """The share of the images whose class is the predicted one, in [0, 1]."""
    return float(np.mean(predicted == labels))


def confusion(predictions: Predictions, classes: int) -> Int[np.ndarray, "C C"]:
    """The number of images by true class and by predicted class, int32."""
    counts = np.zeros((classes, classes), np.int32)
    np.add.at(counts, (predictions.label, predictions.predicted), 1)
    return counts


def reliability(predictions: Predictions) -> Float[np.ndarray, "k 3"]:
    """Images, mean probability and accuracy of each of `BINS` bins of equal width.

    The probability is that of the predicted class. A bin without images is all zeros.
    """
    bins = np.minimum((predictions.probability * BINS).astype(int), BINS - 1)
    values = (np.ones(len(bins)), predictions.probability, predictions.correct)
    count, *sums = (np.bincount(bins, x, minlength=BINS) for x in values)
    return np.stack([count, *(x / np.maximum(count, 1) for x in sums)], axis=1)


def calibration_error(predictions: Predictions) -> float:
    """ECE: |mean probability - accuracy| of the bins of `reliability`, in the mean over images."""
    count, probability, correct = reliability(predictions).T
    return float(np.sum(count * np.abs(probability - correct)) / count.sum())


def load(folder: Path) -> Predictions:
    """Loads the predictions of a run folder.

    Raises:
      InputError: it holds none, or they are damaged.
    """
    with workdir.read_arrays(folder / FILE, "missing or damaged") as found:
        return Predictions(**found)
