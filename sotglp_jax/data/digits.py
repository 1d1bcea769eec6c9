"""The embedded data set: scikit-learn's 1 797 handwritten digits."""

import dataclasses
import functools

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
    """Digits `start` to `stop` of the file; white on black, 8x8 pixels drawn at 64x64."""

    start: int
    stop: int

    @property
    def labels(self) -> tuple[int, ...]:
        """The digits."""
        return tuple(_load()[1][self.start : self.stop].tolist())

    @property
    def names(self) -> tuple[str, ...]:
        """Positions in scikit-learn's file."""
        return tuple(f"digits/{i:04d}" for i in range(self.start, self.stop))

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> dict:
        index = range(self.start, self.stop)[index]
        images, labels = _load()
        grey = Image.fromarray(np.rint(images[index] * (255 / 16)).astype(np.uint8))
        image = grey.resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB")
        return {"image": image, "label": int(labels[index]), "name": f"digits/{index:04d}"}


def digits() -> Dataset:
    """The data set with its fixed parts: 700 for training, 200 for validation, 897 for testing."""
    parts = {part: Digits(*ends) for part, ends in PARTS.items()}
    return Dataset("digits", CLASS_NAMES, "a photo of the number {}.", **parts)
