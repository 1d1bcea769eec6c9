"""Learned context before class names: its initial values and its way through the text tower."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from sotglp_jax.clip import Towers
from sotglp_jax.clip.text import Branch
from sotglp_jax.methods.packing import Names, PackedClasses

# place(x, *axes) says what x's leading axes run over, so that someone else may spread them.
Place = Callable[..., Array]

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
    own: Float[Array, "C n M Dt"],
    classes: PackedClasses,
    place: Place = lambda x, *axes: x,
) -> Float[Array, "C N+n D"]:
    """Text features of [SOS] context name [EOT] for every context of each class, not normalised.

    [SOS] and a shared context are the same for all classes, so they run through the tower once.
    Where the classes come in several passes, what one computed is computed again in the backward
    pass instead of being kept.

    Args:
      towers: the modules.
      text_params: weights of the text tower.
      shared: contexts that all classes have.
      own: contexts of each class, padding included.
      classes: the C names, see `packing`.
      place: see `SotGlp`.
    """
    parts, devices, passes, _ = classes.members.shape

    def encode_pass(own, names):
        return _encode_pass(towers, text_params, classes.start, shared, own, names)

    def encode_device(own, names):
        if passes == 1:
            return encode_pass(own[0], jax.tree.map(lambda x: x[0], names))[None]
        return jax.lax.map(lambda args: jax.checkpoint(encode_pass)(*args), (own, names))

    own = own.reshape(parts, len(own) // parts, *own.shape[1:])
    own = place(jax.vmap(lambda x, members: x[members])(own, classes.members), "class", "data")
    features = jax.vmap(jax.vmap(encode_device))(own, classes.names)
    features = place(features.reshape(parts, -1, *features.shape[-2:]), "class")
    features = jax.vmap(lambda x, places: x[places])(features, classes.places)
    return features.reshape(-1, *features.shape[2:])


def _encode_pass(
    towers: Towers, text_params: dict, start, shared, own, names: tuple[Names, ...]
) -> Float[Array, "c N+n D"]:
    """One pass's classes, sorted by length."""

    def embed(ids):
        return towers.text.apply({"params": text_params}, ids, method="embed")

    n_shared, m, _ = shared.shape
    sos = jnp.broadcast_to(embed(start), (n_shared, 1, shared.shape[-1]))
    contexts = jnp.split(own, np.cumsum([len(x.eot) for x in names])[:-1])
    branches = []
    for name, context in zip(names, contexts, strict=True):
        embedded = embed(name.ids)[:, None]
        branches.append(Branch(_repeat(embedded, n_shared), name.eot, start=1 + m))
        after = jnp.concatenate([context, _repeat(embedded, context.shape[1])], axis=2)
        branches.append(Branch(after, m + name.eot, start=1))
    features = towers.text.apply(
        {"params": text_params},
        jnp.concatenate([sos, shared], axis=1),
        branches,
        method="branches",
    )
    return jnp.concatenate(
        [jnp.concatenate(features[i : i + 2], axis=1) for i in range(0, len(features), 2)]
    )


def _repeat(x: Float[Array, "c 1 L Dt"], n: int) -> Float[Array, "c n L Dt"]:
    return jnp.broadcast_to(x, (len(x), n, *x.shape[2:]))
