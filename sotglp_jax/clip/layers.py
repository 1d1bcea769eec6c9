"""The residual layer that both towers of CLIP are made of (https://arxiv.org/abs/2103.00020).

Shapes everywhere in the package: B batch, T tokens, S attended tokens, H heads, h head width,
W width of a tower, C classes, N prompts, M context tokens, L text length, P patches, K kept
patches, D joint width.
"""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * sigmoid(1.702 x), the activation of OpenAI's weights."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": partial(jax.nn.gelu, approximate=False)}

# Name of what a layer keeps for its backward pass where `keep_products` wraps it.
KEPT = "product"
# Results of matrix products are kept for the backward pass, cheap steps between them done again.
keep_products = partial(
    nn.remat,
    policy=jax.checkpoint_policies.save_only_these_names(KEPT),
    prevent_cse=False,  # needless in a scan
)

# float32 statistics at any precision; the fast variance cancels on CLIP's large activations.
LayerNorm = partial(nn.LayerNorm, dtype=jnp.float32, use_fast_variance=False)


def product_precision(dtype: jnp.dtype) -> lax.Precision:
    """Keeps a float32 product in float32 where the hardware would use TF32 or bf16."""
    return lax.Precision.HIGHEST if dtype == jnp.float32 else lax.Precision.DEFAULT


@cache
def multiplies_bf16() -> bool:
    """Whether the hardware has products of bf16; a CPU without them is faster in float32."""
    cpus = Path("/proc/cpuinfo")
    return jax.default_backend() != "cpu" or not cpus.exists() or "bf16" in cpus.read_text("utf-8")


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(pattern: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """An einsum of two arrays in b's dtype, accumulated and returned in float32.

    So is its backward pass: left to itself, it would multiply by a float32 cotangent.

    Args:
      pattern: einsum's; every index is in two of its three parts.
      a: cast to b's dtype.
      b: decides the dtype of the products.
    """
    a = a.astype(b.dtype)
    if b.dtype == jnp.bfloat16 and not multiplies_bf16():
        # The same products of the same rounded numbers.
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.einsum(
        pattern,
        a,
        b,
        precision=product_precision(b.dtype),
        preferred_element_type=jnp.float32,
    )


def _forward(pattern, a, b):
    return product(pattern, a, b), (a, b)


def _backward(pattern, residuals, cotangent):
    a, b = residuals
    inputs, out = pattern.split("->")
    of_a, of_b = inputs.split(",")
    to_a = product(f"{out},{of_b}->{of_a}", cotangent, b)
    # XLA's CPU code has no bf16 product whose left operand is transposed (jax 0.10).
    dtype = jnp.float32 if jax.default_backend() == "cpu" else b.dtype
    to_b = product(f"{of_a},{out}->{of_b}", a, cotangent.astype(dtype))
    return to_a.astype(a.dtype), to_b.astype(b.dtype)


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
        # XLA's CPU code is faster on one matrix; a TPU would have to copy it into one.
        rows = x.reshape(-1, x.shape[-1]) if jax.default_backend() == "cpu" else x
        y = product("...i,io->...o", rows, kernel.astype(self.dtype))
        y = y.reshape(*x.shape[:-1], self.features)
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (self.features,))


@jax.custom_vjp
def average(logits: Float[Array, "*n T S"], v: Float[Array, "*n S h"]) -> Float[Array, "*n T h"]:
    """softmax(logits) v, in float32 but for the product.

    The sums divide the product, T by h numbers, and not the weights, T by S of them: XLA's CPU
    code then makes one loop of all of attention.
    """
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True)).astype(v.dtype)
    total = weights.sum(axis=-1, keepdims=True, dtype=jnp.float32)
    return product("...ts,...sd->...td", weights, v) / total


def _divided_first(logits, v):
    """As `average`, with a backward pass that needs no product of the forward pass again."""
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return product("...ts,...sd->...td", weights, v)


average.defvjp(
    lambda logits, v: (average(logits, v), (logits, v)),
    lambda inputs, cotangent: jax.vjp(_divided_first, *inputs)[1](cotangent),
)


def attend(
    q: Float[Array, "*n T H h"],
    k: Float[Array, "*n S H h"],
    v: Float[Array, "*n S H h"],
    mask: Bool[Array, "*#nH T S"] | None = None,
) -> Float[Array, "*n T H*h"]:
    """softmax(q kᵀ / √h) v per head; float32 softmax, float32 result.

    Args:
      q: queries.
      k: keys.
      v: values; its dtype is the one the products run in.
      mask: True where a query may look at a key; None means everywhere.
    """
    # Heads before tokens: plain matrices, for which XLA's CPU code has fast products.
    q, k, v = (x.swapaxes(-3, -2) for x in (q * q.shape[-1] ** -0.5, k, v))
    logits = product("...td,...sd->...ts", q, k)
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    out = average(logits, v).swapaxes(-3, -2)
    return out.reshape(*out.shape[:-2], out.shape[-2] * out.shape[-1])


class Block(nn.Module):
    """The parameters and steps of one pre-norm transformer layer.

    The towers put the steps together: they differ in which rows they read.
    """

    width: int
    heads: int
    mlp_width: int
    activation: str
    dtype: jnp.dtype
    epsilon: float

    def setup(self):
        self.ln_1 = LayerNorm(self.epsilon)
        self.q = Dense(self.width, self.dtype)
        self.k = Dense(self.width, self.dtype)
        self.v = Dense(self.width, self.dtype)
        self.out = Dense(self.width, self.dtype)
        self.ln_2 = LayerNorm(self.epsilon)
        self.c_fc = Dense(self.mlp_width, self.dtype)
        self.c_proj = Dense(self.width, self.dtype)

    def split_heads(self, x: Float[Array, "*n W"]) -> Float[Array, "*n H h"]:
        """Cuts the width into heads, in the dtype of the products."""
        x = x.reshape(*x.shape[:-1], self.heads, self.width // self.heads).astype(self.dtype)
        return checkpoint_name(x, KEPT)

    def mlp(self, x: Float[Array, "*n W"]) -> Float[Array, "*n W"]:
        """The layer's second half, residual included."""
        hidden = checkpoint_name(self.c_fc(self.ln_2(x)), KEPT)
        return x + self.c_proj(ACTIVATIONS[self.activation](hidden))
