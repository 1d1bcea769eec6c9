"""CLIP's text transformer, entered with embeddings so that prompts can be learned.

Attention is causal. So sequences that begin alike have the same hidden states there, and whatever
stands behind the end-of-text token changes nothing: a trunk is computed once for all branches that
go on from it, and branches are grouped by length.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from sotglp_jax.clip.config import EPSILON
from sotglp_jax.clip.deep import Deep, by_layer
from sotglp_jax.clip.layers import KEPT, Block, LayerNorm, attend, keep_products, product_precision
from sotglp_jax.clip.ragged import Layout, Rows, to_rows, to_sequences


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


class TextBlock(Block):
    """One causal layer.

    With `ends` given, only the tokens there come out, one a sequence. `deep` replaces the states
    behind the trunk's first token.
    """

    def __call__(self, rows, deep=None, ends=None):
        x, layout = rows.x, rows.layout
        if deep is not None:
            n = len(deep.prompts)
            x = jnp.concatenate([x[:1], deep.replace_states(x[1 : 1 + n]), x[1 + n :]])
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
      epsilon: of the layer norms.
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
    epsilon: float = EPSILON

    def setup(self):
        sizes = (self.width, self.heads, self.mlp_width)
        sizes = (*sizes, self.activation, self.dtype, self.epsilon)
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
        self.ln_final = LayerNorm(self.epsilon)
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
        self,
        trunk: Float[Array, "N L W"] | None,
        branches: Sequence[Branch],
        deep: Float[Array, "k n W"] | None = None,
    ) -> list[Float[Array, "n N D"]]:
        """Features at the end-of-text positions of sequences that begin alike.

        Args:
          trunk: beginnings without positions, [SOS] first; None where no branch has a start.
          branches: those that go on from the whole trunk before those that go on from [SOS].
          deep: row j - 1 replaces the states of the trunk behind [SOS] before layer j; the trunk
            is then a single one of 1 + n tokens.

        Raises:
          InputError: `deep` has as many rows as there are layers, or more.
        """
        parts = [(b.embeddings, b.start) for b in branches]
        ends = [jnp.repeat(b.start + b.eot, b.embeddings.shape[1]) for b in branches]
        if trunk is not None:
            parts, ends = [(trunk[None], 0), *parts], [jnp.zeros(len(trunk), int), *ends]
        in_blocks, in_last = by_layer(deep, self.layers)
        rows = self.through_blocks(parts, in_blocks)
        x, _ = self.last(rows, in_last, jnp.concatenate(ends))
        features = jnp.matmul(
            self.ln_final(x), self.text_projection, precision=product_precision(jnp.float32)
        )
        cuts = np.cumsum([len(end) for end in ends])
        features = jnp.split(features, cuts[:-1])[-len(branches) :]
        return [
            x.reshape(*b.embeddings.shape[:2], self.embed_dim)
            for x, b in zip(features, branches, strict=True)
        ]

    def through_blocks(
        self, parts: Sequence[tuple[Float[Array, "n N L W"], int]], deep: Deep | None
    ) -> Rows:
        """Embeddings and where they start, through all layers but the last."""
        position = self.positional_embedding
        x = [part + position[start : start + part.shape[2]] for part, start in parts]
        layout = Layout(tuple((*part.shape[:3], start) for part, start in parts))
        rows = Rows(jnp.concatenate([y.reshape(-1, self.width) for y in x]), layout)
        return self.blocks(rows, deep)[0] if self.layers > 1 else rows

    def embed(self, ids: Int[Array, "..."]) -> Float[Array, "... W"]:
        """Token embeddings, without positions."""
        return self.token_embedding[ids]
