"""Class names laid out for the text tower: sorted by length, dealt out to devices and passes.

A sequence's rows behind its end-of-text token are dead weight, so names of about the same length
go together. Sorted names are dealt out like cards: every device and pass then gets nearly the same
lengths, and so one program serves all.
"""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from sotglp_jax.clip.tokenizer import Tokens

STEP = 2  # lengths are rounded up to a multiple, for fewer and larger attention products


@struct.dataclass
class Names:
    """Names of about one length: tokens without [SOS], filled up with zeros.

    The leading axes are k x d devices and g passes of each.
    """

    ids: Int[Array, "k d g n L"]
    eot: Int[Array, "k d g n"]


@struct.dataclass
class PackedClasses:
    """The names of C classes in R >= C places, device by device and pass by pass.

    Attributes:
      start: id of [SOS].
      names: longest first.
      members: for each name, in the order of `names`, where its class's own prompts are.
      places: the place of each class.
      mask: False for empty places.
    """

    start: Int[Array, ""]
    names: tuple[Names, ...]
    members: Int[Array, "k d g n"]
    places: Int[Array, " C"]
    mask: Bool[Array, " R"]


def pack(tokens: Tokens, *, devices: tuple[int, int] = (1, 1), chunk: int = 0) -> PackedClasses:
    """Lays out class names.

    Args:
      tokens: [SOS] name [EOT] of every class.
      devices: along the mesh axes 'class' and 'data'.
      chunk: most classes in a pass of one device; 0 for one pass.
    """
    eot = np.asarray(tokens.eot) - 1  # without [SOS]
    on_device = -(-len(eot) // int(np.prod(devices)))
    passes = -(-on_device // chunk) if chunk else 1
    hands = _deal(eot, int(np.prod(devices)) * passes)
    shape = (*devices, passes, -1)
    places = np.zeros(len(eot), np.int32)
    places[hands[hands >= 0]] = np.flatnonzero(hands >= 0)
    return PackedClasses(
        start=tokens.ids[0, 0],
        names=tuple(_names(tokens.ids[:, 1:], eot, hands, shape)),
        members=np.maximum(hands, 0).reshape(shape).astype(np.int32),
        places=places,
        mask=hands.ravel() >= 0,
    )


def arrange(own: Float[Array, "C ..."], classes: PackedClasses) -> Float[Array, "R ..."]:
    """A row for each class at the classes' places, zeros at empty ones."""
    mask = classes.mask.reshape(-1, *(1,) * (own.ndim - 1))
    return jnp.where(mask, own[classes.members.ravel()], 0)


def _deal(eot: np.ndarray, hands: int) -> np.ndarray:
    """Classes for each of the hands, (hands, n), longest first; -1 is an empty place."""
    places = np.full((-(-len(eot) // hands), hands), -1)
    places.flat[: len(eot)] = np.argsort(-eot, kind="stable")
    return places.T


def _names(ids: np.ndarray, eot: np.ndarray, hands: np.ndarray, shape: tuple) -> Iterator[Names]:
    """The names of all hands, by length."""
    empty = hands < 0
    ids, eot = np.where(empty[..., None], 0, ids[hands]), np.where(empty, 0, eot[hands])
    longest = eot.max(axis=0) + 1
    lengths = np.minimum(-(-longest // STEP) * STEP, ids.shape[-1])
    for length in np.unique(lengths)[::-1]:
        same = lengths == length
        yield Names(
            ids[:, same, :length].reshape(*shape, length).astype(np.int32),
            eot[:, same].reshape(shape).astype(np.int32),
        )
