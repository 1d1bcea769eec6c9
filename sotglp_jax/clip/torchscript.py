"""The tensors of a TorchScript archive, read without PyTorch and without running any of its code.

An archive is a zip file: `data.pkl` says which attributes every module has, `data/KEY` are the
bytes of their storages, and `code/` is what PyTorch would compile, which is never looked at.
"""

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

DTYPES = {
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "BoolStorage": np.bool_,
}
# What the pickle of a module calls for its lists, whose first argument is the list itself.
LISTS = {"build_intlist", "build_doublelist", "build_boollist", "restore_type_tag"}


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of all modules by the names that `state_dict` gives them.

    With parameters and buffers come tensors that are plain attributes of a module, such as masks.

    Args:
      path: as `torch.jit.save` writes it.

    Raises:
      Exception: of many kinds where the file is no such archive, or names anything but modules,
        tensors and lists of numbers.
    """
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl"))
        with archive.open(name) as file:
            module = _Unpickler(file, archive, name.removesuffix("data.pkl")).load()
    return dict(_tensors(module))


def _tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in vars(module).items():
        if isinstance(value, np.ndarray):
            yield prefix + name, value
        elif type(value) is type(module):
            yield from _tensors(value, f"{prefix}{name}.")


class _Unpickler(pickle.Unpickler):
    """Knows the few names that an archive needs and refuses every other one."""

    def __init__(self, file, archive: zipfile.ZipFile, prefix: str):
        super().__init__(file)
        self._archive, self._prefix = archive, prefix
        self._module = type("Module", (), {})

    def find_class(self, module: str, name: str) -> Any:
        """What a name of the pickle stands for; never anything that is imported."""
        if module.startswith("__torch__"):
            return self._module
        match module, name:
            case "torch._utils", "_rebuild_tensor_v2":
                return self._tensor
            case "torch.jit._pickle", _ if name in LISTS:
                return self._first
            case "torch", _ if name in DTYPES:
                return name
            case "collections", "OrderedDict":
                return dict
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: tuple) -> tuple[bytes, np.dtype]:
        """The bytes of a storage and what they are."""
        _, kind, key, *_ = pid
        return self._archive.read(f"{self._prefix}data/{key}"), np.dtype(DTYPES[kind])

    def _tensor(self, storage: tuple[bytes, np.dtype], offset: int, shape, strides, *_):
        """A view of a storage, whose bounds numpy checks."""
        content, dtype = storage
        steps = tuple(step * dtype.itemsize for step in strides)
        return np.ndarray(shape, dtype, content, offset * dtype.itemsize, steps)

    def _first(self, value: Any, *_) -> Any:
        return value
