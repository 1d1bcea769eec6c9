"""CLIP's text transformer, entered with embeddings so that prompts can be learned.

Attention is causal. So sequences that begin alike have the same hidden states there, and whatever
stands behind the end-of-text token changes nothing: a trunk is computed once for all branches that
go on from it, and branches are grouped by length.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

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


class Segment(NamedTuple):
    """Rows of a layer's input that are equally long sequences: its (n, N, L), and its start."""

    shape: tuple[int, int, int]
    start: int


@struct.dataclass
class Rows:
    """All tokens as one matrix, so that every dense layer is one large product."""

    x: Float[Array, "T W"]
    segments: tuple[Segment, ...] = struct.field(pytree_node=False)

    def split(self, x: Float[Array, "T ..."]) -> list[Float[Array, "n N L ..."]]:
        """Cuts a matrix of these rows into segments."""
        cuts = np.cumsum([math.prod(segment.shape) for segment in self.segments])
        parts = jnp.split(x, cuts[:-1])
        return [
            p.reshape(*s.shape, *x.shape[1:]) for p, s in zip(parts, self.segments, strict=True)
        ]

    def at(self, ends: Sequence[Int[Array, " n"]]) -> "Rows":
        """Of the last segments, the tokens at these positions alone."""
        parts = self.split(self.x)[-len(ends) :]
        taken = [
            jnp.take_along_axis(part, end[:, None, None, None], axis=2)
            for part, end in zip(parts, ends, strict=True)
        ]
        return join(taken, [segment.start for segment in self.segments[-len(ends) :]])


def join(parts: Sequence[Float[Array, "n N L W"]], starts: Sequence[int]) -> Rows:
    """Segments as one matrix; the opposite of `Rows.split`."""
    x = jnp.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])
    segments = [Segment(part.shape[:3], start) for part, start in zip(parts, starts, strict=True)]
    return Rows(x, tuple(segments))


def after_trunk(
    trunk: Float[Array, "1 N L H h"], own: Float[Array, "n N S H h"], start: int
) -> Float[Array, "n N start+S H h"]:
    """Keys or values that a segment looks at: the trunk's, then its own."""
    if not start:
        return own
    before = trunk[:, : 1 if start == 1 else None, :start]
    before = jnp.broadcast_to(before, (*own.shape[:2], *before.shape[2:]))
    return jnp.concatenate([before, own], axis=2)


class TextBlock(Block):
    """One causal layer; with `ends` given, only those positions of the last segments come out."""

    def __call__(self, rows, ends=None):
        h = rows.replace(x=self.ln_1(rows.x))
        keys, values = (rows.split(self.split_heads(dense(h.x))) for dense in (self.k, self.v))
        trunk = keys[0], values[0]
        if ends is not None:
            rows, h = rows.at(ends), h.at(ends)
        queries = rows.split(self.split_heads(self.q(h.x)))
        attended = []
        for i in range(-len(queries), 0):
            (n, _, length), start = rows.segments[i]
            at = jnp.arange(length)[None] if ends is None else ends[i][:, None]
            k, v = (
                after_trunk(t, own[i], start) for t, own in zip(trunk, (keys, values), strict=True)
            )
            may_see = jnp.arange(k.shape[2]) <= start + at[..., None]
            attended.append(attend(queries[i], k, v, may_see[:, None, None]))
        x = rows.x + self.out(jnp.concatenate([y.reshape(-1, self.width) for y in attended]))
        return rows.replace(x=self.mlp(checkpoint_name(x, KEPT))), None


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
          branches: see there.
        """
        parts, starts = [b.embeddings for b in branches], [b.start for b in branches]
        if trunk is not None:
            parts, starts = [trunk[None], *parts], [0, *starts]
        position = self.positional_embedding
        rows = join(
            [x + position[s : s + x.shape[2]] for x, s in zip(parts, starts, strict=True)], starts
        )
        if self.layers > 1:
            rows, _ = self.blocks(rows, None)
        rows, _ = self.last(rows, [b.eot for b in branches])
        features = jnp.matmul(
            self.ln_final(rows.x), self.text_projection, precision=product_precision(jnp.float32)
        )
        return [x[:, :, 0] for x in rows.split(features)]

    def embed(self, ids: Int[Array, "..."]) -> Float[Array, "... W"]:
        """Token embeddings, without positions."""
        return self.token_embedding[ids]
