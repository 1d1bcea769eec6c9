"""CLIP's image transforms on Pillow images, as torchvision defines them."""

import math

import numpy as np
from PIL import Image

# Goes into every result; raise it when the same image would become other pixels.
VERSION = 1
BICUBIC = Image.Resampling.BICUBIC


def resize_and_crop(image: Image.Image, size: int) -> np.ndarray:
    """Short side to `size` by bicubic interpolation, then the centre square; uint8 (R, R, 3)."""
    width, height = (size * side // min(image.size) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    image = image.resize((width, height), BICUBIC)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def random_resized_crop(
    image: Image.Image, size: int, scale: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """A random part of the image at `size`; uint8 (R, R, 3).

    Args:
      image: RGB.
      size: R.
      scale: range of the part's area, as a share of the image's.
      rng: source of randomness.
    """
    box = _random_box(*image.size, scale, rng)
    return np.asarray(image.crop(box).resize((size, size), BICUBIC))


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
