"""Class names laid out for the text tower: sorted by length, dealt out to devices and passes.

A sequence's rows behind its end-of-text token are dead weight, so names of about the same length
go together. Sorted names are dealt out like cards: every device and pass then gets nearly the same
lengths, and so one program serves all.
"""

from collections.abc import Iterator

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from sotglp_jax.clip.tokenizer import Tokens

STEP = 2  # lengths are rounded up to a multiple, for fewer and larger attention products


@struct.dataclass
class Names:
    """Names of about one length, on d devices in g passes of each.

    Attributes:
      ids: tokens without [SOS], filled up with zeros.
      eot: position of the end-of-text token among them.
      split: tokens that a context may be put behind.
    """

    ids: Int[Array, "d g n L"]
    eot: Int[Array, "d g n"]
    split: Int[Array, "d g n"]


@struct.dataclass
class PackedClasses:
    """The names of C classes in R >= C places, device by device and pass by pass.

    Attributes:
      start: id of [SOS].
      names: longest first.
      members: the class at each place, in the order of `names`; any class at an empty place.
      places: the place of each class.
    """

    start: Int[Array, ""]
    names: tuple[Names, ...]
    members: Int[Array, "d g n"]
    places: Int[Array, " C"]

    @property
    def devices(self) -> int:
        """The number of devices that the names are laid out for."""
        return self.members.shape[0]


def pack(tokens: Tokens, *, devices: int = 1, chunk: int = 0) -> PackedClasses:
    """Lays out class names.

    Args:
      tokens: [SOS] name [EOT] of every class.
      devices: that share the names.
      chunk: most classes in a pass of one device; 0 for one pass.
    """
    eot = np.asarray(tokens.eot) - 1  # without [SOS]
    passes = -(-len(eot) // (devices * chunk)) if chunk else 1
    hands = _deal(eot, devices * passes)
    shape = (devices, passes, -1)
    places = np.zeros(len(eot), np.int32)
    places[hands[hands >= 0]] = np.flatnonzero(hands >= 0)
    split = np.broadcast_to(tokens.split, eot.shape)
    return PackedClasses(
        start=tokens.ids[0, 0],
        names=tuple(_names(tokens.ids[:, 1:], eot, split, hands, shape)),
        members=np.maximum(hands, 0).reshape(shape).astype(np.int32),
        places=places,
    )


def _deal(eot: np.ndarray, hands: int) -> np.ndarray:
    """Classes for each of the hands, (hands, n), longest first; -1 is an empty place."""
    places = np.full((-(-len(eot) // hands), hands), -1)
    places.flat[: len(eot)] = np.argsort(-eot, kind="stable")
    return places.T


def _names(ids, eot, split, hands: np.ndarray, shape: tuple) -> Iterator[Names]:
    """The names of all hands, by length."""
    ids, eot, split = (
        np.where((hands < 0).reshape(*hands.shape, *(1,) * (x.ndim - 1)), 0, x[hands])
        for x in (ids, eot, split)
    )
    longest = eot.max(axis=0) + 1
    lengths = np.minimum(-(-longest // STEP) * STEP, ids.shape[-1])
    for length in np.unique(lengths)[::-1]:
        same = lengths == length
        yield Names(
            ids[:, same, :length].reshape(*shape, length).astype(np.int32),
            eot[:, same].reshape(shape).astype(np.int32),
            split[:, same].reshape(shape).astype(np.int32),
        )


@jax.custom_vjp
def deal(rows: Float[Array, "C ..."], names: PackedClasses) -> Float[Array, "d g n ..."]:
    """Hands the row of every class to the place of its name."""
    return rows[names.members]


def _collect(names: PackedClasses, cotangent: Float[Array, "d g n ..."]):
    """A gather: left to itself, it would be a scatter into a whole array on every device."""
    return cotangent.reshape(-1, *cotangent.shape[3:])[names.places], None


deal.defvjp(lambda rows, names: (deal(rows, names), names), _collect)
