"""The residual layer that both towers of CLIP are made of (https://arxiv.org/abs/2103.00020).

Shapes everywhere in the package: B batch, T tokens, S attended tokens, H heads, h head width,
W width of a tower, C classes, N prompts, M context tokens, L text length, P patches, K kept
patches, D joint width.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * sigmoid(1.702 x), the activation of OpenAI's weights."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": partial(jax.nn.gelu, approximate=False)}

# float32 statistics at any precision; the fast variance cancels on CLIP's large activations.
LayerNorm = partial(nn.LayerNorm, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False)


def product_precision(dtype: jnp.dtype) -> lax.Precision:
    """Keeps a float32 product in float32 where the hardware would use TF32 or bf16."""
    return lax.Precision.HIGHEST if dtype == jnp.float32 else lax.Precision.DEFAULT


def dense(features: int, dtype: jnp.dtype, use_bias: bool = True) -> nn.Dense:
    """A Dense layer whose products run in `dtype` and accumulate, and come out, in float32."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        precision=product_precision(dtype),
        dot_general=partial(lax.dot_general, preferred_element_type=jnp.float32),
    )


def attend(
    q: Float[Array, "B T H h"],
    k: Float[Array, "B S H h"],
    v: Float[Array, "B S H h"],
    mask: Bool[Array, "*#BH T S"] | None = None,
) -> Float[Array, "B T H*h"]:
    """softmax(q kᵀ / √h) v per head; float32 softmax, float32 result.

    Args:
      q: queries.
      k: keys.
      v: values; its dtype is the one the products run in.
      mask: True where a query may look at a key; None means everywhere.
    """
    product = partial(
        jnp.einsum, precision=product_precision(v.dtype), preferred_element_type=jnp.float32
    )
    logits = product("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = product("bhts,bshd->bthd", weights, v)
    return out.reshape(*out.shape[:2], -1)


class Block(nn.Module):
    """The parameters and steps of one pre-norm transformer layer.

    The towers put the steps together: they differ in which rows they read.
    """

    width: int
    heads: int
    mlp_width: int
    activation: str
    dtype: jnp.dtype

    def setup(self):
        self.ln_1 = LayerNorm()
        self.q = dense(self.width, self.dtype)
        self.k = dense(self.width, self.dtype)
        self.v = dense(self.width, self.dtype)
        self.out = dense(self.width, self.dtype)
        self.ln_2 = LayerNorm()
        self.c_fc = dense(self.mlp_width, self.dtype)
        self.c_proj = dense(self.width, self.dtype)

    def split_heads(self, x: Float[Array, "B T W"]) -> Float[Array, "B T H h"]:
        """Cuts the width into heads, in the dtype of the products."""
        return x.reshape(*x.shape[:-1], self.heads, -1).astype(self.dtype)

    def mlp(self, x: Float[Array, "B T W"]) -> Float[Array, "B T W"]:
        """The layer's second half, residual included."""
        return x + self.c_proj(ACTIVATIONS[self.activation](self.c_fc(self.ln_2(x))))
