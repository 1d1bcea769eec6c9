"""SOT-GLP's variants past the paper through a whole run: averaged, ensembled, ε chosen."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from sotglp_jax import Classifier, study
from sotglp_jax.configs import common
from sotglp_jax.data import digits
from sotglp_jax.devices import hosts
from sotglp_jax.methods import sotglp
from sotglp_jax.methods.sotglp import SotGlp
from sotglp_jax.trained import exported, finished

TRAIN = {"epochs": 20, "lr": 0.1, "schedule": "paper", "warmup_epochs": 0, "warmup_lr": 0.0}
TEST = range(900, 960)


def test_weights_of_an_average_are_a_gaussian_over_the_epochs():
    (plain,) = SotGlp(None).stages(TRAIN)
    assert not plain.average
    (stage,) = SotGlp(None, average_mean=0.5, average_std=0.1).stages(TRAIN)
    assert dataclasses.replace(stage, average=()) == plain
    weights = np.array(stage.average)
    assert len(weights) == 20 and weights.sum() == pytest.approx(1) and weights.argmax() == 9
    np.testing.assert_allclose(weights[10] / weights[9], np.exp(-1 / 8))


@pytest.mark.slow  # its small cases are in test_sotglp, test_fusion and, for averages, test_train
@pytest.mark.usefixtures("compiled")
def test_all_at_once_goes_on_after_a_stop_and_is_predicted_and_exported(
    clip_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(sotglp, "GRID", ((0.5, 1.0),))  # none that changes nothing
    monkeypatch.setattr(sotglp, "EPSILONS", (0.01,))
    config = common.make(clip=str(clip_folder), shots=1, recipe="paper")
    options = {"validated_epsilon": True, "ensemble": True, "average_std": 0.5, "fusion": "learned"}
    config.method.update(options)
    config.train.update(epochs=4, warmup_epochs=0, checkpoint_every=1)
    config.precision = "float32"
    study.run_one(config, str(tmp_path / "whole"), "train")
    answers = iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr(hosts.Interruption, "requested", lambda self: next(answers))
        study.run_one(config, str(tmp_path / "run"), "train")
    study.run_one(config, str(tmp_path / "run"), "train")
    ours, theirs = (load_file(tmp_path / x / "params.safetensors") for x in ("run", "whole"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert ours["epsilon"] == np.float32(0.01) and ours["ensemble"].tolist() == [0.5, 1.0]
    exported.write(tmp_path / "run", tmp_path / "digits.export")
    paths = tmp_path / "run", tmp_path / "digits.export"
    several = [digits.draw(i) for i in TEST]
    run, export = (Classifier.load(path)(several) for path in paths)
    np.testing.assert_allclose(run.best, export.best, atol=1e-5)
    whole = Classifier.load(paths[0])([digits.draw(i) for i in range(900, 1797)])
    right = np.mean(whole.labels == digits.source(range(900, 1797)).labels)
    results = json.loads((paths[0] / "results.json").read_text())
    assert right == pytest.approx(results["accuracy"]["fused"], abs=2 / 897)
    learned = finished.load(paths[0]).results["learned"]
    assert learned["ensemble"] == {"learned": 0.5, "zero-shot": 1.0}
