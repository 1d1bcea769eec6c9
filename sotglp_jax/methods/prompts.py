"""Learned context before class names: its initial values and its way through the text tower."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sotglp_jax.clip import Towers
from sotglp_jax.clip.tokenizer import Tokens

TEMPLATE_NOISE = 0.1  # of the template embeddings' standard deviation
GRAM_SCALE = 1e-3


def from_template(
    key: PRNGKeyArray, shape: tuple[int, ...], template: Float[Array, "M Dt"]
) -> Float[Array, "*shape"]:
    """The template's embeddings plus a little noise, without which equal prompts stay equal.

    Args:
      key: randomness of the noise.
      shape: (..., M, D_t).
      template: token embeddings of the template, without positions.
    """
    noise = TEMPLATE_NOISE * jnp.std(template) * jax.random.normal(key, shape)
    return template + noise


def xavier_uniform(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """Xavier-uniform over the whole tensor; PyTorch's fans: sizes 1 and 0 times the rest."""
    rest = math.prod(shape[2:])
    bound = math.sqrt(6.0 / ((shape[0] + shape[1]) * rest))
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def orthonormal(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """For each class and token position, N orthonormal rows times 0.001; shape (..., N, M, D_t)."""
    *classes, n, m, width = shape
    q, _ = jnp.linalg.qr(jax.random.normal(key, (*classes, m, width, n)))
    return GRAM_SCALE * jnp.moveaxis(q, -1, -3)


def encode(
    towers: Towers,
    text_params: dict,
    contexts: Float[Array, "C N M Dt"],
    classes: Tokens,
    chunk: int = 0,
) -> Float[Array, "C N D"]:
    """Text features of [SOS] context name [EOT] for N contexts of each class, not normalised.

    Args:
      towers: the modules.
      text_params: weights of the text tower.
      contexts: learned embeddings.
      classes: the C bare names, [SOS] name [EOT].
      chunk: classes that pass through the tower at a time; what a chunk computed is computed
        again in the backward pass instead of being kept. 0 runs all at once and keeps all.
    """

    def encode_class(args):
        context_NxMxD, ids, eot = args
        return _encode_class(towers, text_params, context_NxMxD, ids, eot)

    args = (contexts, classes.ids, classes.eot)
    if chunk:
        return jax.lax.map(jax.checkpoint(encode_class), args, batch_size=chunk)
    return jax.vmap(encode_class)(args)


def _encode_class(
    towers, text_params, contexts: Float[Array, "N M Dt"], ids: Int[Array, " L"], eot
):
    n, m, _ = contexts.shape
    name = towers.text.apply({"params": text_params}, ids, method="embed")
    name = jnp.broadcast_to(name, (n, *name.shape))
    sequences = jnp.concatenate([name[:, :1], contexts, name[:, 1:]], axis=1)
    return towers.text.apply({"params": text_params}, sequences, jnp.full(n, eot + m))
