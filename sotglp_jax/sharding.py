"""Where arrays live: a mesh whose axis 'data' divides the images and 'class' the classes."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sotglp_jax.clip.tokenizer import Tokens
from sotglp_jax.errors import InputError
from sotglp_jax.methods.packing import PackedClasses, pack
from sotglp_jax.methods.prompts import Place


def make_mesh(shape: str = "") -> Mesh:
    """A mesh with the axes 'data' and 'class'.

    Args:
      shape: devices along both, as in "4x2"; one number is along 'data'; "" takes all for it.

    Raises:
      InputError: of another form, or more devices than there are.
    """
    there = jax.device_count()
    sizes = shape.split("x") if shape else [str(there)]
    sound = len(sizes) <= 2 and all(size.isdigit() and int(size) for size in sizes)
    data, classes = map(int, [*sizes, "1"][:2]) if sound else (0, 0)
    if not 1 <= data * classes <= there:
        raise InputError(
            f'mesh="{shape}" does not fit the {there} {jax.default_backend()} device(s) here: '
            f"set --config.mesh to a number from 1 to {there}, or to two such as 4x2 whose product "
            "is."
        )
    if data * classes < there and jax.process_count() > 1:
        raise InputError(
            f'mesh="{shape}" leaves processes without devices: leave out --config.mesh.'
        )
    # Auto axes: with the newer Explicit default, plain code does not compile.
    axis_types = (jax.sharding.AxisType.Auto,) * 2
    devices = jax.devices()[: data * classes]
    return jax.make_mesh((data, classes), ("data", "class"), axis_types, devices=devices)


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


@functools.cache  # one function a mesh, so that methods that hold it stay equal
def placer(mesh: Mesh) -> Place:
    """A method's `place`: divides leading axes over the mesh's axes of these names.

    A tuple of names divides by both. An axis that cannot be divided evenly is left to the compiler.
    """

    def axis(size: int, names: tuple[str, ...] | str | None):
        names = (names,) if isinstance(names, str) else names or ()
        devices = math.prod(mesh.shape[name] for name in names)
        return PartitionSpec.UNCONSTRAINED if size % devices else names

    def place(x, *axes):
        spec = PartitionSpec(*map(axis, x.shape, axes))
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return place


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A batch of which every process has its `local_rows`, as global arrays."""
    sharding = split_batch(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, x) for k, x in batch.items()}


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises `InputError` where the devices cannot share a batch evenly."""
    if batch_size % mesh.shape["data"]:
        raise InputError(
            f"train.batch_size={batch_size} cannot be shared by {mesh.shape['data']} devices: set "
            "a multiple, or fewer devices with --config.mesh, such as 2x4 for 8 in pairs."
        )


def put_classes(tokens: Tokens, mesh: Mesh, chunk: int) -> PackedClasses:
    """Class names laid out for all devices of a mesh; see `packing.pack`."""
    data, parts = mesh.shape["data"], mesh.shape["class"]
    packed = pack(tokens, parts=parts, devices=data, chunk=chunk)
    spread = NamedSharding(mesh, PartitionSpec("class", "data"))
    shardings = jax.tree.map(lambda x: spread if x.ndim > 3 else replicated(mesh), packed)
    return jax.device_put(packed, shardings)


def spread_classes(state: dict, per_class: Sequence[str], mesh: Mesh) -> dict:
    """A training state divided over 'class', filled up with rows of zeros where it must be.

    Args:
      state: see `state.State`.
      per_class: names of the leaves that have a row for each class.
      mesh: where to.
    """
    parts = mesh.shape["class"]

    def fill(x):
        return jnp.pad(x, [(0, -len(x) % parts)] + [(0, 0)] * (x.ndim - 1))

    whole, divided = replicated(mesh), NamedSharding(mesh, PartitionSpec("class"))
    shardings = _map(lambda x: divided, per_class, jax.tree.map(lambda x: whole, state))
    return jax.jit(lambda x: _map(fill, per_class, x), out_shardings=shardings)(state)


def drop_padding(state: dict, per_class: Sequence[str], n_classes: int) -> dict:
    """The same without the rows that `spread_classes` added."""

    def cut(x):
        if len(x) == n_classes:
            return x
        return jax.jit(lambda x: x[:n_classes], out_shardings=replicated(x.sharding.mesh))(x)

    return _map(cut, per_class, state)


def _map(function: Callable, per_class: Sequence[str], state: dict) -> dict:
    """Applies a function to the leaves of these names, wherever they are in the tree."""

    def change(path, x):
        return function(x) if getattr(path[-1], "key", None) in per_class else x

    return jax.tree_util.tree_map_with_path(change, state)
