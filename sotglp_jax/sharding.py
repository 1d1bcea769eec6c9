"""Where arrays live: a mesh whose axis 'data' divides the images and 'class' the classes."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sotglp_jax.clip.packing import PackedClasses, arrange, pack
from sotglp_jax.clip.tokenizer import Tokens
from sotglp_jax.errors import InputError


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


def flat(mesh: Mesh) -> Mesh:
    """The same devices, all along 'data'."""
    return Mesh(mesh.devices.reshape(-1, 1), mesh.axis_names, axis_types=mesh.axis_types)


def put_classes(tokens: Tokens, mesh: Mesh, chunk: int) -> PackedClasses:
    """Class names laid out for all devices of a mesh; see `packing.pack`."""
    packed = pack(tokens, devices=(mesh.shape["class"], mesh.shape["data"]), chunk=chunk)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), class_specs(packed))
    return jax.device_put(packed, shardings)


def class_specs(classes: PackedClasses) -> PackedClasses:
    """How the arrays of class names are divided."""
    spread = PartitionSpec("class", "data")
    names = jax.tree.map(lambda _: spread, classes.names)
    return PackedClasses(PartitionSpec(), names, spread, PartitionSpec(), PartitionSpec("class"))


def state_specs(state: dict, per_class: Sequence[str]) -> dict:
    """How a training state is divided: leaves of these names have a row for each class."""

    def spec(path, _):
        mine = getattr(path[-1], "key", None) in per_class
        return PartitionSpec(("class", "data")) if mine else PartitionSpec()

    return jax.tree_util.tree_map_with_path(spec, state)


def spread_classes(
    state: dict, per_class: Sequence[str], classes: PackedClasses, mesh: Mesh
) -> dict:
    """A training state with each class's rows on the device that has the class's name.

    Args:
      state: see `state.State`.
      per_class: names of the leaves that have a row for each class.
      classes: as `put_classes` laid them out.
      mesh: where to.
    """
    specs = state_specs(state, per_class)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)

    def spread(state, classes):
        return jax.tree.map(lambda x, spec: arrange(x, classes) if spec else x, state, specs)

    return jax.jit(spread, out_shardings=shardings)(state, classes)


def collect_classes(state: dict, per_class: Sequence[str], classes: PackedClasses) -> dict:
    """The opposite: all rows on every device, in the classes' order."""
    specs = state_specs(state, per_class)

    def collect(state, places):
        return jax.tree.map(lambda x, spec: x[places] if spec else x, state, specs)

    whole = classes.places.sharding
    return jax.jit(collect, out_shardings=jax.tree.map(lambda _: whole, state))(
        state, classes.places
    )
