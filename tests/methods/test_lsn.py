"""LSN through the program: what its negatives do in scores, results and on other classes."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from sotglp_jax import Classifier, study
from sotglp_jax.configs import common
from sotglp_jax.data import digits
from sotglp_jax.errors import InputError
from sotglp_jax.run import prepare
from sotglp_jax.trained import exported

pytestmark = pytest.mark.usefixtures("compiled")
METHODS = "lsn", pytest.param("lsn_cocoop", marks=pytest.mark.slow)
SHORT = {"train.epochs": 1, "method.negative_epochs": 1}


def configuration(method, **changes):
    """Base to new on the digits, an epoch of a step or two for each."""
    config = common.get_config(f"method={method},shots=1", "base_to_new")
    config.data.classes, config.targets, config.ood.sets = "base", ("new",), ("noise",)
    config.update_from_flattened_dict(SHORT | changes)
    return config


@pytest.fixture(scope="module", params=METHODS)
def run(request, tmp_path_factory):
    """The folder of a finished run of each."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    study.run_one(configuration(request.param), str(folder), "train")
    return folder


def test_detection_has_a_score_of_its_own_and_flags_by_it(run):
    results = json.loads((run / "results.json").read_text())
    assert list(results["ood"]["scores"]) == ["mcm", "lsn", "prompted"]
    assert results["ood_threshold"]["score"] == "lsn"
    kept = np.load(run / "ood_scores.npz")
    negative = kept["test/lsn"] - kept["test/mcm"]
    assert (0.2 < negative).all() and (negative < 0.22).all()  # a flat softmax of five classes
    first = digits.draw(900)
    assert Classifier.load(run)([first]).ood_score == pytest.approx(kept["test/lsn"][:1], abs=1e-6)


def test_new_classes_have_the_positive_alone(run):
    results = json.loads((run / "results.json").read_text())
    assert results["targets"]["new"]["accuracy"].keys() == {"zero_shot", "prompted"}
    params = load_file(run / "params.safetensors")
    assert {f"no{k}" for k in (1, 2, 3)} < params.keys() and params["no1"].shape == (5, 16, 64)


def test_an_export_flags_as_the_run_does(run, tmp_path):
    exported.write(run, tmp_path / "digits.export")
    images = [digits.draw(i) for i in range(900, 904)]
    ours, theirs = (Classifier.load(x)(images) for x in (run, tmp_path / "digits.export"))
    np.testing.assert_allclose(ours.ood_score, theirs.ood_score, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method.n_negative": 0}, "method.n_negative=0 is too small"),
        ({"method.objective": "plain"}, 'method.objective="plain" is unknown'),
        ({"method.n_ctx_negative": 77}, "81 tokens with its prompt"),
    ],
)
def test_bad_options_are_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        prepare(configuration("lsn", **changes), str(tmp_path / "run"))
