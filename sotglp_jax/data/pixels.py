"""Pixels of image files: RGB, eight bits."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

try:
    import pillow_heif
except ImportError:  # the extra `heif`
    READS_HEIF = False
else:
    pillow_heif.register_heif_opener()
    READS_HEIF = True

DARK = 4096  # of 65536: what holds nothing above it has fewer bits than it says


def read_image(file: Path | BinaryIO, upright: bool = False) -> Image.Image:
    """Decodes a file of any mode to RGB; see `to_rgb`.

    Raises:
      OSError: the file is missing, no image, or cut short, or its pixels have no known range.
    """
    with Image.open(file) as image:
        image.load()
        return to_rgb(image, upright)


def to_rgb(image: Image.Image, upright: bool = False) -> Image.Image:
    """RGB of an image of any mode; of 16 bits, the high byte.

    Args:
      image: a Pillow image.
      upright: turns it as its EXIF orientation says, and puts what is transparent on white, as
        viewers do. CLIP's reference code does neither, and drops transparency.

    Raises:
      OSError: pixels without a known range: floats, 32-bit integers, and 12 bits in 16.
    """
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):  # convert() would clip everything above 255 to white
        pixels = np.asarray(image)
        if 0 < pixels.max() < DARK:
            raise OSError("16-bit pixels, all nearly black, as 12 bits make them: save 8 bits")
        return Image.fromarray((pixels >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = {"I": "32-bit integer", "F": "floating-point"}[image.mode]
        raise OSError(f"{kind} pixels, whose white is not known: save them with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if upright:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
    return image.convert("RGB")
