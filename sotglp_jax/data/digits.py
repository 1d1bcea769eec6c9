"""The embedded data set: scikit-learn's 1 797 handwritten digits."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image

from sotglp_jax.data.sources import Dataset

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZE = 64
# The file's order: neighbours share a writer, so the parts are blocks, not a shuffle.
PARTS = {"train": (0, 700), "val": (700, 900), "test": (900, 1797)}


@functools.cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


@dataclasses.dataclass(frozen=True)
class Digits:
    """Some digits of the file, white on black, 8x8 pixels drawn at 64x64.

    Attributes:
      positions: in the file.
    """

    positions: Sequence[int]

    @property
    def labels(self) -> tuple[int, ...]:
        """The digits."""
        return tuple(_load()[1][list(self.positions)].tolist())

    @property
    def names(self) -> tuple[str, ...]:
        """Positions in scikit-learn's file."""
        return tuple(f"digits/{i:04d}" for i in self.positions)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> dict:
        position = self.positions[index]
        images, labels = _load()
        grey = Image.fromarray(np.rint(images[position] * (255 / 16)).astype(np.uint8))
        image = grey.resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB")
        return {"image": image, "label": int(labels[position]), "name": f"digits/{position:04d}"}

    def take(self, indices: Sequence[int]) -> "Digits":
        """Some of the digits, in the given order."""
        return Digits(tuple(self.positions[i] for i in indices))


def digits() -> Dataset:
    """The data set with its fixed parts: 700 for training, 200 for validation, 897 for testing."""
    parts = {part: Digits(range(*ends)) for part, ends in PARTS.items()}
    return Dataset("digits", CLASS_NAMES, "a photo of the number {}.", **parts)
