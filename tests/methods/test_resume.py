"""A killed training of each method ends with the bits of one that was not.

That stages, turns, updates and averages go on where they were is in test_train.py, in seconds.
"""

import itertools

import jax
import numpy as np
import pytest

from sotglp_jax import evaluate, features, methods, train
from sotglp_jax.configs import common
from sotglp_jax.run import prepare

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled")]
SHORT = {"train.epochs": 2, "train.batch_size": 5, "train.checkpoint_every": 1}
SHORT |= {"train.warmup_epochs": 0}
STAGES = {"plotpp": {"method.first_epochs": 1}}
STAGES |= dict.fromkeys(("lsn", "lsn_cocoop"), {"method.negative_epochs": 1})
TRAINED = sorted(methods.NAMES.keys() - {"zeroshot", "linear_probe"})


class Killed(Exception):
    """Stands for SIGKILL."""


@pytest.fixture
def ended(monkeypatch):
    """The states that trainings ended with, instead of an evaluation."""
    states = []
    monkeypatch.setattr(evaluate, "report", lambda *x: states.append(jax.device_get(x[4])))
    return states


@pytest.mark.parametrize("name", TRAINED)
def test_killed_and_resumed_equals_uninterrupted(name, tmp_path, monkeypatch, ended):
    config = common.get_config(f"method={name},shots=1")
    config.update_from_flattened_dict(SHORT | STAGES.get(name, {}))
    train.train(prepare(config, str(tmp_path / "whole")))
    batches = features.train_batches
    steps = int(ended[0]["step"])
    for taken in (1, steps - 2):
        monkeypatch.setattr(features, "train_batches", lambda *x, n=taken: cut(batches(*x), n))
        with pytest.raises(Killed):
            train.train(prepare(config, str(tmp_path / "killed")))
    monkeypatch.setattr(features, "train_batches", batches)
    train.train(prepare(config, str(tmp_path / "killed")))
    jax.tree.map(np.testing.assert_array_equal, *ended)


def cut(batches, taken):
    """Some batches, and then the end of the process."""
    yield from itertools.islice(batches, taken)
    raise Killed
