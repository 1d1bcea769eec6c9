"""From a configuration to results: one run, or several whose results make a table."""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from sotglp_jax import hosts, tables, workdir
from sotglp_jax.errors import InputError
from sotglp_jax.run import prepare
from sotglp_jax.settings import flatten


def run_one(config: ConfigDict, folder: str, mode: str) -> None:
    """Trains and evaluates a run, or goes on with it.

    Args:
      config: the run's.
      folder: the run folder; "" names one.
      mode: "train", or "eval" to evaluate only.

    Raises:
      InputError: anything the user can mend.
    """
    from sotglp_jax.evaluate import evaluate
    from sotglp_jax.train import train

    run = hosts.together(lambda: prepare(config, folder))
    activation = run.zero_shot.towers.vision.activation
    print(f"CLIP {run.config.clip.name}: {run.arch}, {activation}", flush=True)
    with too_large_said():
        if mode == "train" and run.method:
            train(run)
        else:
            evaluate(run)


@contextlib.contextmanager
def too_large_said() -> Iterator[None]:
    """Makes an `InputError` of a device that is out of memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(
            "the device's memory does not hold this run: set --config.text.chunk=64 or less, a "
            "smaller --config.train.batch_size, or --config.precision=bf16."
        ) from error


@dataclasses.dataclass(frozen=True)
class Single:
    """A run of a study.

    Attributes:
      label: of its setting.
      config: of the run.
      folder: the run folder.
    """

    label: str
    config: ConfigDict
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether the folder holds the results of this very configuration."""
        path = self.folder / "results.json"
        try:
            return path.exists() and _answers(json.loads(path.read_text()), self.config)
        except (ValueError, KeyError, TypeError):  # damaged, or another version's: judged again
            return False


def run_all(config: ConfigDict, folder: str, mode: str) -> None:
    """Runs what is not finished of a study, and prints its table.

    Args:
      config: of the runs, and `study` as `configs.common.study` makes it.
      folder: gets the run folders; "" names one below `runs` after the table and the data set.
      mode: as in `run_one`; "eval" evaluates finished runs too.

    Raises:
      InputError: anything the user can mend.
    """
    singles = expand(config, folder)
    if run_missing(singles, mode) and hosts.first():
        read = [json.loads((s.folder / "results.json").read_text()) for s in singles]
        labelled = [x | {"label": s.label} for x, s in zip(read, singles, strict=True)]
        print(tables.TABLES[config.study.table](labelled))


def expand(config: ConfigDict, folder: str) -> list[Single]:
    """All runs of a study, each once; arguments as in `run_all`."""
    base = Path(folder).expanduser() if folder else _base(config)
    singles = {}
    for axes in itertools.product(config.study.settings, *_axes(config)):
        label, single = _single(config, *axes)
        path = base / _name(label, single)
        singles.setdefault(path, Single(label, single, path))
    return list(singles.values())


def run_missing(singles: Sequence[Single], mode: str) -> bool:
    """Runs those that are not finished, with "eval" all; False when Ctrl-C stopped one."""
    for i, single in enumerate(singles, start=1):
        # The first process decides: another may see the shared disk as it was.
        finished = multihost_utils.broadcast_one_to_all(np.array(single.finished))
        if mode == "eval" or not finished:
            print(f"[{i} of {len(singles)}] {single.folder}", flush=True)
            run_one(single.config, str(single.folder), mode)
            written = (single.folder / "results.json").exists()
            if not multihost_utils.broadcast_one_to_all(np.array(written)):
                return False
    return True


def _axes(config: ConfigDict) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shots, seeds = config.study.shots, config.study.seeds
    for key, values in (("shots", shots), ("seeds", seeds)):
        if not values or not all(isinstance(value, int) for value in values):
            raise InputError(
                f'study.{key}={values} must be whole numbers: write --config.study.{key}="(1, 2)".'
            )
    return shots, seeds


def _single(config: ConfigDict, setting: tuple, shots: int, seed: int) -> tuple[str, ConfigDict]:
    label, overrides = setting
    single = ConfigDict(config.to_dict())
    del single.study
    single.shots, single.seed = shots, seed
    single.update_from_flattened_dict(dict(overrides))
    return label, single


def _name(label: str, single: ConfigDict) -> str:
    name = workdir.default_path(single).name
    return name if not label or name.endswith(f"-{label}") else f"{name}-{label}"


def _base(config: ConfigDict) -> Path:
    named = f"{config.study.table}-{workdir.subject(config)}"
    return Path("runs") / config.study.get("folder", named)


def _answers(results: dict, config: ConfigDict) -> bool:
    """Whether results are of this configuration, and of all sets that it asks for."""
    ours, theirs = flatten(config), results["config"]
    ignored = set(workdir.EXECUTION) - {"targets"}
    same = all(theirs.get(key) == value for key, value in ours.items() if key not in ignored)
    if not same or not config.ood.sets:
        return same
    judged = results.get("ood", {"images": (), "temperature": None})
    there = set(config.ood.sets) <= set(judged["images"])
    return there and judged["temperature"] == config.ood.temperature
