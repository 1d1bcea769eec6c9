"""TorchScript archives, written without PyTorch for the tests."""

import io
import pickle
import zipfile
from types import SimpleNamespace

import numpy as np


class Global:
    """Pickled as a name, which need not exist here, or as its call with arguments."""

    def __init__(self, name, arguments=None):
        self.name, self.arguments = name, arguments


class Storage:
    def __init__(self, *pid):
        self.pid = pid


class Pickler(pickle._Pickler):
    """Writes what PyTorch's own pickler writes for a scripted module."""

    def persistent_id(self, value):
        return value.pid if isinstance(value, Storage) else None

    def save_name(self, value):
        module, _, name = value.name.rpartition(".")
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        if value.arguments is not None:
            self.save(value.arguments)
            self.write(pickle.REDUCE)

    def save_module(self, attributes):
        self.write(pickle.GLOBAL + b"__torch__.some.code.___torch_mangle_5\nVisual\n")
        self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        self.save(vars(attributes))
        self.write(pickle.BUILD)

    dispatch = pickle._Pickler.dispatch | {Global: save_name, SimpleNamespace: save_module}


def tensor(key, shape, strides, offset=0, kind="HalfStorage"):
    storage = Storage("storage", Global(f"torch.{kind}"), key, "cuda:0", 1)
    hooks = Global("collections.OrderedDict", ())
    arguments = (storage, offset, shape, strides, False, hooks)
    return Global("torch._utils._rebuild_tensor_v2", arguments)


def write(path, tensors, **attributes):
    """An archive of half-precision tensors under dotted names, and other attributes."""
    storages, root = {}, SimpleNamespace(training=True, **attributes)
    for key, (name, x) in enumerate(tensors.items()):
        storages[str(key)] = x.astype(np.float16).tobytes()
        *modules, leaf = name.split(".")
        module = root
        for part in modules:
            module = vars(module).setdefault(part, SimpleNamespace(training=False))
        vars(module)[leaf] = tensor(str(key), x.shape, tuple(s // 4 for s in x.strides))
    stream = io.BytesIO()
    Pickler(stream, 2).dump(root)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("ViT/data.pkl", stream.getvalue())
        file.writestr("ViT/code/__torch__/some/code.py", "raise SystemExit('was run')")
        for key, content in storages.items():
            file.writestr(f"ViT/data/{key}", content)
    return path
