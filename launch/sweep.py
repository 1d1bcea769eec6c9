"""Data sets x shots x seeds x variants, each a run of the main command; at the end, the table.

  python launch/sweep.py --config=configs/fewshot.py:clip=ViT-B/16 --datasets=eurosat,dtd \
      --shots=1,16 --seeds=1,2,3 --variant=no_vv --variant=K5:method.topk=5 --gpus=0,1,2,3

Further arguments (--config.KEY=VALUE) go to every run. A run that has its results.json below --out
is skipped and not looked at again: give other settings another --out. One that fails is started
again up to --retries times, and goes on from its last checkpoint; bad input (exit code 2) is not
retried. Ctrl-C lets the runs save and stops; the same line goes on. Exit code 1: some runs have no
results. Each run's output is in its folder's name with .log.

On Slurm, --slurm="--partition=gpu --gpus=1 --time=4:00:00" submits one array of the runs that have
no results, --jobs at a time, instead of starting them here. Later the same line submits what is
left, and prints the table when nothing is.

--dry-run prints every command. Tested on CPUs, and the submission with a stand-in for sbatch.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sotglp_jax.tables import CLASSIFIERS, spread

BAD_INPUT = 2  # the main command's exit code for what only the user can mend


@dataclasses.dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
      group: data set, variant and shots: what the mean over seeds is taken of.
      folder: the run folder.
      command: of the process.
    """

    group: tuple[str, str, int]
    folder: Path
    command: tuple[str, ...]

    @property
    def results(self) -> Path:
        """The file that a finished run has."""
        return self.folder / "results.json"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; `rest` holds what goes to every run."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="FILE[:key=value,...] of every run")
    parser.add_argument("--datasets", type=_list, required=True)
    parser.add_argument("--shots", type=_numbers, default=[16])
    parser.add_argument("--seeds", type=_numbers, default=[1, 2, 3])
    parser.add_argument(
        "--variant",
        action="append",
        help="one of the configuration's, or NAME:KEY=VALUE,...; repeated, one a variant",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument(
        "--gpus", type=_list, help="one run at a time on each of these; sets --jobs"
    )
    parser.add_argument("--retries", type=int, default=1)
    parser.add_argument("--slurm", help="sbatch's options")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # a task of the array
    args, args.rest = parser.parse_known_args(argv)
    wrong = [x for x in args.rest if not x.startswith("--config.")]
    if wrong:
        parser.error(f"{wrong[0]}: only --config.KEY=VALUE goes to the runs.")
    return args


def _list(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(x) for x in text.split(",")]


def plan(args: argparse.Namespace) -> list[Job]:
    """Every run of the sweep, seeds innermost."""
    jobs = []
    for dataset, text, shots, seed in itertools.product(
        args.datasets, args.variant or ["full"], args.shots, args.seeds
    ):
        variant, _, values = text.partition(":")
        stem = re.sub(r"[^\w.@-]+", "-", Path(dataset).stem)
        folder = args.out / f"{stem}-{variant}-{shots}shot-seed{seed}"
        separator = "," if ":" in args.config else ":"
        config = f"{args.config}{separator}dataset={dataset},shots={shots},seed={seed}"
        if variant != "full" and not values:
            config += f",variant={variant}"
        overrides = [f"--config.{x}" for x in values.split(",") if x]
        command = [sys.executable, "-m", "sotglp_jax.main", f"--config={config}"]
        command += [f"--workdir={folder}", *args.rest, *overrides]
        jobs.append(Job((dataset, variant, shots), folder, tuple(command)))
    if len({job.folder for job in jobs}) < len(jobs):
        sys.exit("error: two data sets or variants have the same name: their folders would clash.")
    return jobs


class Pool:
    """Runs a bounded number of jobs at a time; the first Ctrl-C or SIGTERM is passed on to them.

    Args:
      slots: for each place in the pool, variables of its processes' environment.
      retries: starts after the first.
    """

    def __init__(self, slots: Sequence[dict[str, str]], retries: int):
        self._slots, self._size, self._retries = queue.Queue(), len(slots), retries
        self._running, self._stop = set(), threading.Event()
        for slot in slots:
            self._slots.put(slot)

    def run(self, jobs: Sequence[Job]) -> None:
        """Returns when every job has ended for good."""
        before = {s: signal.signal(s, self._end) for s in (signal.SIGINT, signal.SIGTERM)}
        with ThreadPoolExecutor(self._size) as pool:
            list(pool.map(self._finish, jobs))
        for number, handler in before.items():
            signal.signal(number, handler)

    def _finish(self, job: Job) -> None:
        for _ in range(1 + self._retries):
            if self._stop.is_set():
                return
            code = self._attempt(job)
            done = job.results.exists()
            print(f"{job.folder.name}: {'done' if done else f'exit code {code}'}", flush=True)
            if done or code == BAD_INPUT:
                return

    def _attempt(self, job: Job) -> int:
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        with self._slot() as slot, log_of(job).open("a") as log:
            process = subprocess.Popen(
                job.command,
                env=os.environ | slot,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C comes through this process alone
            )
            self._running.add(process)
            if self._stop.is_set():
                process.terminate()
            code = process.wait()
            self._running.discard(process)
        return code

    @contextlib.contextmanager
    def _slot(self) -> Iterator[dict[str, str]]:
        slot = self._slots.get()
        try:
            yield slot
        finally:
            self._slots.put(slot)

    def _end(self, *_) -> None:
        self._stop.set()
        for process in tuple(self._running):
            process.terminate()


def log_of(job: Job) -> Path:
    """Where a run's output goes, beside its folder."""
    return job.folder.with_name(job.folder.name + ".log")


def submission(args: argparse.Namespace, jobs: Sequence[Job]) -> list[str]:
    """The sbatch command for the runs without results, each a task that starts this script."""
    left = ",".join(str(i) for i, job in enumerate(jobs) if not job.results.exists())
    given = [x for x in sys.argv if x != "--dry-run"]
    task = shlex.join([sys.executable, *given]) + " --only=$SLURM_ARRAY_TASK_ID"
    options = ["--requeue", "--open-mode=append", "--signal=B:TERM@120"]
    options += [f"--output={args.out}/slurm-%A-%a.out", *shlex.split(args.slurm)]
    return ["sbatch", f"--array={left}%{args.jobs}", *options, f"--wrap=exec {task}"]


def table(jobs: Sequence[Job]) -> str:
    """Accuracies in percent: mean and standard deviation (n - 1) over the seeds."""
    groups: dict[tuple, list[dict]] = {}
    for job in jobs:
        found = groups.setdefault(job.group, [])
        if job.results.exists():
            found.append(json.loads(job.results.read_text())["accuracy"])
    head = f"{'data set':<20}{'variant':<14}{'shots':>5}{'seeds':>7}"
    lines = [head + "".join(f"{name:>14}" for name in CLASSIFIERS)]
    for (dataset, variant, shots), found in groups.items():
        cells = "".join(f"{_cell([x[c] for x in found if c in x]):>14}" for c in CLASSIFIERS)
        lines.append(f"{Path(dataset).stem:<20}{variant:<14}{shots:>5}{len(found):>7}{cells}")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    return spread([100 * x for x in values]) if values else "-"


def main() -> int:
    """Returns the exit code."""
    args = parse(sys.argv[1:])
    jobs = plan(args)
    if args.only is not None:
        jobs, args.slurm = [jobs[args.only]], None
    left = [job for job in jobs if not job.results.exists()]
    if args.slurm is not None and left:
        command = submission(args, jobs)
        print(shlex.join(command))
        if args.dry_run:
            return 0
        args.out.mkdir(parents=True, exist_ok=True)
        return subprocess.run(command).returncode
    slots = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in args.gpus or ()] or [{}] * args.jobs
    if args.dry_run:
        print("\n".join(shlex.join(job.command) for job in left))
        return 0
    print(f"{len(jobs)} runs, {len(jobs) - len(left)} of them finished", flush=True)
    Pool(slots, args.retries).run(left)
    print(table(jobs))
    failed = [job for job in jobs if not job.results.exists()]
    for job in failed:
        print(f"no results: {job.folder}, see {log_of(job)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
