"""What the devices of a mesh tell each other inside `jax.shard_map`.

Every function takes names of mesh axes; with none it leaves its array alone, so that the same code
runs on one device.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Names = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Axes:
    """Mesh axes that divide the images of a batch, and those that divide the classes."""

    images: Names = ()
    classes: Names = ()

    @property
    def all(self) -> Names:
        """All devices."""
        return self.images + self.classes


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def add(x: Float[Array, "..."], names: Names) -> Float[Array, "..."]:
    """Sums over devices. Each goes on to the same scalar, so a gradient is passed on as it is."""
    return jax.lax.psum(x, names) if names else x


add.defvjp(lambda x, names: (add(x, names), None), lambda names, _, cotangent: (cotangent,))


def largest(x: Float[Array, "..."], names: Names) -> Float[Array, "..."]:
    """The maximum over devices, not to be differentiated."""
    return jax.lax.pmax(x, names) if names else x


def gather(x: Float[Array, "n ..."], names: Names) -> Float[Array, "N ..."]:
    """The rows of all devices; backward, each gets the sum of all gradients of its rows."""
    return jax.lax.all_gather(x, names, tiled=True) if names else x


def own_part(x: Float[Array, "N ..."], names: Names) -> Float[Array, "n ..."]:
    """This device's share of rows that all have, filled up with zeros to equal shares."""
    if not names:
        return x
    share = -(-len(x) // size(names))
    x = jnp.pad(x, [(0, share * size(names) - len(x))] + [(0, 0)] * (x.ndim - 1))
    return jax.lax.dynamic_slice_in_dim(x, index(names) * share, share)


def size(names: Names) -> int:
    """The number of devices along some axes."""
    return jax.lax.axis_size(names) if names else 1


def index(names: Names) -> Int[Array, ""]:
    """This device's number along some axes."""
    return jax.lax.axis_index(names) if names else jnp.int32(0)
