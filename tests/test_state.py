"""Learning rates and the optimizer; that the latter is PyTorch's is in test_parity."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from sotglp_jax.configs.common import get_config
from sotglp_jax.methods.contract import Stage
from sotglp_jax.methods.sotglp import SotGlp
from sotglp_jax.optimizers import sgd
from sotglp_jax.parts import parts
from sotglp_jax.schedules import learning_rate

GOLDEN = Path(__file__).parent / "data" / "coop_dev.npz"


def rates(stage, steps_per_epoch):
    """The learning rate of every step of a stage, by epoch."""
    (part,) = parts([stage], steps_per_epoch)
    found = [float(learning_rate(stage, part.epoch(step))) for step in range(part.end)]
    return np.array(found).reshape(stage.epochs, steps_per_epoch)


def usual(arg=""):
    config = get_config(arg)
    (stage,) = SotGlp(None).stages(config.train)
    return stage


def test_warmup_is_constant_and_the_cosine_runs_over_the_rest():
    by_epoch = rates(usual("recipe=paper"), steps_per_epoch=7)
    assert by_epoch.shape == (50, 7) and (by_epoch == by_epoch[:, :1]).all()
    np.testing.assert_allclose(by_epoch[:5, 0], 1e-5)
    expected = 0.025 * (1 + np.cos(np.pi * np.arange(45) / 45))
    np.testing.assert_allclose(by_epoch[5:, 0], expected, atol=1e-7)


def test_without_warmup_it_is_the_official_cosine():
    stage = usual("recipe=official")
    for epoch in (0, 1, 100, 199):
        expected = 0.5 * stage.lr * (1 + np.cos(np.pi * epoch / 200))
        assert float(learning_rate(stage, epoch)) == pytest.approx(expected, abs=1e-8)


def test_dassl_is_what_torch_gives_to_coop():
    stage = Stage(epochs=50, lr=0.002, schedule="dassl", warmup_epochs=1, warmup_lr=1e-5)
    expected = np.load(GOLDEN)["lr/50"]
    np.testing.assert_allclose(rates(stage, 3), np.tile(expected[:, None], 3), rtol=1e-5)


def test_a_later_stage_counts_its_own_epochs():
    one, other = (Stage(n, 0.1, "paper", 0, 0.0) for n in (2, 3))
    first, second = parts([one, other], steps_per_epoch=4)
    assert (first.first, first.end, second.first, second.end) == (0, 8, 8, 20)
    assert [int(second.epoch(step)) for step in (8, 11, 12, 19)] == [0, 0, 1, 2]


def test_weight_decay_has_a_factor_by_name():
    params = {"whole": jnp.full(3, 2.0), "half": jnp.full(3, 2.0), "none": jnp.full(3, 2.0)}
    nothing = {name: jnp.zeros_like(x) for name, x in params.items()}
    optimizer = sgd(0.9, 0.01, {"half": 0.5, "none": 0.0})
    direction, state = optimizer.update(nothing, optimizer.init(params), params)
    for name, expected in (("whole", 0.02), ("half", 0.01), ("none", 0.0)):
        np.testing.assert_allclose(direction[name], expected, rtol=1e-6)
    again, _ = optimizer.update(nothing, state, params)
    np.testing.assert_allclose(again["whole"], 1.9 * 0.02, rtol=1e-6)
