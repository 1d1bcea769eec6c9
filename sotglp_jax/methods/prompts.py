"""Learned context before class names: its initial values and its way through the text tower."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from sotglp_jax.clip import Towers
from sotglp_jax.clip.packing import Names, PackedClasses
from sotglp_jax.clip.text import Branch

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
    shared: Float[Array, "N M Dt"],
    own: Float[Array, "R n M Dt"],
    classes: PackedClasses,
) -> Float[Array, "r N+n D"]:
    """Text features of [SOS] context name [EOT] for every context of a device's r places.

    Not normalised. [SOS] and a shared context are the same for all classes, so they run through the
    tower once a pass. Where there are several passes, what one computed is computed again in the
    backward pass instead of being kept.

    Args:
      towers: the modules.
      text_params: weights of the text tower.
      shared: contexts that all classes have.
      own: contexts of each class; `classes.members` says where.
      classes: the names of one device, see `packing`.
    """

    def encode_pass(own, names):
        return _encode_pass(towers, text_params, classes.start, shared, own, names)

    own = own[classes.members[0, 0]]
    names = jax.tree.map(lambda x: x[0, 0], classes.names)
    if len(own) == 1:
        return encode_pass(own[0], jax.tree.map(lambda x: x[0], names))
    features = jax.lax.map(lambda args: jax.checkpoint(encode_pass)(*args), (own, names))
    return features.reshape(-1, *features.shape[2:])


def _encode_pass(
    towers: Towers, text_params: dict, start, shared, own, names: tuple[Names, ...]
) -> Float[Array, "c N+n D"]:
    """One pass's classes, sorted by length."""

    def embed(ids):
        return towers.text.apply({"params": text_params}, ids, method="embed")

    n_shared, m, width = shared.shape
    trunk = jnp.concatenate([jnp.broadcast_to(embed(start), (n_shared, 1, width)), shared], axis=1)
    after_shared, after_own, first = [], [], 0
    for name in names:
        context = own[first : first + len(name.eot)]
        embedded, first = embed(name.ids)[:, None], first + len(name.eot)
        after_shared.append(Branch(_repeat(embedded, n_shared), name.eot, start=1 + m))
        whole = jnp.concatenate([context, _repeat(embedded, context.shape[1])], axis=2)
        after_own.append(Branch(whole, m + name.eot, start=1))
    apply = partial(towers.text.apply, {"params": text_params}, method="branches")
    features = apply(trunk, after_shared + after_own)
    halves = features[: len(names)], features[len(names) :]
    return jnp.concatenate([jnp.concatenate(half) for half in halves], axis=1)


def _repeat(x: Float[Array, "c 1 L Dt"], n: int) -> Float[Array, "c n L Dt"]:
    return jnp.broadcast_to(x, (len(x), n, *x.shape[2:]))
