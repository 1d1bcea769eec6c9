"""What is done image by image, where the images are."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Shaped


def image_by_image(function: Callable, x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    """The result of a function of each image, on the device that has the image.

    It is for what XLA would do for all images on every device, such as `jax.lax.top_k`. The mesh is
    that of `jax.set_mesh`; without one, or where its devices do not divide the images, the function
    is called as it is.

    Args:
      function: of rows, each of which depends on its own row alone.
      x: a row an image.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or len(x) % mesh.size:
        return function(x)
    rows = jax.sharding.PartitionSpec("data")
    return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)(x)
