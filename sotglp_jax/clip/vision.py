"""CLIP's vision transformer, with prompts and with local features.

One kind of local features is the value-value stream of SOT-GLP (paper, section 3.2).
"""

import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from sotglp_jax.clip.config import EPSILON
from sotglp_jax.clip.deep import Deep, by_layer
from sotglp_jax.clip.layers import (
    KEPT,
    Block,
    Dense,
    LayerNorm,
    attend,
    keep_products,
    product_precision,
)

LOCAL = ("", "vv", "tokens", "value")


@struct.dataclass
class Extras:
    """What one layer adds to plain CLIP.

    Attributes:
      leak: share of the original attention output that the V-V stream gets.
      deep: what replaces the prompt tokens, which stand last.
    """

    leak: Float[Array, ""] | None = None
    deep: Deep | None = None


class DualBlock(Block):
    """One layer on both streams, from one attention input.

    The V-V stream has no MLP and no weights of its own: A = softmax(V Vᵀ/√h) per head, with V
    and the output projection of the original stream's layer (equation 2).
    """

    def __call__(self, streams, extras, local=None):
        """Computes what is read after this layer and nothing else.

        Args:
          streams: the original and the V-V stream, None for none.
          extras: see `Extras`.
          local: None before the last layer, where all of both streams is read; in the last one the
            kind of local features, which then come out instead of the second stream, and of the
            first one only the class token is read.
        """
        z, z_vv = streams
        if extras.deep is not None:
            n = len(extras.deep.prompts)
            z = jnp.concatenate([z[:, :-n], extras.deep.replace_states(z[:, -n:])], axis=1)
        whole = local in (None, "tokens") or extras.leak is not None
        rows = slice(None) if whole else slice(1)
        vv_rows = slice(None if local is None else 1, None)
        h = self.ln_1(z)
        q, k, v = (self.split_heads(x) for x in (self.q(h[:, rows]), self.k(h), self.v(h)))
        attended = self.out(attend(q, k, v))
        if z_vv is not None:
            z_vv = z_vv[:, vv_rows] + self.out(attend(v[:, vv_rows], v, v))
            if extras.leak is not None:
                z_vv = z_vv + extras.leak * attended[:, vv_rows]
        if local == "value":
            z_vv = self.mlp(z[:, 1:] + self.out(v[:, 1:].reshape(z[:, 1:].shape)))
        if local == "vv":
            rows, attended = slice(1), attended[:, :1]
        z = self.mlp(checkpoint_name(z[:, rows] + attended, KEPT))
        return (z, z[:, 1:] if local == "tokens" else z_vv), None


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
      epsilon: of the layer norms.
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
    epsilon: float = EPSILON

    def setup(self):
        sizes = (self.width, self.heads, self.mlp_width)
        sizes = (*sizes, self.activation, self.dtype, self.epsilon)
        init = nn.initializers.normal(self.width**-0.5)
        self.patch_embed = Dense(self.width, self.dtype, use_bias=False)
        self.class_embedding = self.param("class_embedding", init, (self.width,))
        self.positional_embedding = self.param(
            "positional_embedding", init, (self.tokens, self.width)
        )
        self.proj = self.param("proj", init, (self.width, self.embed_dim))
        self.ln_pre, self.ln_post = LayerNorm(self.epsilon), LayerNorm(self.epsilon)
        if self.layers > 1:
            self.blocks = nn.scan(
                keep_products(DualBlock),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.layers - 1,
            )(*sizes)
        self.last = DualBlock(*sizes)

    def __call__(
        self,
        images: Float[Array, "B R R 3"],
        *,
        local: str = "",
        leak: bool = False,
        prompts: Float[Array, "J n W"] | None = None,
    ) -> dict[str, Float[Array, "B ..."]]:
        """Features after `ln_post`, before any projection, float32.

        Args:
          images: normalised by CLIP's mean and standard deviation, float32.
          local: features of patches. "" is none; "vv" those of the V-V stream; "tokens" the last
            layer's patch tokens; "value" what the last layer makes of its values without
            attention (LoCoOp, GalLoP).
          leak: SOT-GLP's official code adds the first layer's original attention output to the
            V-V stream as well, by adding in place to a tensor that is both streams.
          prompts: tokens behind the patches, without positions; row 0 enters before `ln_pre`, row
            j replaces them before layer j. Not with "vv".

        Returns:
          "cls" (B W), the class token, and with `local` "patches" (B P W).

        Raises:
          InputError: more rows of prompts than layers.
        """
        if local not in LOCAL or (local == "vv" and prompts is not None):
            raise ValueError(f"local={local!r} must be one of {LOCAL}; 'vv' takes no prompts.")
        z = self.embed(images, None if prompts is None else prompts[0])
        blocks, last = self._extras(leak and local == "vv", prompts)
        streams = (z, z if local == "vv" else None)
        if self.layers > 1:
            streams, _ = self.blocks(streams, blocks)
        (z, patches), _ = self.last(streams, last, local)
        features = {"cls": self.ln_post(z[:, 0])}
        if local:  # behind the patches stand the prompts
            features["patches"] = self.ln_post(patches[:, : self.tokens - 1])
        return features

    def _extras(self, leak: bool, prompts) -> tuple[Extras, Extras]:
        """Those of all layers but the last, stacked, and those of the last."""
        blocks, last = by_layer(None if prompts is None else prompts[1:], self.layers)
        first = jnp.zeros(self.layers).at[0].set(1.0)
        return (
            Extras(first[:-1] if leak else None, blocks),
            Extras(first[-1] if leak and self.layers == 1 else None, last),
        )

    def embed(
        self, images: Float[Array, "B R R 3"], prompts: Float[Array, "n W"] | None = None
    ) -> Float[Array, "B T W"]:
        """Z_0: class token and patches with positions, then prompts, after `ln_pre`."""
        p, side = self.patch_size, images.shape[1] // self.patch_size
        patches = images.reshape(-1, side, p, side, p, 3).swapaxes(2, 3)
        patches = self.patch_embed(patches.reshape(-1, side * side, p * p * 3))
        cls = jnp.broadcast_to(self.class_embedding, (images.shape[0], 1, self.width))
        z = jnp.concatenate([cls, patches], axis=1) + self.positional_embedding
        if prompts is not None:
            prompts = jnp.broadcast_to(prompts, (z.shape[0], *prompts.shape))
            z = jnp.concatenate([z, prompts], axis=1)
        return self.ln_pre(z)

    def project(self, features: Float[Array, "... W"]) -> Float[Array, "... D"]:
        """CLIP's frozen projection into the joint space, in full float32."""
        return jnp.matmul(features, self.proj, precision=product_precision(jnp.float32))
