"""Pictures that users bring: files, Pillow images or arrays, of any size."""

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sotglp_jax.data import loader, transforms
from sotglp_jax.data.pixels import explain, to_rgb
from sotglp_jax.data.transforms import Resize
from sotglp_jax.errors import InputError
from sotglp_jax.paths import AnyPath, opened, place

Picture = str | os.PathLike | Image.Image | np.ndarray

LARGE = 32_000_000  # pixels of a picture above which memory counts
KEPT = 4  # times R: the least short side to which a large JPEG is reduced while it is decoded
LONGEST = 8  # times the short side; what is farther from the centre is cut off before resizing
_one_at_a_time = threading.Lock()  # large pictures


def ahead(
    pictures: Iterable[Picture], resize: Resize, count: int
) -> Iterator[UInt8[np.ndarray, "R R 3"] | InputError]:
    """What `read` gives for each picture in order, or the error that it raised.

    Args:
      pictures: read no faster than their results are taken.
      resize: see there.
      count: pictures that may be decoded before they are asked for.
    """
    pictures = iter(pictures)
    with concurrent.futures.ThreadPoolExecutor(loader.cores()) as pool:
        begin = functools.partial(pool.submit, _try, resize=resize)
        waiting = collections.deque(map(begin, itertools.islice(pictures, count)))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(map(begin, itertools.islice(pictures, 1)))


def _try(picture: Picture, resize: Resize) -> np.ndarray | InputError:
    try:
        return load(picture, resize)
    except InputError as error:
        return error


def load(picture: Picture, resize: Resize) -> UInt8[np.ndarray, "R R 3"]:
    """A picture as evaluation sees it, a square by `resize`.

    Large pictures are decoded one at a time. A JPEG among them is reduced while it is decoded, so
    that its pixels may differ from evaluation's by rounding.

    Args:
      picture: a file's name, a Pillow image, or an array (h, w), (h, w, 3) or (h, w, 4) of uint8 or
        of floats in [0, 1].
      resize: see there.

    Raises:
      InputError: it cannot be read, is too large for Pillow, or is no picture.
    """
    if isinstance(picture, str | os.PathLike):
        path = place(picture)
        return explained(functools.partial(_from_file, path, resize), str(picture))
    if isinstance(picture, Image.Image):
        return explained(functools.partial(_from_image, picture, resize), "the image")
    return _square(_from_array(np.asarray(picture)), resize)


def _from_file(path: AnyPath, resize: Resize) -> np.ndarray:
    with Image.open(opened(path)) as image:
        return decode(image, resize)


def decode(image: Image.Image, resize: Resize) -> UInt8[np.ndarray, "R R 3"]:
    """What `load` gives of a file that Pillow has opened for this alone and not decoded yet.

    Raises:
      Exception: of many kinds, by what is damaged; see `explained`.
    """
    large = image.width * image.height > LARGE
    with _one_at_a_time if large else contextlib.nullcontext():
        if large:
            image.draft("RGB", (KEPT * resize.size, KEPT * resize.size))
        image.load()
        return _square(image, resize)


def _from_image(image: Image.Image, resize: Resize) -> np.ndarray:
    with _one_at_a_time:  # Pillow decodes it at its first use, which two threads may make
        image.load()
    return _square(image, resize)


def _square(image: Image.Image, resize: Resize) -> np.ndarray:
    image = to_rgb(image, upright=True)
    seen = image if resize.mode == transforms.SQUASH else _middle(image)
    return transforms.resize_and_crop(seen, resize)


def explained(read: Callable[[], np.ndarray], name: str) -> np.ndarray:
    """What `read` gives; whatever it raises becomes an `InputError` about a picture's name."""
    try:
        return read()
    except FileNotFoundError:
        raise InputError(f"{name} is not there.") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} is refused: {str(error).rstrip('.')}.") from None
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise InputError(f"{name} cannot be read: {explain(error, name)}.") from None


def _from_array(pixels: np.ndarray) -> Image.Image:
    shape = pixels.shape
    if len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[2] not in (3, 4)):
        raise InputError(f"an array of shape {shape} is no image: give (h, w), or (h, w, 3).")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise InputError("an array of floats must be in [0, 1]: divide it, or give uint8.")
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise InputError(
            f"an array of {pixels.dtype} is no image: give uint8, or floats in [0, 1]."
        )
    return Image.fromarray(pixels)


def _middle(image: Image.Image) -> Image.Image:
    """The image without the ends of a very long side, which no centre square reaches."""
    width, height = image.size
    longest = LONGEST * min(image.size)
    if max(image.size) <= longest:
        return image
    w, h = min(width, longest), min(height, longest)
    left, top = (width - w) // 2, (height - h) // 2
    return image.crop((left, top, left + w, top + h))
