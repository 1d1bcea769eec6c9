"""CLIP's text transformer, entered with embeddings so that prompts can be learned."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from sotglp_jax.clip.layers import Block, LayerNorm, attend, product_precision


class TextBlock(Block):
    """One causal layer; with `eot` given, only those positions come out, as (n, 1, W)."""

    def __call__(self, x, eot=None):
        length = x.shape[1]
        mask = jnp.tril(jnp.ones((length, length), bool))
        h = self.ln_1(x)
        k, v = self.split_heads(self.k(h)), self.split_heads(self.v(h))
        if eot is not None:
            at_eot = eot[:, None, None]
            mask = jnp.arange(length) <= at_eot[..., None]
            x, h = (jnp.take_along_axis(y, at_eot, axis=1) for y in (x, h))
        x = x + self.out(attend(self.split_heads(self.q(h)), k, v, mask))
        return self.mlp(x), None


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
                TextBlock,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.layers - 1,
            )(*sizes)
        self.last = TextBlock(*sizes)

    def __call__(
        self, embeddings: Float[Array, "n L W"], eot: Int[Array, " n"]
    ) -> Float[Array, "n D"]:
        """Features at the end-of-text positions, projected, not normalised, float32.

        Attention is causal, so whatever stands behind `eot` changes nothing and L may be any
        length that holds the longest sequence.

        Args:
          embeddings: token or prompt embeddings without positions.
          eot: position of the end-of-text token in each sequence.
        """
        x = embeddings + self.positional_embedding[: embeddings.shape[1]]
        if self.layers > 1:
            x, _ = self.blocks(x, None)
        x, _ = self.last(x, eot)
        return jnp.matmul(
            self.ln_final(x[:, 0]), self.text_projection, precision=product_precision(jnp.float32)
        )

    def embed(self, ids: Int[Array, "..."]) -> Float[Array, "... W"]:
        """Token embeddings, without positions."""
        return self.token_embedding[ids]
