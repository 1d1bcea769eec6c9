"""Learned prompts: what they start from, and which of them an image keeps in training."""

import math

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray

TEMPLATE_NOISE = 0.1  # of the template embeddings' standard deviation
GRAM_SCALE = 1e-3
SPREAD = 0.02  # standard deviation of a random start


@struct.dataclass
class ClassFeatures:
    """Text features of all classes, as the text tower gives them (not normalised).

    Attributes:
      global_: of the global prompts.
      local: of the local ones.
      zero_shot: of zero-shot CLIP's sentence, where it is asked for.
    """

    global_: Float[Array, "C Ng D"]
    local: Float[Array, "C Nl D"]
    zero_shot: Float[Array, "C 1 D"] | None = None


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


def normal(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """Normal numbers of CoOp's small spread."""
    return SPREAD * jax.random.normal(key, shape)


def linear(
    key: PRNGKeyArray, n_in: int, n_out: int
) -> tuple[Float[Array, "n_out n_in"], Float[Array, " n_out"]]:
    """Weight and bias of a linear layer as PyTorch starts it: uniform within 1 / √n_in."""
    bound, keys = 1 / math.sqrt(n_in), jax.random.split(key)
    weight, bias = (
        jax.random.uniform(k, shape, minval=-bound, maxval=bound)
        for k, shape in zip(keys, ((n_out, n_in), (n_out,)), strict=True)
    )
    return weight, bias


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


def keep_prompts(
    images: int, n_global: int, share: float, key: PRNGKeyArray
) -> Float[Array, "B Ng"]:
    """Weights of the mean over the prompts that each image keeps, drawn with replacement.

    Args:
      images: B.
      n_global: N_g.
      share: left out of N_g, rounded down; at least one is kept, and 0 keeps exactly all.
      key: randomness.
    """
    if not share:
        return jnp.full((images, n_global), 1 / n_global)
    keep = max(n_global - int(share * n_global), 1)
    drawn = jax.random.randint(key, (images, keep), 0, n_global)
    return jax.nn.one_hot(drawn, n_global).mean(1)
