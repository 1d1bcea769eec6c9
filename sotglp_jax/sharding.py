"""Where arrays live: a mesh over the devices, images split over 'data'."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sotglp_jax.errors import InputError


def make_mesh(devices: str = "") -> Mesh:
    """A mesh with the one axis 'data'.

    Args:
      devices: how many share a batch; "" takes all.

    Raises:
      InputError: not a number, or more than there are.
    """
    there = jax.device_count()
    count = int(devices) if devices.isdigit() else there if not devices else 0
    if not 1 <= count <= there:
        raise InputError(
            f'mesh="{devices}" does not fit the {there} {jax.default_backend()} device(s) here: '
            f"set --config.mesh to a number from 1 to {there}."
        )
    if count < there and jax.process_count() > 1:
        raise InputError(
            f'mesh="{devices}" leaves processes without devices: leave out --config.mesh.'
        )
    # Auto axes: with the newer Explicit default, plain code does not compile.
    axis_types = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((count,), ("data",), axis_types, devices=jax.devices()[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis divided over 'data'."""
    return NamedSharding(mesh, PartitionSpec("data"))


def local_rows(batch_size: int, mesh: Mesh) -> list[int]:
    """The rows of a batch that this process's devices hold, ascending."""
    parts = split_batch(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (part,) in parts for row in range(batch_size)[part]})


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A batch of which every process has its `local_rows`, as global arrays."""
    sharding = split_batch(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, x) for k, x in batch.items()}


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises `InputError` where the devices cannot share a batch evenly."""
    if batch_size % mesh.size:
        raise InputError(
            f"train.batch_size={batch_size} cannot be shared by {mesh.size} devices: set a "
            "multiple, or fewer devices with --config.mesh."
        )
