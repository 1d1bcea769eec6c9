"""The paper's tables again: what they take on this device, their runs, and the report."""

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
from ml_collections import ConfigDict

from sotglp_jax import benchmark, hosts, study
from sotglp_jax.benchmark import Case
from sotglp_jax.data import datasets, loader
from sotglp_jax.data.catalog import ENTRIES
from sotglp_jax.errors import InputError
from sotglp_jax.run import with_shots

LIMIT = 2.0  # seconds of a measurement; what promises to take longer once is not measured
FLOPS = {"train": benchmark.training_flops, "eval": benchmark.evaluation_flops}


@dataclasses.dataclass(frozen=True)
class Effort:
    """What a run takes.

    Attributes:
      case: the sizes of its programs.
      program: all that they depend on, as text.
      steps: of the training.
      trained: images in all of them.
      batches: of images in evaluation.
      tested: images in all of them; test images count twice where others are told from them.
    """

    case: Case
    program: str
    steps: int
    trained: int
    batches: int
    tested: int


def reproduce(config: ConfigDict, folder: str, mode: str, yes: bool) -> None:
    """Says what a study takes; runs what is missing, and writes the report.

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
    left = [single for single in singles if not single.finished]
    for line in plan(singles, left):
        print(line, flush=True)
    base = singles[0].folder.parent
    if not yes:
        raise InputError(f"nothing was started: --yes runs that and writes {base / 'report'}.")
    hosts.together(lambda: find_data([single.config for single in left]))
    if study.run_missing(singles, mode) and hosts.first():
        from sotglp_jax.reports import report

        for warning in report.write(base, base / "report"):
            print(f"warning: {warning}")
        print(f"report: {base / 'report' / 'report.html'}")


def plan(singles: Sequence[study.Single], left: Sequence[study.Single]) -> Iterator[str]:
    """How many runs, images, and then, measured, hours on this device, as lines of text.

    Args:
      singles: all runs.
      left: those that are to be run.
    """
    efforts = [effort(single.config) for single in left]
    trained, steps, tested = (
        sum(getattr(e, name) for e in efforts) for name in ("trained", "steps", "tested")
    )
    yield f"{len(singles)} runs, {len(singles) - len(left)} of them finished"
    yield f"to do: {trained:,} training images in {steps:,} steps, {tested:,} images in evaluation"
    if efforts and jax.process_count() == 1:
        with study.too_large_said():
            yield from estimate(efforts)


def effort(config: ConfigDict) -> Effort:
    """What a run takes, by the catalogue where that has the data set."""
    classes, tests = _counts(config.dataset, config.data.root)
    batch, learns = config.train.batch_size, config.method.name == "sotglp"
    shots = classes * config.shots
    steps = config.train.epochs * loader.steps_per_epoch(shots, batch) * learns
    parts = [tests, *([tests] if config.ood.sets else []), *_outside(config)]
    return Effort(
        case=Case(
            config.clip.name, classes, batch, config.precision, config.mesh, config.text.chunk
        ),
        program=f"{config.method.to_json()} {config.transport.to_json()}",
        steps=steps,
        trained=steps * min(batch, shots),
        batches=sum(-(-images // batch) for images in parts),
        tested=sum(parts),
    )


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
        else len(datasets.unlabelled(name, config.data.root))
        for name in config.ood.sets
    ]


def estimate(efforts: Sequence[Effort]) -> list[str]:
    """The time that runs take, from a training step and a batch of test images measured here."""
    cases = sorted({e.case for e in efforts}, key=benchmark.training_flops)
    times = {what: measure(what, cases) for what in FLOPS}
    total = sum(
        e.steps * seconds("train", e.case, times["train"])
        + e.batches * seconds("eval", e.case, times["eval"])
        for e in efforts
    )
    compiled = sum(first[1] for first in (next(iter(x.values())) for x in times.values()))
    total += compiled * len({(e.case, e.program) for e in efforts})
    devices = jax.devices()
    lines = [f"about {_duration(total)} on {len(devices)} x {devices[0].device_kind}, by"]
    lines += [
        f"  {title} of {case.batch} images, {case.classes} classes: {times[what][case][0]:.2g} s"
        for what, title in (("train", "a training step"), ("eval", "a test batch"))
        for case in times[what]
    ]
    return lines + ["  other sizes by their operations; reading images and start-up not counted"]


def measure(what: str, cases: Sequence[Case]) -> dict[Case, tuple[float, float]]:
    """Mean seconds, and those to compile, at the smallest size and, where quick, the largest.

    Args:
      what: a key of `FLOPS`.
      cases: sizes, in the order of their operations.
    """
    times = {cases[0]: _time(what, cases[0])}
    if cases[-1] not in times and seconds(what, cases[-1], times) < LIMIT:
        times[cases[-1]] = _time(what, cases[-1])
    return times


def _time(what: str, case: Case) -> tuple[float, float]:
    work = benchmark.MEASURED[what](case)
    jax.block_until_ready(work.run())  # the first time is not like the others
    began, times, spent = time.perf_counter(), 0, 0.0
    while spent < LIMIT:
        jax.block_until_ready(work.run())
        times, spent = times + 1, time.perf_counter() - began
    return spent / times, work.compile_s


def seconds(what: str, case: Case, times: Mapping[Case, tuple[float, float]]) -> float:
    """At any size, by the operations of the measured one that is nearest."""
    flops = functools.cache(FLOPS[what])
    nearest = min(times, key=lambda other: abs(flops(other) - flops(case)))
    return times[nearest][0] * flops(case) / flops(nearest)


def _duration(total: float) -> str:
    return f"{total / 3600:,.1f} hours" if total >= 3600 else f"{total / 60:.0f} minutes"


def find_data(configs: Sequence[ConfigDict]) -> None:
    """Makes sure, before hours of runs, that all data is there; else an `InputError`."""
    resolve, unlabelled = functools.cache(datasets.resolve), functools.cache(datasets.unlabelled)
    for config in configs:
        root, partial = config.data.root, config.data.allow_partial
        dataset = resolve(config.dataset, root, allow_partial=partial)
        if config.method.fusion == "validated":
            with_shots(config, dataset)
        for name in config.ood.sets:
            unlabelled(name, root, partial)
