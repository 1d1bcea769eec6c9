"""A finished run, loaded from its folder alone, without the images that it was made from."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from sotglp_jax import __version__, clip, workdir
from sotglp_jax.data.pixels import read_image
from sotglp_jax.data.sources import Dataset, Source
from sotglp_jax.errors import InputError
from sotglp_jax.run import Run, assemble
from sotglp_jax.settings import defaults, unflatten, validate

NO_IMAGES = Source(read_image, (), (), (), "")


@dataclasses.dataclass(frozen=True)
class Finished:
    """What is left of a run when it has ended.

    Attributes:
      run: as `run.prepare` gives it, but without images.
      params: the finished parameters, {} where nothing is learned.
      results: its results.json.
    """

    run: Run
    params: dict
    results: dict


def load(folder: Path, precision: str = "") -> Finished:
    """Loads a run folder and the CLIP that it names.

    Args:
      folder: the run folder.
      precision: of the products in the towers, "bf16" or "float32"; "" as in the run.

    Raises:
      InputError: no run folder, a run that is not finished, or another CLIP than the run's.
    """
    if not (folder / workdir.CONFIG).is_file():
        raise InputError(f"{folder} is no run folder: it has no {workdir.CONFIG}.")
    results = _results(folder)
    stated = {k: x for k, x in results["config"].items() if k != "clip.sha256"}
    usual = defaults(stated)
    if newer := sorted(stated.keys() - usual.keys()):
        maker = results["versions"]["sotglp_jax"]
        raise InputError(
            f"{folder} is a run of another version, sotglp_jax {maker}, with settings that "
            f"{__version__} here does not have ({', '.join(newer)}): install that one."
        )
    config = unflatten(usual | stated)
    validate(config)
    if precision:
        config.precision = precision
    name = config.clip.name
    if results.get("clip_path") and not Path(name).expanduser().exists():
        name = results["clip_path"]  # which may be relative to where the run was started
    loaded = clip.load(name, config.clip.activation, config.clip.heads)
    run = assemble(config, folder, _without_images(folder, results), loaded)
    if run.settings["clip.sha256"] != results["config"]["clip.sha256"]:
        raise InputError(
            f"the weights of clip={config.clip.name}, or what their config says of layer norms and "
            f"pixels, are not those that the run {folder} was made with: restore them."
        )
    params = workdir.load_tensors(folder / workdir.PARAMS) if run.method.learns else {}
    return Finished(run, params, results)


def _results(folder: Path) -> dict:
    path = folder / "results.json"
    command = f"python -m sotglp_jax.main --config=FILE:... --workdir={folder}"
    if not path.is_file():
        raise InputError(
            f"{folder} holds a run that is not finished: finish it with the command that started "
            f"it, {command}."
        )
    results = _load(path)
    if not (folder / workdir.CLASSES).is_file() or "method" not in results:
        raise InputError(
            f"{folder} was evaluated by an older version, which left out what predictions need: "
            f"evaluate it again with {command} --mode=eval, with its own --config."
        )
    return results


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError:
        raise InputError(f"{path} is damaged: evaluate the run again with --mode=eval.") from None


def _without_images(folder: Path, results: dict) -> Dataset:
    protocol = results["protocol"]
    names = tuple(_load(folder / workdir.CLASSES))
    sentences = tuple(map(tuple, protocol.get("sentences", ())))
    parts = [NO_IMAGES] * 3
    return Dataset(protocol["dataset"], names, protocol["template"], *parts, sentences=sentences)
