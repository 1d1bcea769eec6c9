"""CLIP's image transforms on Pillow images, as torchvision defines them."""

import dataclasses
import math

import numpy as np
from PIL import Image

# Goes into every result; raise it when the same image would become other pixels.
VERSION = 1
INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
SHORTEST, SQUASH = MODES = ("shortest", "squash")


@dataclasses.dataclass(frozen=True)
class Resize:
    """How an image becomes the square that a CLIP sees.

    Attributes:
      size: R, its side in pixels.
      mode: "shortest" makes the short side R and takes the centre square, "squash" both sides.
      interpolation: "bicubic" or "bilinear".
    """

    size: int
    mode: str = SHORTEST
    interpolation: str = "bicubic"

    @property
    def unusual(self) -> bool:
        """Whether this is not as CLIP has it."""
        return self != Resize(self.size)

    def __str__(self) -> str:
        how = f"resized to {self.size} by {self.interpolation}"
        if self.mode == SQUASH:
            return f"both sides {how}"
        return f"the short side {how}, then the centre square"


def resize_and_crop(image: Image.Image, resize: Resize) -> np.ndarray:
    """The whole image or its centre as the square that `resize` says; uint8 (R, R, 3)."""
    size, filter_ = resize.size, INTERPOLATIONS[resize.interpolation]
    if resize.mode == SQUASH:
        return np.asarray(image.resize((size, size), filter_))
    width, height = (size * side // min(image.size) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    image = image.resize((width, height), filter_)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def random_resized_crop(
    image: Image.Image, resize: Resize, scale: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """A random part of the image, both sides of which become R; uint8 (R, R, 3).

    Args:
      image: RGB.
      resize: R and the interpolation.
      scale: range of the part's area, as a share of the image's.
      rng: source of randomness.
    """
    box, size = _random_box(*image.size, scale, rng), (resize.size, resize.size)
    return np.asarray(image.crop(box).resize(size, INTERPOLATIONS[resize.interpolation]))


def _random_box(width: int, height: int, scale, rng) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return left, top, left + w, top + h
    # Ten misses: the largest centre part of an allowed ratio.
    w = min(width, round(height * 4 / 3))
    h = min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def flip(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors left and right every second time."""
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels
