"""The linear probe through the program."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from sotglp_jax import Classifier, methods, study
from sotglp_jax.configs import common
from sotglp_jax.data import datasets, digits, fewshot
from sotglp_jax.errors import InputError
from sotglp_jax.methods.linear_probe import fitter
from sotglp_jax.run import prepare, with_shots

pytestmark = pytest.mark.usefixtures("compiled")


def configuration(**changes):
    """Base to new on the digits, with one shot."""
    config = common.get_config("method=linear_probe,shots=1", "base_to_new")
    config.data.classes, config.targets = "base", ("new",)
    config.update_from_flattened_dict(changes)
    return config


def test_a_run_fits_searches_and_predicts(tmp_path):
    study.run_one(configuration(), str(tmp_path), "train")
    results = json.loads((tmp_path / "results.json").read_text())
    params = load_file(tmp_path / "params.safetensors")
    assert params["weight"].shape == (5, 64) and np.abs(params["weight"]).max() > 0
    assert results["learned"] == {"regularisation": {"C": float(params["c"])}} and params["c"] > 0
    assert results["method"]["title"] == "linear probe" and results["accuracy"]["probe"] > 0.4
    assert set(results["targets"]["new"]["accuracy"]) == {"zero_shot"}
    classifier = Classifier.load(tmp_path)
    labels = np.array(digits.source(range(900, 980)).labels)
    found = classifier([digits.draw(900 + i) for i in np.flatnonzero(labels < 5)])
    right = np.mean(found.labels == labels[labels < 5])
    assert right == pytest.approx(results["accuracy"]["probe"], abs=0.25)


def test_two_classes_are_two_rows():
    rng = np.random.default_rng(0)
    labels = np.arange(8) % 2
    features = rng.normal(size=(8, 3)) + labels[:, None]
    weight, bias = fitter(features, labels, 2, "converged")(1.0)
    assert weight.shape == (2, 3) and bias.shape == (2,)
    # At the optimum of Σ CE + ½|w|², w is the sum of the residuals' features.
    odds = features @ (weight[1] - weight[0]) + bias[1] - bias[0]
    residual = labels - 1 / (1 + np.exp(-odds))
    np.testing.assert_allclose(weight[1] - weight[0], residual @ features, atol=1e-8)
    assert residual.sum() == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"c": -1.0}, "method.c=-1.0 is too small"), ({"solver": "sgd"}, 'method.solver="sgd"')],
)
def test_wrong_options_are_told(changes, said):
    with pytest.raises(InputError, match=said):
        methods.make({"name": "linear_probe"} | changes, None)


def test_a_search_needs_validation_images():
    whole = datasets.resolve("digits", "")
    config = configuration(**{"data.sampler": "stratified"})
    with pytest.raises(InputError, match="no validation images .* method.c=0"):
        with_shots(config, whole)
    with_shots(configuration(**{"data.sampler": "stratified", "method.c": 1.0}), whole)


def test_its_own_subsets_are_nested_and_refuse_small_classes():
    labels = [0, 1] * 9
    (few,), (many,) = (fewshot.lpclip([labels], [k], seed=1) for k in (2, 4))
    assert set(few) < set(many) and sorted(labels[i] for i in many) == [0] * 4 + [1] * 4
    with pytest.raises(InputError, match="draws 10 images of class 0, which has 9"):
        fewshot.lpclip([labels], [10], seed=1)


def test_one_class_is_refused(tmp_path):
    whole = datasets.resolve("digits", "")
    assert len(whole.class_names) == 10
    config = configuration()
    run = prepare(config, str(tmp_path / "run"))
    with pytest.raises(InputError, match="two classes or more"):
        run.method.finish({}, {}, {"bias": np.zeros(1)}, None)
