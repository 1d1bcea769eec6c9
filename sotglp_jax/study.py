"""From a configuration to results: one run, or several whose results make a table."""

import collections
import contextlib
import dataclasses
import itertools
import json
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from sotglp_jax import workdir
from sotglp_jax.devices import hosts
from sotglp_jax.errors import InputError
from sotglp_jax.paths import AnyPath, place
from sotglp_jax.reports import tables
from sotglp_jax.run import describe, plan, prepare
from sotglp_jax.settings import CHOSEN_BY_NAME, defaults, differing, flatten, unflatten


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

    with workdir.alone(workdir.of(config, folder)), _too_large_said():
        run = hosts.together(lambda: prepare(config, folder))
        if hosts.first():
            plans = [plan(run)] if mode == "train" and run.stages else []
            print(*describe(run), *plans, sep="\n", flush=True)
        if mode == "train" and run.stages:
            train(run)
        else:
            evaluate(run)


@contextlib.contextmanager
def _too_large_said() -> Iterator[None]:
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
    folder: AnyPath

    @property
    def finished(self) -> bool:
        """Whether the folder holds the results of this very configuration."""
        path = self.folder / "results.json"
        try:
            return path.exists() and _answers(json.loads(path.read_text("utf-8")), self.config)
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
        print(table(config, singles))


def run_only(config: ConfigDict, folder: str, mode: str, number: int) -> None:
    """Runs one run of a study, if it is not finished.

    Args:
      config: of the study.
      folder: as in `run_all`.
      mode: as in `run_all`.
      number: of the run in the order of `expand`, from 0.

    Raises:
      InputError: no study, no such run, or anything else that the user can mend.
    """
    if "study" not in config:
        raise InputError("--only names a run of a study, such as configs/shots.py: leave it out.")
    singles = expand(config, folder)
    if number >= len(singles):
        raise InputError(
            f"--only={number} is past the study's runs: the last is {len(singles) - 1}."
        )
    run_missing([singles[number]], mode)


def table(config: ConfigDict, singles: Sequence[Single]) -> str:
    """Returns the table of a study whose runs are finished."""
    results = [json.loads((s.folder / "results.json").read_text("utf-8")) for s in singles]
    labelled = [x | {"label": s.label} for x, s in zip(results, singles, strict=True)]
    return tables.TABLES[config.study.table](labelled)


def expand(config: ConfigDict, folder: str) -> list[Single]:
    """Returns all runs of a study, each once; arguments as in `run_all`.

    Raises:
      InputError: two different runs have the same name, or an axis has no numbers.
    """
    base = place(folder, "--workdir") if folder else _base(config)
    axes = itertools.product(config.study.settings, *_axes(config))
    labelled = [_single(config, *values) for values in axes]
    alike = _alike([single for _, single in labelled])
    singles = {}
    for label, single in labelled:
        path = base / _name(label, single, alike)
        first = singles.setdefault(path, Single(label, single, path)).config
        if differ := differing(flatten(first), flatten(single)):
            raise InputError(
                f"two runs of this study have the name {path}, and differ in {', '.join(differ)}: "
                "give their settings labels of their own."
            )
    return list(singles.values())


def run_missing(singles: Sequence[Single], mode: str, sizes: Sequence[float] = ()) -> bool:
    """Runs those that are not finished, with "eval" all, and says which run it is at.

    Args:
      singles: the runs.
      mode: as in `run_all`.
      sizes: of the runs that are left, 0 for the others; the time that is left is taken to be in
        proportion to them, and is not said without them.

    Returns:
      False when Ctrl-C stopped one.
    """
    began, done = time.monotonic(), 0.0
    for i, single in enumerate(singles):
        # The first process decides: another may see the shared disk as it was.
        finished = multihost_utils.broadcast_one_to_all(np.array(single.finished))
        if mode == "eval" or not finished:
            left = _time_left(time.monotonic() - began, done, sum(sizes[i:]))
            print(f"[{i + 1} of {len(singles)}] {single.folder}{left}", flush=True)
            run_one(single.config, str(single.folder), mode)
            written = (single.folder / "results.json").exists()
            if not multihost_utils.broadcast_one_to_all(np.array(written)):
                return False
            done += sum(sizes[i : i + 1])
    return True


def _time_left(spent: float, done: float, left: float) -> str:
    if not done:
        return ""
    seconds = spent * left / done
    hours = seconds >= 3600
    return (
        f", about {seconds / 3600:.1f} h left" if hours else f", about {seconds / 60:.0f} min left"
    )


def _axes(config: ConfigDict) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shots, seeds = config.study.shots, config.study.seeds
    for key, values in (("shots", shots), ("seeds", seeds)):
        if not values or not all(isinstance(value, int) for value in values):
            raise InputError(
                f'study.{key}={values} must be whole numbers: write --config.study.{key}="(1, 2)".'
            )
    return shots, seeds


def _single(config: ConfigDict, setting: tuple, shots: int, seed: int) -> tuple[str, ConfigDict]:
    """A run of its own: what follows from its choices, what was changed of that, its setting."""
    label, overrides = setting[0], {"shots": shots, "seed": seed} | dict(setting[1])
    study = flatten(ConfigDict({k: x for k, x in config.to_dict().items() if k != "study"}))
    usual = defaults(study)
    changed = {key: x for key, x in study.items() if usual.get(key) != x}
    own = defaults(study | {key: x for key, x in overrides.items() if key in CHOSEN_BY_NAME})
    return label, unflatten(own | {k: x for k, x in changed.items() if k in own} | overrides)


def _alike(configs: Sequence[ConfigDict]) -> set[str]:
    """Data sets whose runs would be called as those of another one."""
    subjects = {config.dataset: workdir.subject(config) for config in configs}
    counts = collections.Counter(subjects.values())
    return {dataset for dataset, subject in subjects.items() if counts[subject] > 1}


def _name(label: str, single: ConfigDict, alike: Collection[str]) -> str:
    named = ConfigDict(single.to_dict())
    if single.dataset in alike:  # by its whole path
        named.dataset = single.dataset.strip("./").replace("/", "-")
    name = workdir.default_path(named).name
    return name if not label or name.endswith(f"-{label}") else f"{name}-{label}"


def _base(config: ConfigDict) -> Path:
    named = f"{config.study.table}-{workdir.subject(config)}"
    return Path("runs") / config.study.get("folder", named)


def _answers(results: dict, config: ConfigDict) -> bool:
    """Whether results are of this configuration, and of all sets that it asks for."""
    theirs = {key: x for key, x in dict(results["config"]).items() if key != "clip.sha256"}
    same = not differing(theirs, flatten(config), set(workdir.EXECUTION) - {"targets"})
    same = same and (not config.eval.calibrate or "calibration" in results)
    if not same or not config.ood.sets:
        return same
    judged = results.get("ood", {"images": (), "temperature": None})
    there = set(config.ood.sets) <= set(judged["images"])
    chosen = results.get("ood_threshold", {}).get("chosen", "recall")
    same = judged["temperature"] == config.ood.temperature
    return there and same and chosen == config.ood.threshold
