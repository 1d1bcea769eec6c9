"""Class names laid out for the text tower: sorted by length, dealt out to devices and passes.

A sequence's rows behind its end-of-text token are dead weight, so names of about the same length
go together. Sorted names are dealt out like cards: every device and pass then gets nearly the same
lengths, and so one program serves all.
"""

from collections.abc import Iterator

import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int

from sotglp_jax.clip.tokenizer import Tokens

STEP = 2  # lengths are rounded up to a multiple, for fewer and larger attention products


@struct.dataclass
class Names:
    """Names of about one length: tokens without [SOS], filled up with zeros.

    The leading axes are k parts of the classes, d devices that share a part, and g passes.
    """

    ids: Int[Array, "k d g n L"]
    eot: Int[Array, "k d g n"]


@struct.dataclass
class PackedClasses:
    """The names of C classes, of which the last may be padding so that k parts are equal.

    Attributes:
      start: id of [SOS].
      names: longest first.
      members: index of each name's class within its part; names of all lengths in a row.
      places: where each class of a part stands among the names of all its devices and passes.
      mask: False for padding.
    """

    start: Int[Array, ""]
    names: tuple[Names, ...]
    members: Int[Array, "k d g n"]
    places: Int[Array, "k c"]
    mask: Bool[Array, " C"]


def pack(tokens: Tokens, *, parts: int = 1, devices: int = 1, chunk: int = 0) -> PackedClasses:
    """Lays out class names.

    Args:
      tokens: [SOS] name [EOT] of every class.
      parts: into which the classes are divided, in their order.
      devices: that share a part.
      chunk: most classes in a pass of one device; 0 for one pass.
    """
    eot = np.asarray(tokens.eot) - 1  # without [SOS]
    size = -(-len(eot) // parts)
    passes = -(-size // devices // chunk) if chunk else 1
    hands = np.stack([_deal(eot, k * size, size, devices * passes) for k in range(parts)])
    shape = (parts, devices, passes, -1)
    first = size * np.arange(parts)[:, None, None]
    return PackedClasses(
        start=tokens.ids[0, 0],
        names=tuple(_names(tokens.ids[:, 1:], eot, hands, shape)),
        members=np.maximum(hands - first, 0).reshape(shape).astype(np.int32),
        places=_places(hands.reshape(parts, -1), size),
        mask=np.arange(parts * size) < len(eot),
    )


def _deal(eot: np.ndarray, first: int, size: int, hands: int) -> np.ndarray:
    """Classes of a part for each of the hands, (hands, n), longest first; -1 is an empty place."""
    classes = np.arange(first, min(first + size, len(eot)))
    places = np.full((-(-size // hands), hands), -1)
    places.flat[: len(classes)] = classes[np.argsort(-eot[classes], kind="stable")]
    return places.T


def _names(ids: np.ndarray, eot: np.ndarray, hands: np.ndarray, shape: tuple) -> Iterator[Names]:
    """The names of all hands, by length."""
    empty = hands < 0
    ids, eot = np.where(empty[..., None], 0, ids[hands]), np.where(empty, 0, eot[hands])
    longest = eot.max(axis=(0, 1)) + 1
    lengths = np.minimum(-(-longest // STEP) * STEP, ids.shape[-1])
    for length in np.unique(lengths)[::-1]:
        same = lengths == length
        yield Names(
            ids[:, :, same, :length].reshape(*shape, length).astype(np.int32),
            eot[:, :, same].reshape(shape).astype(np.int32),
        )


def _places(hands: np.ndarray, size: int) -> np.ndarray:
    """Where each class of a part stands in its hands; 0 for padding."""
    places = np.zeros((len(hands), size), np.int32)
    part, place = np.nonzero(hands >= 0)
    places[part, hands[part, place] - size * part] = place
    return places
