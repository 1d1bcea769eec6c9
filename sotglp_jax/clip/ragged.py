"""Sequences of unequal length, many of which begin alike, as the rows of one matrix."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the tokens of S sequences of at most L tokens are among T rows.

    All tokens as one matrix make a dense layer one large product; attention wants sequences.

    Attributes:
      parts: (n, N, length, start) of the trunk, where there is one, and of every branch, those
        that go on from the trunk before those that go on from [SOS].
    """

    parts: tuple[tuple[int, int, int, int], ...]

    @property
    def trunk(self) -> int:
        """Rows of the trunk."""
        _, prompts, length, _ = self.parts[0]
        return prompts * length if any(start for *_, start in self.parts) else 0

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The row of every token, (S, L) int32; behind a sequence's end, any row."""
        longest = max(length + start for _, _, length, start in self.parts)
        first, rows = 0, []
        for n, prompts, length, start in self.parts:
            own = first + np.arange(n * prompts * length).reshape(n * prompts, length)
            before = np.arange(start)[None]
            if start > 1:
                before = before + np.arange(prompts)[:, None] * start
            before = np.resize(before, (n * prompts, start))
            behind = np.zeros((n * prompts, longest - start - length), int)
            rows.append(np.concatenate([before, own, behind], axis=1))
            first += n * prompts * length
        return np.concatenate(rows).astype(np.int32)

    @functools.cached_property
    def places(self) -> np.ndarray:
        """Where each row's own sequence has it, (T,) int32, counted through (S, L)."""
        places = []
        for n, prompts, length, start in self.parts:
            inside = np.zeros((n * prompts, self.rows.shape[1]), bool)
            inside[:, start : start + length] = True
            places.append(inside)
        return np.flatnonzero(np.concatenate(places)).astype(np.int32)

    @property
    def sequences(self) -> tuple[int, int]:
        """Sequences of the trunk, and those that have all of it, themselves included."""
        counts = [n * prompts for n, prompts, *_ in self.parts]
        whole = [c for c, part in zip(counts, self.parts, strict=True) if part[3] > 1]
        return counts[0], counts[0] + sum(whole)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def to_sequences(layout: Layout, rows: Float[Array, "T ..."]) -> Float[Array, "S L ..."]:
    """Every sequence from its first token on."""
    return rows.at[layout.rows].get(mode="promise_in_bounds")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def to_rows(layout: Layout, sequences: Float[Array, "S L ..."]) -> Float[Array, "T ..."]:
    """Every row from its own sequence, which undoes `to_sequences`."""
    flat = sequences.reshape(-1, *sequences.shape[2:])
    return flat.at[layout.places].get(mode="promise_in_bounds")


def _rows_gradient(layout: Layout, _, cotangent):
    """A gather and sums: left to itself, it would be a scatter, one row after the other."""
    rows = to_rows(layout, cotangent)
    if not layout.trunk:
        return (rows,)
    trunk, on_trunk = layout.sequences
    length = layout.trunk // trunk
    of_trunk = cotangent[trunk:on_trunk, :length]
    of_trunk = of_trunk.reshape(-1, trunk, *of_trunk.shape[1:]).sum(0)
    of_trunk = of_trunk.reshape(layout.trunk, *of_trunk.shape[2:])
    of_sos = cotangent[on_trunk:, 0].sum(0)
    return (rows.at[: layout.trunk].add(of_trunk).at[0].add(of_sos),)


def _sequences_gradient(layout: Layout, _, cotangent):
    shape = (*layout.rows.shape, *(1,) * (cotangent.ndim - 1))
    own = np.zeros(layout.rows.size, bool)
    own[layout.places] = True
    return (jnp.where(own.reshape(shape), to_sequences(layout, cotangent), 0),)


to_sequences.defvjp(lambda layout, rows: (to_sequences(layout, rows), None), _rows_gradient)
to_rows.defvjp(lambda layout, x: (to_rows(layout, x), None), _sequences_gradient)


@struct.dataclass
class Rows:
    """The tokens of all sequences as one matrix."""

    x: Float[Array, "T W"]
    layout: Layout = struct.field(pytree_node=False)
