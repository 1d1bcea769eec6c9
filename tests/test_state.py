"""The learning rate; that the optimizer is PyTorch's is in test_parity."""

import numpy as np
import pytest

from configs.common import get_config
from sotglp_jax.state import learning_rate


def test_warmup_is_constant_and_the_cosine_runs_over_the_rest():
    config = get_config().train
    schedule = learning_rate(config, steps_per_epoch=7)
    rates = np.array([schedule(step) for step in range(50 * 7)])
    by_epoch = rates.reshape(50, 7)
    assert (by_epoch == by_epoch[:, :1]).all()
    np.testing.assert_allclose(by_epoch[:5, 0], 1e-5)
    expected = 0.025 * (1 + np.cos(np.pi * np.arange(45) / 45))
    np.testing.assert_allclose(by_epoch[5:, 0], expected, atol=1e-7)


def test_without_warmup_it_is_the_official_cosine():
    config = get_config("recipe=official").train
    schedule = learning_rate(config, steps_per_epoch=3)
    for epoch in (0, 1, 100, 199):
        expected = 0.5 * config.lr * (1 + np.cos(np.pi * epoch / 200))
        assert float(schedule(3 * epoch + 2)) == pytest.approx(expected, abs=1e-8)
