"""CLIP's text transformer, entered with embeddings so that prompts can be learned.

Attention is causal. So sequences that begin alike have the same hidden states there, and whatever
stands behind the end-of-text token changes nothing: a trunk is computed once for all branches that
go on from it, and branches are grouped by length.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from sotglp_jax.clip.layers import (
    KEPT,
    Block,
    LayerNorm,
    attend,
    keep_products,
    product_precision,
)


@struct.dataclass
class Branch:
    """The ends of n · N sequences.

    Attributes:
      embeddings: of tokens or prompts, without positions.
      eot: position of the end-of-text token among them, the same for all N.
      start: tokens of the trunk that stand before them. 1 is [SOS] alone, of which there is but
        one; otherwise branch N goes on from row N of the trunk.
    """

    embeddings: Float[Array, "n N L W"]
    eot: Int[Array, " n"]
    start: int = struct.field(pytree_node=False)


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
    """The opposite: every row from its own sequence."""
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


class TextBlock(Block):
    """One causal layer; with `ends` given, only the tokens there come out, one a sequence."""

    def __call__(self, rows, ends=None):
        x, layout = rows.x, rows.layout
        h = self.ln_1(x)
        k, v = (to_sequences(layout, self.split_heads(dense(h))) for dense in (self.k, self.v))
        at = np.arange(k.shape[1])[None]
        if ends is None:
            q = to_sequences(layout, self.split_heads(self.q(h)))
        else:
            at = ends[:, None]
            x = x[jnp.asarray(layout.rows)[np.arange(len(ends)), ends]]
            q = self.split_heads(self.q(self.ln_1(x)))[:, None]
        may_see = np.arange(k.shape[1]) <= at[..., None]
        attended = attend(q, k, v, may_see[:, None])
        attended = to_rows(layout, attended) if ends is None else attended[:, 0]
        x = self.mlp(checkpoint_name(x + self.out(attended), KEPT))
        return (rows.replace(x=x) if ends is None else x), None


class TextTransformer(nn.Module):
    """The frozen text tower.

    Attributes:
      vocab_size: rows of the token embedding.
      context_length: positions that CLIP was trained with.
      width: D_t.
      layers: number of layers.
      heads: number of heads.
      mlp_width: hidden width of the MLPs.
      embed_dim: D.
      activation: a key of `ACTIVATIONS`.
      dtype: dtype of the matrix products; everything else is float32.
    """

    vocab_size: int
    context_length: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    embed_dim: int
    activation: str
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        sizes = (self.width, self.heads, self.mlp_width, self.activation, self.dtype)
        init = nn.initializers.normal(0.02)
        self.token_embedding = self.param("token_embedding", init, (self.vocab_size, self.width))
        self.positional_embedding = self.param(
            "positional_embedding", init, (self.context_length, self.width)
        )
        self.text_projection = self.param(
            "text_projection",
            nn.initializers.normal(self.width**-0.5),
            (self.width, self.embed_dim),
        )
        self.ln_final = LayerNorm()
        if self.layers > 1:
            self.blocks = nn.scan(
                keep_products(TextBlock),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.layers - 1,
            )(*sizes)
        self.last = TextBlock(*sizes)

    def __call__(
        self, embeddings: Float[Array, "n L W"], eot: Int[Array, " n"]
    ) -> Float[Array, "n D"]:
        """Features at the end-of-text positions, projected, not normalised, float32.

        L may be any length that holds the longest sequence.

        Args:
          embeddings: token or prompt embeddings without positions.
          eot: position of the end-of-text token in each sequence.
        """
        return self.branches(None, [Branch(embeddings[:, None], eot, start=0)])[0][:, 0]

    def branches(
        self, trunk: Float[Array, "N L W"] | None, branches: Sequence[Branch]
    ) -> list[Float[Array, "n N D"]]:
        """The same for sequences that begin alike.

        Args:
          trunk: beginnings without positions, [SOS] first; None where no branch has a start.
          branches: those that go on from the whole trunk before those that go on from [SOS].
        """
        parts = [(b.embeddings, b.start) for b in branches]
        ends = [jnp.repeat(b.start + b.eot, b.embeddings.shape[1]) for b in branches]
        if trunk is not None:
            parts, ends = [(trunk[None], 0), *parts], [jnp.zeros(len(trunk), int), *ends]
        x, _ = self.last(self.through_blocks(parts), jnp.concatenate(ends))
        features = jnp.matmul(
            self.ln_final(x), self.text_projection, precision=product_precision(jnp.float32)
        )
        cuts = np.cumsum([len(end) for end in ends])
        features = jnp.split(features, cuts[:-1])[-len(branches) :]
        return [
            x.reshape(*b.embeddings.shape[:2], self.embed_dim)
            for x, b in zip(features, branches, strict=True)
        ]

    def through_blocks(self, parts: Sequence[tuple[Float[Array, "n N L W"], int]]) -> Rows:
        """Embeddings and where they start, through all layers but the last."""
        position = self.positional_embedding
        x = [part + position[start : start + part.shape[2]] for part, start in parts]
        layout = Layout(tuple((*part.shape[:3], start) for part, start in parts))
        rows = Rows(jnp.concatenate([y.reshape(-1, self.width) for y in x]), layout)
        return self.blocks(rows, None)[0] if self.layers > 1 else rows

    def embed(self, ids: Int[Array, "..."]) -> Float[Array, "... W"]:
        """Token embeddings, without positions."""
        return self.token_embedding[ids]
