"""Short runs of the main command, as several test files look at them."""

import itertools
import json
import time

import pytest

from sotglp_jax import features, train

SHORT = ["--config.train.epochs=12", "--config.train.warmup_epochs=1", "--config.train.lr=0.02"]
SHORT += ["--config.train.log_every=5", "--config.train.checkpoint_every=5"]
SHORT += ["--config.precision=float32"]


def metrics(workdir):
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def wait_for_step(workdir, step):
    for _ in range(3600):  # three minutes: the machine may be busy
        path = workdir / "metrics.jsonl"
        if path.exists() and any(m["step"] >= step for m in metrics(workdir)):
            return
        time.sleep(0.05)
    raise TimeoutError(f"{workdir} never reached step {step}")


class Killed(Exception):
    """Stands for SIGKILL."""


def train_until_killed(run, steps):
    """Trains for so many steps more, and is killed in the next."""
    whole = features.train_batches

    def cut_off(*arguments):
        yield from itertools.islice(whole(*arguments), steps)
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(features, "train_batches", cut_off)
        train.train(run)
