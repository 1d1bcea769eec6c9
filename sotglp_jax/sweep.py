"""Runs what is not finished of studies, several runs at a time; at the end, their tables.

  sotglp sweep --config=configs/shots.py:clip=ViT-B/16 --gpus=0,1,2,3
  sotglp sweep --config=configs/shots.py:dataset={eurosat,dtd},variant={full,no_vv}

--config is repeated, once a study, as bash writes it from {braces}: the second line is 2 data sets
x 2 variants x 5 numbers of shots x 3 seeds, each data set with its own defaults. Further arguments
(--config.KEY=VALUE) go to every run; --workdir gets the run folders, and is named after the study
if not given. Every run is the main command with --only, and its output is in its folder's name with
.log. One that fails is started again up to --retries times, and goes on from its last checkpoint;
bad input (exit code 2) is not retried. Ctrl-C lets the runs save and stops; the same line goes on.
Exit code 1: some runs have no results, and their studies no table.

On Slurm, --slurm="--partition=gpu --gpus=1 --time=4:00:00" submits an array a study of the runs
that are not finished, --jobs of each at a time, instead of starting them here. Later the same line
submits what is left, and prints the tables when nothing is.

--dry-run prints every command. Tested on CPUs, and the submission with a stand-in for sbatch.
"""

import argparse
import contextlib
import dataclasses
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from sotglp_jax import reproduce, study
from sotglp_jax.errors import InputError, run_command
from sotglp_jax.main import load
from sotglp_jax.paths import in_bucket

BAD_INPUT = 2  # the main command's exit code for what only the user can mend
MAIN = (sys.executable, "-m", "sotglp_jax.main")


@dataclasses.dataclass(frozen=True)
class Study:
    """What a --config names.

    Attributes:
      config: of all its runs.
      runs: in the order of the main command's --only.
      command: the main command for all of them.
    """

    config: ConfigDict
    runs: tuple[study.Single, ...]
    command: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a study, in a process of its own."""

    study: Study
    number: int

    @property
    def run(self) -> study.Single:
        """The run."""
        return self.study.runs[self.number]

    @property
    def command(self) -> tuple[str, ...]:
        """Of the process."""
        return (*self.study.command, f"--only={self.number}")

    @property
    def log(self) -> Path:
        """Where its output goes: beside the run folder, below `runs` where that is in a bucket."""
        folder = self.run.folder
        return (Path("runs") if in_bucket(folder) else folder.parent) / f"{folder.name}.log"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; `rest` holds what goes to every run."""
    parser = argparse.ArgumentParser(
        prog="python -m sotglp_jax.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", action="append", required=True, help="FILE[:key=value,...], a study; repeated"
    )
    parser.add_argument("--workdir", help="gets the run folders")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--gpus", help="0,1,...: one run at a time on each; sets --jobs")
    parser.add_argument("--retries", type=int, default=1)
    parser.add_argument("--slurm", help="sbatch's options")
    parser.add_argument("--dry-run", action="store_true")
    flags.FLAGS(argv[:1])
    args, args.rest = parser.parse_known_args(argv[1:])
    wrong = [x for x in args.rest if not x.startswith("--config.")]
    if wrong:
        parser.error(f"{wrong[0]}: only --config.KEY=VALUE goes to the runs.")
    return args


def read(args: argparse.Namespace) -> list[Study]:
    """Reads the studies; one that is none is an `InputError`."""
    workdir = [f"--workdir={args.workdir}"] if args.workdir else []
    studies = []
    for text in args.config:
        config = load(text, args.rest)
        if "study" not in config:
            raise InputError(f"--config={text} is one run: take a study, such as configs/shots.py.")
        command = (*MAIN, f"--config={text}", *workdir, *args.rest)
        studies.append(Study(config, tuple(study.expand(config, args.workdir or "")), command))
    return studies


def plan(studies: Sequence[Study]) -> list[Job]:
    """Returns a job for every run that is not finished; one that two studies have counts once.

    Raises:
      InputError: two studies have different runs of one name.
    """
    jobs, configs = {}, {}
    for one in studies:
        for number, run in enumerate(one.runs):
            if configs.setdefault(run.folder, run.config).to_json() != run.config.to_json():
                raise InputError(
                    f"two studies have different runs of the name {run.folder}: start them one "
                    "after the other, each with a --workdir of its own."
                )
            if not run.finished:
                jobs.setdefault(run.folder, Job(one, number))
    return list(jobs.values())


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
            done = job.run.finished
            print(f"{job.run.folder.name}: {'done' if done else f'exit code {code}'}", flush=True)
            if done or code == BAD_INPUT:
                return

    def _attempt(self, job: Job) -> int:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with self._slot() as slot, job.log.open("a") as log:
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


def submit(args: argparse.Namespace, studies: Sequence[Study], jobs: Sequence[Job]) -> int:
    """Submits an array a study of the jobs; returns the exit code."""
    for one in studies:
        left = [job for job in jobs if job.study is one]
        if not left:
            continue
        command = submission(args, left)
        print(shlex.join(command), flush=True)
        if not args.dry_run:
            left[0].log.parent.mkdir(parents=True, exist_ok=True)
            if code := subprocess.run(command).returncode:
                return code
    return 0


def submission(args: argparse.Namespace, jobs: Sequence[Job]) -> list[str]:
    """Returns the sbatch command for jobs of one study, each a task of its array."""
    array = ",".join(str(job.number) for job in jobs)
    task = shlex.join(jobs[0].study.command) + " --only=$SLURM_ARRAY_TASK_ID"
    options = ["--requeue", "--open-mode=append", "--signal=B:TERM@120"]
    options += [f"--output={jobs[0].log.parent}/slurm-%A-%a.out", *shlex.split(args.slurm)]
    return ["sbatch", f"--array={array}%{args.jobs}", *options, f"--wrap=exec {task}"]


def conclude(studies: Sequence[Study], jobs: Sequence[Job]) -> int:
    """Shows the tables of what is finished, and says what is not; returns the exit code."""
    failed = [job for job in jobs if not job.run.finished]
    missing = {job.run.folder for job in failed}
    for one in studies:
        if missing.isdisjoint(run.folder for run in one.runs):
            if one.config.study.table == "report":
                reproduce.write_report(one.runs[0].folder.parent)
            else:
                print(study.table(one.config, one.runs))
    for job in failed:
        print(f"no results: {job.run.folder}, see {job.log}")
    return int(bool(failed))


def main(args: argparse.Namespace) -> int:
    """Returns the exit code."""
    studies = read(args)
    jobs = plan(studies)
    if args.slurm is not None and jobs:
        return submit(args, studies, jobs)
    if args.dry_run:
        print("\n".join(shlex.join(job.command) for job in jobs))
        return 0
    total = len({run.folder for one in studies for run in one.runs})
    print(f"{total} runs, {total - len(jobs)} of them finished", flush=True)
    gpus = args.gpus.split(",") if args.gpus else ()
    slots = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}] * args.jobs
    Pool(slots, args.retries).run(jobs)
    return conclude(studies, jobs)


if __name__ == "__main__":
    run_command(lambda args: sys.exit(main(args)), flags_parser=parse)
