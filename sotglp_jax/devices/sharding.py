"""Where arrays live: images along the devices, class names dealt out to them, the rest whole."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sotglp_jax.clip.packing import PackedClasses, pack
from sotglp_jax.clip.tokenizer import Tokens
from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import PADDING


def make_mesh(devices: int = 0) -> Mesh:
    """A mesh with the axis 'data'.

    Args:
      devices: their number; 0 takes all.

    Raises:
      InputError: there are not so many, or processes would be left without.
    """
    there = jax.device_count()
    size = devices or there
    if not 1 <= size <= there:
        raise InputError(
            f"mesh={devices} does not fit the {there} {jax.default_backend()} device(s) here: set "
            f"--config.mesh to a number from 1 to {there}, or 0 for all."
        )
    if size < there and jax.process_count() > 1:
        raise InputError(
            f"mesh={devices} leaves processes without devices: leave out --config.mesh."
        )
    # An Auto axis: with the newer Explicit default, plain code does not compile.
    axis_types = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((size,), ("data",), axis_types, devices=jax.devices()[:size])


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def divided(mesh: Mesh) -> NamedSharding:
    """The first axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def padded(batch_size: int, mesh: Mesh) -> int:
    """Rows of a batch that the devices share evenly."""
    return -(-batch_size // mesh.size) * mesh.size


def local_rows(batch_size: int, mesh: Mesh) -> list[int]:
    """Rows of every padded batch that belong to this process's devices, ascending."""
    rows = padded(batch_size, mesh)
    parts = divided(mesh).addressable_devices_indices_map((rows,)).values()
    return sorted({row for (part,) in parts for row in range(rows)[part]})


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A batch of which every process has its `local_rows`, as global arrays."""
    sharding = divided(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, x) for k, x in batch.items()}


def pad_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A whole batch with rows labelled `PADDING` at its end, so that the devices share it."""
    more = padded(len(batch["label"]), mesh) - len(batch["label"])

    def pad(name: str, x: np.ndarray) -> np.ndarray:
        value = PADDING if name == "label" else 0
        return np.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1), constant_values=value)

    return put_batch({name: pad(name, x) for name, x in batch.items()}, mesh)


def put_names(names: Any, mesh: Mesh, per_pass: Callable[[Tokens], int]) -> Any:
    """What `Method.tokenize` gave, with its `Tokens` packed for the devices of a mesh.

    Args:
      names: a tree with `Tokens` in it.
      mesh: where to.
      per_pass: classes that a device takes at once of some tokens, see `packing.pack`.
    """

    def put(leaf):
        if not isinstance(leaf, Tokens):
            return jax.device_put(leaf, replicated(mesh))
        packed = pack(leaf, devices=mesh.size, chunk=per_pass(leaf))
        return jax.device_put(packed, name_shardings(packed, mesh))

    return jax.tree.map(put, names, is_leaf=lambda x: isinstance(x, Tokens))


def name_shardings(packed: PackedClasses, mesh: Mesh) -> PackedClasses:
    """How the arrays of packed class names are divided: the names alone."""
    whole, spread = replicated(mesh), divided(mesh)
    shardings = jax.tree.map(lambda _: whole, packed)
    return shardings.replace(names=jax.tree.map(lambda _: spread, packed.names), members=spread)
