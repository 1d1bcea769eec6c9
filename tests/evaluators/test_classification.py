"""What the deciding logits say of images: probabilities, calibration, the worst mistakes."""

import numpy as np
import pytest

from sotglp_jax.errors import InputError
from sotglp_jax.evaluators import classification, mistakes
from sotglp_jax.evaluators.classification import Predictions


def predictions(label, predicted, probability):
    probability = np.array(probability)
    return Predictions(np.array(label), np.array(predicted), probability, probability / 2)


def test_probabilities_are_of_the_given_and_of_the_true_class():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], np.float32))
    found = classification.chances(logits, np.array([1, 1]))
    np.testing.assert_allclose(found["probability"], [0.7, 0.6], rtol=1e-6)
    np.testing.assert_allclose(found["own"], [0.2, 0.6], rtol=1e-6)


def test_the_calibration_error_is_the_gap_of_each_bin():
    # Two bins: three images at 0.9, two of them right; one at 0.5, wrong. One at 1.0, right.
    found = predictions([0, 0, 1, 0, 2], [0, 0, 0, 1, 2], [0.9, 0.9, 0.9, 0.5, 1.0])
    expected = (3 * abs(0.9 - 2 / 3) + 0.5 + 0.0) / 5
    assert classification.calibration_error(found) == pytest.approx(expected)
    count, probability, correct = classification.reliability(found).T
    assert count.sum() == 5 and len(count) == classification.BINS
    assert probability[13] == pytest.approx(0.9) and correct[13] == pytest.approx(2 / 3)
    assert not np.isnan(classification.reliability(found)).any()


def test_mistakes_are_sorted_by_probability_and_counted_by_class():
    found = predictions([0, 1, 2, 0], [0, 0, 1, 2], [0.99, 0.6, 0.8, 0.7])
    assert found.mistakes.tolist() == [2, 3, 1]
    assert classification.confusion(found, 3).tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("module", [classification, mistakes])
def test_a_damaged_file_is_one_sentence(module, tmp_path):
    (tmp_path / module.FILE).write_bytes(b"PK")
    with pytest.raises(InputError, match=f"{module.FILE} is .*damaged: evaluate the run again"):
        module.load(tmp_path)
