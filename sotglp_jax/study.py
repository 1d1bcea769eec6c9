"""From a configuration to results: one run, or several whose results make a table."""

import itertools
import json
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
    try:
        if mode == "train" and run.method:
            train(run)
        else:
            evaluate(run)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(
            "the device's memory does not hold this run: set --config.text.chunk=64 or less, a "
            "smaller --config.train.batch_size, or --config.precision=bf16."
        ) from error


def run_all(config: ConfigDict, folder: str, mode: str) -> None:
    """Does so for every run of a study that is not finished, and prints the study's table.

    Args:
      config: of the runs, and `study` as `configs.common.study` makes it.
      folder: gets the run folders; "" names one below `runs` after the table and the data set.
      mode: as in `run_one`; "eval" evaluates finished runs too.

    Raises:
      InputError: anything the user can mend.
    """
    labels, singles = zip(
        *(
            _single(config, *axes)
            for axes in itertools.product(config.study.settings, *_axes(config))
        ),
        strict=True,
    )
    names = [_name(*run) for run in zip(labels, singles, strict=True)]
    base = Path(folder).expanduser() if folder else _base(config)
    for i, (single, name) in enumerate(zip(singles, names, strict=True), start=1):
        # The first process decides: another may see the shared disk as it was.
        finished = multihost_utils.broadcast_one_to_all(np.array(_finished(base / name, single)))
        if mode == "eval" or not finished:
            print(f"[{i} of {len(singles)}] {base / name}", flush=True)
            run_one(single, str(base / name), mode)
            written = (base / name / "results.json").exists()
            if not multihost_utils.broadcast_one_to_all(np.array(written)):  # stopped by Ctrl-C
                return
    if not hosts.first():
        return
    results = [json.loads((base / name / "results.json").read_text()) for name in names]
    results = [x | {"label": label} for x, label in zip(results, labels, strict=True)]
    print(tables.TABLES[config.study.table](results))


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
    return Path("runs") / f"{config.study.table}-{workdir.subject(config)}"


def _finished(folder: Path, config: ConfigDict) -> bool:
    """Whether a folder holds the results of this very configuration."""
    if not (folder / "results.json").exists():
        return False
    theirs = json.loads((folder / "results.json").read_text())["config"]
    ours = flatten(config)
    ignored = set(workdir.EXECUTION) - {"targets"}
    return all(theirs.get(key) == value for key, value in ours.items() if key not in ignored)
