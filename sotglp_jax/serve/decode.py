"""Pictures out of a request, which nobody vouches for."""

import functools
import io
import time

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sotglp_jax.data import pictures
from sotglp_jax.data.files import FORMATS
from sotglp_jax.data.transforms import Resize
from sotglp_jax.serve.limits import Limits

# Of an encoded picture between two looks at the clock. A progressive JPEG of ten thousand scans,
# each a few bytes and a pass over all pixels, would take hours.
PIECE = 4096


def load(content: bytes, resize: Resize, limits: Limits) -> UInt8[np.ndarray, "R R 3"]:
    """What `data.pictures.load` gives of a file, here of its content.

    The time is looked at between pieces of the content. A decoder that takes all of it at once
    (WebP, AVIF, HEIF, JPEG 2000) is held by the number of pixels alone.

    Args:
      content: of an image file in one of `data.files.FORMATS`; Pillow's other decoders, one of
        which starts a program, never see it.
      resize: as the classifier has it.
      limits: of pixels, before any is decoded, and of seconds.

    Raises:
      InputError: it cannot be read or is beyond a limit.
    """
    return pictures.explained(functools.partial(_load, content, resize, limits), "the picture")


def _load(content: bytes, resize: Resize, limits: Limits) -> np.ndarray:
    Image.init()
    file = _Timed(content, time.monotonic() + limits.seconds)
    with Image.open(file, formats=sorted(FORMATS & Image.OPEN.keys())) as image:
        if image.width * image.height > limits.pixels:
            raise ValueError(
                f"it has {image.width} x {image.height} pixels and at most {limits.pixels:,} are "
                "taken"
            )
        image.decodermaxblock = PIECE
        return pictures.decode(image, resize)


class _Timed(io.BytesIO):
    """Content that can be read until a time of the monotonic clock."""

    def __init__(self, content: bytes, deadline: float):
        super().__init__(content)
        self._deadline = deadline

    def read(self, size: int | None = -1) -> bytes:
        if time.monotonic() > self._deadline:
            raise TimeoutError("it takes too long to decode")
        return super().read(size)
