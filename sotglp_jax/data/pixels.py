"""Pixels of image files: RGB, eight bits."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

try:
    import pillow_heif
except ImportError:  # the extra `heif`
    READS_HEIF = False
else:
    pillow_heif.register_heif_opener()
    READS_HEIF = True

# What puts an image upright, by its EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DARK = 4096  # of 65536: what holds nothing above it has fewer bits than it says


def read_image(file: Path | BinaryIO, upright: bool = False) -> Image.Image:
    """Decodes a file of any mode to RGB; see `to_rgb`.

    Raises:
      OSError: the file is missing, no image, or cut short, or its pixels have no known range.
    """
    with Image.open(file) as image:
        image.load()
        return to_rgb(image, upright)


def explain(error: Exception, name: str) -> str:
    """What an error says of an image file of this name, without the name."""
    if isinstance(error, UnidentifiedImageError):
        return "it holds no image of a known kind"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return said.replace(repr(name), "the file").replace(name, "the file").rstrip(".")


def to_rgb(image: Image.Image, upright: bool = False) -> Image.Image:
    """RGB of an image of any mode; of 16 bits, the high byte.

    Args:
      image: a Pillow image.
      upright: turns it as its EXIF orientation says, if that can be read, and puts what is
        transparent on white, as viewers do. CLIP's reference code does neither, and drops
        transparency.

    Raises:
      OSError: pixels without a known range: floats, 32-bit integers, and 12 bits in 16.
    """
    if upright and (turn := TURNS.get(_orientation(image))) is not None:
        image = image.transpose(turn)
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


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, as stored, where there is none or the EXIF data are damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # many kinds, by what is damaged; the pixels are sound all the same
        return 1
