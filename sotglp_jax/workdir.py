"""The folder of a run: its name, whose run it holds, and what is written into it."""

import contextlib
import fcntl
import importlib.metadata
import io
import json
import os
import platform
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sotglp_jax import lease, paths
from sotglp_jax.clip import hub
from sotglp_jax.devices import hosts
from sotglp_jax.errors import InputError
from sotglp_jax.paths import AnyPath, in_bucket, place
from sotglp_jax.settings import differing

CONFIG, IMAGES, CLASSES = "config.json", "train_images.txt", "classes.json"
PARAMS = "params.safetensors"  # finished, as predictions take them
START = "start.json"  # of a run that started from another one
DIVERGED = "diverged.json"  # of a run that stopped at a loss that is not finite
LOCK = ".lock"  # held by the process that runs in the folder
# Keys that may differ when a run goes on: they say how it is computed, not what.
EXECUTION = (
    "mesh",
    "data.root",
    "data.allow_partial",
    "data.workers",
    "text.chunk",
    "eval.batch_size",
    "eval.calibrate",
    "cache.folder",
    "train.log_every",
    "train.checkpoint_every",
    "targets",
    "ood.sets",
    "ood.temperature",
    "ood.threshold",
)
PACKAGES = (
    "sotglp_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "ott-jax",
    "orbax-checkpoint",
    "grain",
    "numpy",
)
PACKAGES += ("pillow", "scikit-learn")


def of(config: ConfigDict, folder: str) -> AnyPath:
    """The run folder that `--workdir` names, or where that is "", the configuration."""
    return place(folder, "--workdir") if folder else default_path(config)


def default_path(config: ConfigDict) -> Path:
    """runs/<dataset>-<clip>-<shots>shot-seed<seed>, or -zeroshot; half and variant at the end.

    A method other than SOT-GLP stands before the shots; what starts from another run is -extended.
    """
    tail = f"{config.shots}shot-seed{config.seed}" if config.shots else "zeroshot"
    if config.shots and config.method.name != "sotglp":
        tail = f"{config.method.name.rpartition(':')[2].lower()}-{tail}"
    if config.data.classes != "all":
        tail += f"-{config.data.classes}"
    if config.shots and config.variant != "full":
        tail += f"-{config.variant}"
    if config.train.init_from:
        tail += "-extended"
    return Path("runs") / f"{subject(config)}-{tail}"


def subject(config: ConfigDict) -> str:
    """<dataset>-<clip>, fit for a file's name."""
    stem = Path(config.dataset).stem if config.dataset.endswith(".json") else config.dataset
    # A path's own name, but both halves of ViT-B/16.
    stem = Path(stem).absolute().name
    model = config.clip.name
    if model not in hub.OPENAI and "/" in model:
        model = Path(model).stem if Path(model).is_file() else Path(model).absolute().name
    return re.sub(r"[^\w.@-]+", "-", f"{stem}-{model}")


def check_same(
    workdir: AnyPath, settings: dict, images: Sequence[str], class_names: Sequence[str]
) -> None:
    """Checks that a folder is free, or holds a run that may go on.

    Args:
      workdir: the folder.
      settings: of the run that is about to start.
      images: names of its training images.
      class_names: by label.

    Raises:
      InputError: settings, images or class names differ from those in the folder; says which.
    """
    if (workdir / CONFIG).exists():
        _check_settings(workdir, settings)
    if (workdir / IMAGES).exists() and _images(workdir) != _lines(images):
        raise InputError(
            f"{workdir / IMAGES} lists other training images than are drawn now, so the data set "
            "has changed: restore it, or choose another --workdir."
        )
    classes = workdir / CLASSES
    if classes.exists() and classes.read_text("utf-8") != to_json(class_names):
        raise InputError(
            f"{classes} has other class names than the data set has now: restore them, "
            "or choose another --workdir."
        )


def _check_settings(workdir: AnyPath, ours: dict) -> None:
    try:
        theirs = dict(json.loads((workdir / CONFIG).read_text("utf-8")))
    except (ValueError, TypeError):
        raise InputError(
            f"{workdir / CONFIG} is damaged: choose another --workdir, or remove that one."
        ) from None
    if found := differing(theirs, ours, _may_differ(workdir)):
        raise InputError(
            f"{workdir} holds a run of another configuration, differing in "
            f"{', '.join(found)}: choose another --workdir, or remove that one."
        )


def _may_differ(workdir: AnyPath) -> tuple[str, ...]:
    """Settings that a run may go on with other values of: after a divergence, the rate too."""
    return (*EXECUTION, "train.lr") if (workdir / DIVERGED).exists() else EXECUTION


