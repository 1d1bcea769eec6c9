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


@jax.custom_vjp
def product(x: Float[Array, "*n i"], kernel: Float[Array, "i o"]) -> Float[Array, "*n o"]:
    """x @ kernel in the kernel's dtype, accumulated and returned in float32.

    So is the backward pass: left to itself, it would multiply by a float32 cotangent.
    """
    return _product("...i,io->...o", x.astype(kernel.dtype), kernel)


def _product(pattern: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    precision = product_precision(b.dtype)
    return jnp.einsum(pattern, a, b, precision=precision, preferred_element_type=jnp.float32)


def _forward(x, kernel):
    return product(x, kernel), (x, kernel)


def _backward(residuals, cotangent):
    x, kernel = residuals
    cotangent = cotangent.astype(kernel.dtype)
    to_x = _product("...o,io->...i", cotangent, kernel)
    to_kernel = _product("...i,...o->io", x.astype(kernel.dtype), cotangent)
    return to_x.astype(x.dtype), to_kernel.astype(kernel.dtype)


product.defvjp(_forward, _backward)


class Dense(nn.Module):
    """A linear layer whose product runs in `dtype`, and everything else in float32."""

    features: int
    dtype: jnp.dtype
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        y = product(x, kernel.astype(self.dtype))
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (self.features,))


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
    logits = _product("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = _product("bhts,bshd->bthd", weights, v)
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
        self.q = Dense(self.width, self.dtype)
        self.k = Dense(self.width, self.dtype)
        self.v = Dense(self.width, self.dtype)
        self.out = Dense(self.width, self.dtype)
        self.ln_2 = LayerNorm()
        self.c_fc = Dense(self.mlp_width, self.dtype)
        self.c_proj = Dense(self.width, self.dtype)

    def split_heads(self, x: Float[Array, "B T W"]) -> Float[Array, "B T H h"]:
        """Cuts the width into heads, in the dtype of the products."""
        return x.reshape(*x.shape[:-1], self.heads, -1).astype(self.dtype)

    def mlp(self, x: Float[Array, "B T W"]) -> Float[Array, "B T W"]:
        """The layer's second half, residual included."""
        return x + self.c_proj(ACTIVATIONS[self.activation](self.c_fc(self.ln_2(x))))
