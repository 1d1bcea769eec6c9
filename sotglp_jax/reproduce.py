"""The paper's tables again: how many runs and images they take, the runs, and the report."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from sotglp_jax import clip, methods, study
from sotglp_jax.data import datasets
from sotglp_jax.data.catalog import ENTRIES
from sotglp_jax.devices import hosts
from sotglp_jax.errors import InputError
from sotglp_jax.reports.tables import counted
from sotglp_jax.run import check_steps, steps_per_epoch, with_shots
from sotglp_jax.settings import validate


@dataclasses.dataclass(frozen=True)
class Size:
    """How much a run has to do.

    Attributes:
      steps: of the training.
      trained: images in all of these.
      tested: images in evaluation, those of out-of-distribution sets among them.
    """

    steps: int
    trained: int
    tested: int


def reproduce(config: ConfigDict, folder: str, mode: str, yes: bool) -> None:
    """Says how much a study has to do; runs what is missing, and writes the report.

    Args:
      config: see `configs/reproduce.py`.
      folder: gets the run folders and `report`; "" names one below `runs` after the suite.
      mode: "train".
      yes: whether to start.

    Raises:
      InputError: `yes` is not given, or anything else that the user can mend.
    """
    if mode != "train":
        raise InputError("--mode=eval is for single runs: leave it out to run what is missing.")
    singles = study.expand(config, folder)
    left = {s.folder: size(s.config) for s in singles if not s.finished}
    for line in plan(len(singles), list(left.values())):
        print(line, flush=True)
    base = singles[0].folder.parent
    if not yes:
        raise InputError(f"nothing was started: --yes runs that and writes {base / 'report'}.")
    _check_drawn([s.config for s in singles])
    hosts.together(lambda: find_data([s.config for s in singles if s.folder in left]))
    images = {folder: x.trained + x.tested for folder, x in left.items()}
    sizes = [images.get(single.folder, 0) for single in singles]
    if study.run_missing(singles, mode, sizes) and hosts.first():
        write_report(base)


def _check_drawn(configs: Sequence[ConfigDict]) -> None:
    """Refuses runs of a data set that differ in what the report, after them, would refuse."""
    first: dict[str, ConfigDict] = {}
    for config in configs:
        other = first.setdefault(config.dataset, config)
        for key in ("sampler", "renumber", "pool", "full_stop"):
            if config.data[key] != other.data[key]:
                one, two = (f"{c.data[key]} with {c.method.name}" for c in (other, config))
                raise InputError(
                    f"results of {config.dataset} cannot stand in one table: data.{key} is {one} "
                    f"and {two}: name the methods apart in methods=, or leave recipe= out."
                )


def write_report(base: Path) -> None:
    """Writes the report of the runs below a folder into it, and says where it is."""
    from sotglp_jax.reports import report

    for warning in report.write(base, base / "report"):
        print(f"warning: {warning}")
    print(f"report: {base / 'report' / 'report.html'}")


def plan(runs: int, left: Sequence[Size]) -> Iterator[str]:
    """Yields lines of text: how many runs and images there are to do.

    Args:
      runs: their number.
      left: sizes of those that are to be run.
    """
    steps, trained, tested = (
        sum(getattr(x, name) for x in left) for name in ("steps", "trained", "tested")
    )
    yield f"{counted(runs, 'run')}, {runs - len(left)} of them finished"
    yield f"to do: {trained:,} training images in {steps:,} steps, {tested:,} images in evaluation"


def size(config: ConfigDict) -> Size:
    """Returns a run's size, by the catalogue where that has the data set."""
    classes, tests = _counts(config.dataset, config.data.root)
    batch, shots = config.train.batch_size, classes * config.shots
    method = methods.make(config.method, towers=None)
    epochs = sum(stage.passes for stage in method.stages(config.train))
    steps = epochs * steps_per_epoch(config, shots)
    return Size(steps, steps * min(batch, shots), tests + sum(_outside(config)))


@functools.cache
def _counts(name: str, root: str) -> tuple[int, int]:
    """Classes and test images of a data set."""
    if name in ENTRIES:
        return ENTRIES[name].classes, ENTRIES[name].images[-1]
    dataset = datasets.resolve(name, root)
    return len(dataset.class_names), len(dataset.test)


def _outside(config: ConfigDict) -> list[int]:
    """Images of every out-of-distribution set."""
    return [
        ENTRIES[name].images[-1]
        if name in ENTRIES
        else len(datasets.unlabelled(name, config.data.root).test)
        for name in config.ood.sets
    ]


def find_data(configs: Sequence[ConfigDict]) -> None:
    """Makes sure, before hours of runs, that data and CLIP are there and fit; else `InputError`."""
    resolve, unlabelled = functools.cache(datasets.resolve), functools.cache(datasets.unlabelled)
    load = functools.cache(clip.load)
    for config in configs:
        validate(config)
        towers = load(config.clip.name, config.clip.activation, config.clip.heads).towers()
        method = methods.make(config.method, towers)
        root, partial = config.data.root, config.data.allow_partial
        dataset = resolve(config.dataset, root, allow_partial=partial)
        if method.stages(config.train):
            check_steps(config, len(dataset.class_names) * config.shots)
        if method.validation:
            with_shots(config, dataset)  # refuses what has no validation images
        for name in config.ood.sets:
            unlabelled(name, root, partial)