def _images(workdir: AnyPath) -> str:
    return (workdir / IMAGES).read_bytes().decode("utf-8", "surrogateescape")


def to_json(value: dict | Sequence[str]) -> str:
    """The text of a JSON file in a run folder."""
    return json.dumps(value, indent=2) + "\n"


def _lines(names: Sequence[str]) -> str:
    return "".join(f"{name}\n" for name in names)


@contextlib.contextmanager
def alone(workdir: AnyPath) -> Iterator[None]:
    """Holds the run folder, which is made, against other runs; a killed one lets go of it.

    Of several processes the first one holds it for all.

    Raises:
      InputError: another process holds the folder, or it cannot be written.
    """
    hold = _lease if in_bucket(workdir) else _lock
    release = hosts.together(lambda: hold(workdir) if hosts.first() else None)
    try:
        yield
    finally:
        if release:
            release()


def _lease(workdir: AnyPath) -> Callable[[], None]:
    try:
        return lease.Lease(workdir / LOCK, _us()).release
    except OSError as error:
        raise _unwritable(workdir, error) from None


def _lock(workdir: Path) -> Callable[[], None]:
    made = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / LOCK).open("a+")
    except OSError as error:
        raise _unwritable(workdir, error) from None

    def release() -> None:
        if os.listdir(workdir) == [LOCK]:  # nothing came of it
            (workdir / LOCK).unlink()
            for folder in made:
                folder.rmdir()
        file.close()

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        with file:
            holder = file.read().strip() or "another process"
        raise lease.in_use(workdir, holder) from None
    except OSError:  # a file system without locks
        return release
    file.truncate(0)
    file.write(_us())
    file.flush()
    return release


def _us() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def create(
    workdir: AnyPath, settings: dict, images: Sequence[str], class_names: Sequence[str]
) -> None:
    """Makes the run folder and writes what is known before training.

    Args:
      workdir: the folder.
      settings: go into config.json.
      images: names of the training images, go into train_images.txt, one a line.
      class_names: by label, go into classes.json.

    Raises:
      InputError: the folder cannot be written.
    """
    try:
        paths.make(workdir)
    except OSError as error:
        raise _unwritable(workdir, error) from None
    write(workdir / CONFIG, to_json(settings))
    write(workdir / IMAGES, _lines(images))
    write(workdir / CLASSES, to_json(class_names))


def write(path: AnyPath, content: str | bytes) -> None:
    """Writes the whole file or nothing, of several processes the first alone.

    Raises:
      InputError: it cannot be written.
    """
    if not hosts.first():
        return
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")  # of file names in any encoding
    try:
        paths.write(path, content)
    except OSError as error:
        raise _unwritable(path.parent, error) from None


def write_arrays(path: AnyPath, **arrays: np.ndarray) -> None:
    """Writes a .npz file of arrays as `write` does."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write(path, file.getvalue())


@contextlib.contextmanager
def read_arrays(path: AnyPath, fault: str = "damaged") -> Iterator[dict[str, np.ndarray]]:
    """Gives the arrays that `write_arrays` wrote, by name, to a body that makes something of them.

    Args:
      path: of the file.
      fault: what is said of it where it cannot be read, or where its arrays do not fit the body.

    Raises:
      InputError: there is such a fault.
    """
    try:
        found = dict(np.load(io.BytesIO(path.read_bytes()), allow_pickle=False))
        yield found
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, OSError, EOFError):
        raise InputError(f"{path} is {fault}: evaluate the run again with --mode=eval.") from None


def write_tensors(path: AnyPath, tree: dict) -> None:
    """Writes a tree of arrays to a .safetensors file under names such as "a/b"."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    write(path, save({name: np.array(x, order="C") for name, x in flat.items()}))


def load_tensors(path: AnyPath) -> dict:
    """Loads the tree that `write_tensors` wrote.

    Raises:
      InputError: the file is missing or damaged.
    """
    try:
        return traverse_util.unflatten_dict(load(path.read_bytes()), sep="/")
    except (SafetensorError, OSError):
        raise InputError(
            f"{path} is missing or damaged: evaluate the run again with --mode=eval."
        ) from None


def _unwritable(workdir: AnyPath, error: OSError) -> InputError:
    return InputError(
        f"run folder {workdir} cannot be written ({getattr(error, 'strerror', error)}): choose "
        "another one with --workdir."
    )


def versions() -> dict[str, str]:
    """Of all that numbers depend on: this package, Python, libraries, and the kind of device."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    here = {"python": platform.python_version(), "device": jax.devices()[0].device_kind}
    return found | here
