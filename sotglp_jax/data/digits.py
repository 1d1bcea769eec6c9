"""The embedded data set: scikit-learn's 1 797 handwritten digits."""

import functools

import numpy as np
from PIL import Image

from sotglp_jax.data.sources import Dataset, Source

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZE = 64
# The file's order: neighbours share a writer, so the parts are blocks, not a shuffle.
PARTS = {"train": (0, 700), "val": (700, 900), "test": (900, 1797)}


@functools.cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


def draw(position: int) -> Image.Image:
    """A digit of the file, white on black, 8x8 pixels drawn at 64x64."""
    grey = Image.fromarray(np.rint(_load()[0][position] * (255 / 16)).astype(np.uint8))
    return grey.resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB")


def source(positions: range) -> Source:
    """Some digits, by their positions in the file."""
    labels = tuple(_load()[1][positions.start : positions.stop].tolist())
    names = tuple(f"digits/{i:04d}" for i in positions)
    return Source(draw, positions, names, labels, "digits")


def digits() -> Dataset:
    """The data set with its fixed parts: 700 for training, 200 for validation, 897 for testing."""
    parts = {part: source(range(*ends)) for part, ends in PARTS.items()}
    return Dataset("digits", CLASS_NAMES, "a photo of the number {}.", **parts)
