"""The folder of a run: its name, whose run it holds, and what is written into it."""

import importlib.metadata
import json
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from sotglp_jax import __version__
from sotglp_jax.clip import hub
from sotglp_jax.errors import InputError
from sotglp_jax.settings import flatten

CONFIG, IMAGES = "config.json", "train_images.txt"
# Keys that may differ when a run goes on: they say how it is computed, not what.
EXECUTION = ("mesh", "data.root", "data.workers", "text.chunk", "train.log_every")
EXECUTION += ("train.checkpoint_every",)
PACKAGES = ("jax", "flax", "optax", "ott-jax", "orbax-checkpoint", "grain", "numpy", "pillow")


def default_path(config: ConfigDict) -> Path:
    """runs/<dataset>-<clip>-<shots>shot-seed<seed>, or -zeroshot."""
    tail = (
        "zeroshot" if config.method.name == "zeroshot" else f"{config.shots}shot-seed{config.seed}"
    )
    stem = Path(config.dataset).stem if config.dataset.endswith(".json") else config.dataset
    # A path's own name, but both halves of ViT-B/16.
    stem = Path(stem).absolute().name
    model = config.clip.name
    if model not in hub.OPENAI and "/" in model:
        model = Path(model).stem if Path(model).is_file() else Path(model).absolute().name
    return Path("runs") / re.sub(r"[^\w.@-]+", "-", f"{stem}-{model}-{tail}")


def check_same_config(workdir: Path, config: ConfigDict) -> None:
    """Raises `InputError` if the folder belongs to a run of another configuration."""
    path = workdir / CONFIG
    if not path.exists():
        return
    theirs, ours = json.loads(path.read_text()), flatten(config)
    differing = [
        f"{key} ({theirs.get(key)} there, {ours.get(key)} now)"
        for key in sorted(theirs.keys() | ours.keys())
        if key not in EXECUTION and theirs.get(key) != ours.get(key)
    ]
    if differing:
        raise InputError(
            f"{workdir} holds a run of another configuration, differing in "
            f"{', '.join(differing)}: choose another --workdir, or remove that one."
        )


def check_same_images(workdir: Path, names: Sequence[str]) -> None:
    """Raises `InputError` if the run in the folder was trained on other images."""
    path = workdir / IMAGES
    if path.exists() and path.read_text() != _lines(names):
        raise InputError(
            f"{path} lists other training images than are drawn now, so the data set has changed: "
            "restore it, or choose another --workdir."
        )


def _lines(names: Sequence[str]) -> str:
    return "".join(f"{name}\n" for name in names)


def create(workdir: Path, config: ConfigDict, names: Sequence[str]) -> None:
    """Makes the run folder and writes what is known before training.

    Args:
      workdir: the folder.
      config: goes into config.json, flat.
      names: training images, go into train_images.txt, one a line.

    Raises:
      InputError: the folder cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / CONFIG, flatten(config))
        (workdir / IMAGES).write_text(_lines(names))
    except OSError as error:
        raise InputError(
            f"run folder {workdir} cannot be written ({error.strerror}): choose another one "
            "with --workdir."
        ) from None


def versions() -> dict[str, str]:
    """Of this package, Python and the libraries that numbers depend on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"sotglp_jax": __version__, "python": platform.python_version()} | found


def write_json(path: Path, content: dict) -> None:
    """Writes the whole file or nothing."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(path)
