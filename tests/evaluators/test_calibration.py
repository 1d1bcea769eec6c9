"""Temperatures that make probabilities as right as they say."""

import numpy as np
import pytest

from sotglp_jax.configs import common
from sotglp_jax.data import datasets
from sotglp_jax.errors import InputError
from sotglp_jax.evaluators import calibration
from sotglp_jax.evaluators.classification import Predictions, calibration_error
from sotglp_jax.run import with_shots


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def drawn(count, temperature, seed=0):
    """Logits, and labels that are as likely as softmax(logits / temperature) says."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(scale=3.0, size=(count, 5))
    labels = [draw.choice(5, p=p) for p in softmax(logits / temperature)]
    return logits, np.array(labels)


def error(logits, labels):
    chances = softmax(logits)
    own = chances[np.arange(len(labels)), labels]
    return calibration_error(Predictions(labels, chances.argmax(-1), chances.max(-1), own))


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_the_temperature_of_the_labels_is_found(truth):
    logits, labels = drawn(4000, truth)
    found = calibration.temperature(logits, labels)
    assert found == pytest.approx(truth, rel=0.1)
    others, their = drawn(4000, truth, seed=1)
    assert error(others / found, their) < 0.03
    assert truth == 1 or error(others / found, their) < error(others, their) / 2


def test_of_images_that_are_all_right_nothing_follows():
    logits = drawn(40, 1.0)[0]
    assert calibration.temperature(logits, logits.argmax(-1)) == 1.0
    assert calibration.temperature(logits, logits.argmin(-1)) == pytest.approx(20, rel=1e-3)


def test_a_temperature_needs_validation_images():
    config = common.get_config()
    config.eval.calibrate, config.data.sampler = True, "stratified"
    with pytest.raises(InputError, match="no validation images .* which eval.calibrate needs"):
        with_shots(config, datasets.resolve("digits"))
