"""CLIP's vision transformer with the value-value stream of SOT-GLP (paper, section 3.2)."""

import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from sotglp_jax.clip.layers import Block, Dense, LayerNorm, attend, product_precision

# Arguments of slice(), which itself is not hashable before Python 3.12.
EVERY, CLASS_TOKEN, PATCHES = (0, None), (0, 1), (1, None)


@struct.dataclass
class ImageFeatures:
    """What the frozen vision tower says of a batch, after `ln_post`, before any projection.

    Attributes:
      cls: class token of the original stream.
      patches: patch tokens of the V-V stream, or of the original one without V-V.
    """

    cls: Float[Array, "B W"]
    patches: Float[Array, "B P W"]


class DualBlock(Block):
    """One layer on both streams, from one attention input.

    The V-V stream has no MLP and no weights of its own: A = softmax(V Vᵀ/√h) per head, with V
    and the output projection of the original stream's layer (equation 2).

    Attributes:
      rows: the tokens of the original stream that are read after this layer.
      vv_rows: the same for the V-V stream.
    """

    rows: tuple[int, int | None] = EVERY
    vv_rows: tuple[int, int | None] = EVERY

    def __call__(self, streams, leak=None):
        z, z_vv = streams
        rows, vv_rows = slice(*self.rows), slice(*self.vv_rows)
        h = self.ln_1(z)
        q, k, v = (self.split_heads(x) for x in (self.q(h[:, rows]), self.k(h), self.v(h)))
        attended = self.out(attend(q, k, v))
        if z_vv is not None:
            z_vv = z_vv[:, vv_rows] + self.out(attend(v[:, vv_rows], v, v))
            if leak is not None:
                z_vv = z_vv + leak * attended[:, vv_rows]
        return (self.mlp(z[:, rows] + attended), z_vv), None


class VisionTransformer(nn.Module):
    """The frozen vision tower.

    Attributes:
      patch_size: pixels along a patch's side.
      tokens: patches plus the class token.
      width: W.
      layers: number of layers.
      heads: number of heads.
      mlp_width: hidden width of the MLPs.
      embed_dim: D.
      activation: a key of `ACTIVATIONS`.
      dtype: dtype of the matrix products; everything else is float32.
      vv: whether patches come from the V-V stream (False is the paper's "w/o V-V").
      vv_first_layer_leak: the official code adds the first layer's original attention output to
        the V-V stream as well, by adding in place to a tensor that is both streams.
    """

    patch_size: int
    tokens: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    embed_dim: int
    activation: str
    dtype: jnp.dtype = jnp.float32
    vv: bool = True
    vv_first_layer_leak: bool = False

    def setup(self):
        sizes = (self.width, self.heads, self.mlp_width, self.activation, self.dtype)
        init = nn.initializers.normal(self.width**-0.5)
        self.patch_embed = Dense(self.width, self.dtype, use_bias=False)
        self.class_embedding = self.param("class_embedding", init, (self.width,))
        self.positional_embedding = self.param(
            "positional_embedding", init, (self.tokens, self.width)
        )
        self.proj = self.param("proj", init, (self.width, self.embed_dim))
        self.ln_pre, self.ln_post = LayerNorm(), LayerNorm()
        if self.layers > 1:
            self.blocks = nn.scan(
                DualBlock,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.layers - 1,
            )(*sizes)
        # After the last layer only the class token and the V-V patches are read. Where the leak
        # hits this layer too (a single layer), or without V-V, the original patches are as well.
        whole = not self.vv or (self.vv_first_layer_leak and self.layers == 1)
        self.last = DualBlock(*sizes, rows=EVERY if whole else CLASS_TOKEN, vv_rows=PATCHES)

    def __call__(self, images: Float[Array, "B R R 3"]) -> ImageFeatures:
        """Runs both streams.

        Args:
          images: normalised by CLIP's mean and standard deviation, float32.

        Returns:
          float32 features before projection.
        """
        z = self.embed(images)
        streams = (z, z if self.vv else None)
        leak = self.vv and self.vv_first_layer_leak
        if self.layers > 1:
            first = jnp.zeros(self.layers - 1).at[0].set(1.0)
            streams, _ = self.blocks(streams, first if leak else None)
        (z, z_vv), _ = self.last(streams, 1.0 if leak and self.layers == 1 else None)
        patches = z_vv if self.vv else z[:, 1:]
        return ImageFeatures(self.ln_post(z[:, 0]), self.ln_post(patches))

    def embed(self, images: Float[Array, "B R R 3"]) -> Float[Array, "B T W"]:
        """Z_0: patches and class token with positions, after `ln_pre`."""
        p, side = self.patch_size, images.shape[1] // self.patch_size
        patches = images.reshape(-1, side, p, side, p, 3).swapaxes(2, 3)
        patches = self.patch_embed(patches.reshape(-1, side * side, p * p * 3))
        cls = jnp.broadcast_to(self.class_embedding, (images.shape[0], 1, self.width))
        return self.ln_pre(jnp.concatenate([cls, patches], axis=1) + self.positional_embedding)

    def project(self, features: Float[Array, "... W"]) -> Float[Array, "... D"]:
        """CLIP's frozen projection into the joint space, in full float32."""
        return jnp.matmul(features, self.proj, precision=product_precision(jnp.float32))
