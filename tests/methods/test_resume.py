"""A killed training of each method ends with the bits of one that was not.

That stages, turns, updates and averages go on where they were is in test_train.py, in seconds.
"""

import jax
import numpy as np
import pytest
import runs

from sotglp_jax import methods, train
from sotglp_jax.configs import common
from sotglp_jax.run import prepare

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled")]
SHORT = {"train.epochs": 2, "train.batch_size": 5, "train.checkpoint_every": 1}
SHORT |= {"train.warmup_epochs": 0}
STAGES = {"plotpp": {"method.first_epochs": 1}}
STAGES |= dict.fromkeys(("lsn", "lsn_cocoop"), {"method.negative_epochs": 1})
TRAINED = sorted(methods.NAMES.keys() - {"zeroshot", "linear_probe"})


@pytest.mark.parametrize("name", TRAINED)
def test_killed_and_resumed_equals_uninterrupted(name, tmp_path, ended):
    config = common.get_config(f"method={name},shots=1")
    config.update_from_flattened_dict(SHORT | STAGES.get(name, {}))
    train.train(prepare(config, str(tmp_path / "whole")))
    steps = int(ended[-1]["step"])
    for taken in (1, steps - 2):
        runs.train_until_killed(prepare(config, str(tmp_path / "killed")), taken)
    train.train(prepare(config, str(tmp_path / "killed")))
    jax.tree.map(np.testing.assert_array_equal, *ended[-2:])
