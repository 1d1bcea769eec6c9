"""Scores of out-of-distribution detection, and how they are judged."""

import json

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_curve

from sotglp_jax import clip, settings
from sotglp_jax.configs import common
from sotglp_jax.data import datasets, drawn
from sotglp_jax.errors import InputError
from sotglp_jax.evaluators import detection as ood
from sotglp_jax.evaluators import ood as evaluator
from sotglp_jax.methods.contract import Scores
from sotglp_jax.methods.zeroshot import ZeroShot


def softmax_max(sim, temperature):
    scaled = np.asarray(sim, np.float64) / temperature
    e = np.exp(scaled - scaled.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).max(-1)


@pytest.mark.parametrize("temperature", [0.01, 1.0, 1000.0])
def test_concept_matching_is_the_largest_softmax_without_ties(temperature):
    sim = np.random.default_rng(0).uniform(-0.1, 0.4, (500, 1000)).astype(np.float32)
    deviations = np.asarray(ood.deviation(sim, temperature), np.float64)
    ours = ood.concept_matching(deviations, 1000)
    expected = softmax_max(sim, temperature)
    np.testing.assert_allclose(ours, expected, rtol=3e-5 if temperature < 1 else 1e-7)
    if temperature >= 1:
        assert (np.argsort(ours) == np.argsort(expected)).all() and len(np.unique(ours)) == 500


CASES = {
    "plain": (
        np.random.default_rng(1).normal(1, 1, 400),
        np.random.default_rng(2).normal(0, 1, 300),
    ),
    "ties": (np.repeat([3.0, 2.0, 1.0], [50, 40, 10]), np.repeat([3.0, 2.0, 1.0], [5, 25, 70])),
    "one each": (np.array([1.0]), np.array([0.0])),
    "one each, reversed": (np.array([0.0]), np.array([1.0])),
    "identical": (np.full(20, 0.5), np.full(30, 0.5)),
    "separate": (np.arange(100.0, 200), np.arange(100.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_fpr95_is_a_point_of_the_roc_curve(name):
    inside, outside = CASES[name]
    labels = np.repeat([1, 0], [len(inside), len(outside)])
    curve = roc_curve(labels, np.concatenate([inside, outside]), drop_intermediate=False)
    fpr, tpr, at = curve
    limit = ood.threshold(inside)
    (point,) = np.flatnonzero(at == limit)
    assert ood.fpr95(inside, outside) == pytest.approx(fpr[point])
    nearest = np.abs(tpr[1:] - 0.95).min()  # the curve's first point lets nothing through
    assert abs(np.mean(inside >= limit) - 0.95) == pytest.approx(nearest)


def test_of_two_equally_near_shares_the_larger_is_taken():
    for n in range(1, 200):
        passing = sum(np.arange(n) >= ood.threshold(np.arange(float(n))))
        distances = {k: abs(20 * k - 19 * n) for k in range(1, n + 1)}
        assert passing == max(k for k, x in distances.items() if x == min(distances.values()))


@pytest.mark.parametrize("recall", [0.5, 0.8, 0.99, 0.995, 1.0])
def test_a_threshold_lets_through_the_share_nearest_to_its_recall(recall):
    for n in (1, 3, 40, 200):
        scores = np.random.default_rng(n).permutation(float(n) + np.arange(n))
        share, low, high = ood.passing(scores, ood.threshold(scores, recall))
        assert abs(share - recall) <= 0.5 / n + 1e-9 or share == 1 / n
        assert 0 <= low <= share <= high <= 1 and (high == 1) == (share == 1)


def test_the_interval_of_a_threshold_holds_the_share_of_other_images():
    """In 95 of 100 draws at least, since Clopper and Pearson's is not too short."""
    draw, held = np.random.default_rng(0), 0
    for _ in range(300):
        limit = ood.threshold(scores := draw.uniform(size=40))  # of which 1 - limit pass
        _, low, high = ood.passing(scores, limit)
        held += low <= 1 - limit <= high
    assert held >= 0.94 * 300


def test_the_separating_threshold_is_the_best_of_all():
    for name in CASES:
        inside, outside = CASES[name]
        gains = {x: np.mean(inside >= x) - np.mean(outside >= x) for x in np.sort(inside)}
        best = ood.separating(inside, outside)
        assert gains[best] == pytest.approx(max(gains.values()))
    assert ood.separating(*CASES["separate"]) == 100.0


def test_scores_separate_where_their_area_is_not_one_of_chance():
    draw, found = np.random.default_rng(0), 0
    for _ in range(400):
        inside, outside = draw.normal(size=40), draw.normal(size=25)
        found += ood.separates(ood.auroc(inside, outside), 40, 25)
    assert 1 <= found <= 20  # one in 40
    assert ood.separates(0.6, 400, 400) and not ood.separates(0.6, 10, 10)
    assert not ood.separates(0.48, 10_000, 10_000)


def test_unknown_images_are_named_in_the_short_form():
    config = common.get_config("dataset=digits,unknown=/some/folder")
    assert config.ood.sets == ("/some/folder",) and config.ood.threshold == "recall"
    config.ood.update(sets=(), threshold="unknown")
    with pytest.raises(InputError, match="name a folder of them with unknown=FOLDER"):
        settings.validate(config)


@pytest.mark.parametrize("recall", [0.0, -1.0, 1.01, 95.0, float("nan")])
def test_a_recall_is_a_share(recall):
    with pytest.raises(InputError, match="is no share of images: set one above 0"):
        ood.threshold(np.arange(4.0), recall)


def test_known_values():
    inside, outside = np.arange(1.0, 101), np.arange(0.5, 100)
    assert ood.threshold(inside) == 6.0 and ood.fpr95(inside, outside) == 0.94
    assert ood.auroc(*CASES["separate"]) == 1.0 and ood.auroc(*CASES["identical"]) == 0.5
    assert ood.auroc(CASES["separate"][1], CASES["separate"][0]) == 0.0  # ID is the positive class


def test_drawn_sets_are_the_same_every_time_and_no_digits():
    for kind in drawn.KINDS:
        source = datasets.unlabelled(kind).test
        assert len(source) == 400 and source[0]["image"].size == (64, 64)
        for i in (0, 399):
            np.testing.assert_array_equal(
                source[i]["image"], datasets.unlabelled(kind).test[i]["image"]
            )
        assert (np.asarray(source[0]["image"]) != np.asarray(source[1]["image"])).any()


def test_any_folder_of_images_may_stand_outside(tmp_path):
    with pytest.raises(InputError, match="no folder with images and no known set.*letters"):
        datasets.unlabelled(str(tmp_path))
    (tmp_path / "deep").mkdir()
    drawn.drawn("noise")[0]["image"].save(tmp_path / "deep" / "x.png")
    assert datasets.unlabelled(str(tmp_path)).test.names == ("deep/x.png",)


def test_zero_shot_clip_is_judged_by_its_own_cosines(clip_folder):
    loaded = clip.load(str(clip_folder))
    method, rng = ZeroShot(loaded.towers()), np.random.default_rng(0)
    width = loaded.arch.vision_width
    image = {
        "cls": rng.normal(size=(2, width)).astype(np.float32),
        "patches": rng.normal(size=(2, 16, width)).astype(np.float32),
    }
    text = rng.normal(size=(5, loaded.arch.embed_dim)).astype(np.float32)
    found = method.score({}, loaded.params, text[:, None], image)
    part = jax.device_get(evaluator.compute(found, "zero_shot", temperature=1.0))
    scores = evaluator.collect(part, classes=5)
    assert list(scores) == ["mcm", "l_mcm", "gl_mcm", "zero_shot"]  # and no transport
    np.testing.assert_array_equal(scores["zero_shot"], found.logits["zero_shot"].max(-1))
    np.testing.assert_allclose(part["single"], scores["gl_mcm"], rtol=1e-5)
    unit = text / np.linalg.norm(text, axis=-1, keepdims=True)
    for name, features in (("mcm", image["cls"]), ("l_mcm", image["patches"])):
        projected = np.asarray(method.towers.project(loaded.params, features))
        sim = (projected / np.linalg.norm(projected, axis=-1, keepdims=True)) @ unit.T
        expected = softmax_max(sim, 1.0).reshape(2, -1).max(-1)
        np.testing.assert_allclose(scores[name], expected, rtol=1e-5)
    judged = dict(evaluator.evaluate(scores, {"same": scores}))
    assert list(judged) == list(scores)
    assert all(x["mean"]["auroc"] == 0.5 for x in judged.values())


def test_a_method_without_local_features_has_the_scores_that_need_none(clip_folder):
    loaded = clip.load(str(clip_folder))
    method, rng = ZeroShot(loaded.towers(), local=""), np.random.default_rng(0)
    cls, text = (rng.normal(size=s).astype(np.float32) for s in ((2, 64), (5, 1, 32)))
    found = method.score({}, loaded.params, text, {"cls": cls})
    part = jax.device_get(evaluator.compute(found, "zero_shot", 1.0))
    scores = evaluator.collect(part, classes=5)
    assert list(scores) == ["mcm", "zero_shot"]
    np.testing.assert_allclose(evaluator.single(found), scores["mcm"], rtol=1e-6)
    assert evaluator.compute(Scores(found.logits), "zero_shot", 1.0).keys() == {"zero_shot"}


@pytest.mark.slow
def test_detection_through_the_command(main, clip_folder, tmp_path):
    arguments = (
        f"--config=configs/ood.py:clip={clip_folder},shots=1",
        f"--workdir={tmp_path}",
        "--config.ood.sets=('letters','noise')",
        "--config.train.epochs=1",
        "--config.train.warmup_epochs=0",
        "--config.precision=float32",
        "--config.ood.temperature=1000",
    )
    code, out, err = main(*arguments)
    assert code == 0, err
    found = json.loads((tmp_path / "results.json").read_text())["ood"]
    assert found["images"] == {"test": 897, "letters": 400, "noise": 400}
    assert found["local"] == "vv"
    saved = np.load(tmp_path / "ood_scores.npz")
    for name, judged in found["scores"].items():
        inside = saved[f"test/{name}"]
        assert len(inside) == 897 and inside.dtype == np.float64
        assert np.mean(inside >= judged["threshold"]) == pytest.approx(0.95, abs=0.01)
        for kind, values in judged["sets"].items():
            outside = saved[f"{kind}/{name}"]
            assert values["fpr95"] == pytest.approx(np.mean(outside >= judged["threshold"]))
            assert values["auroc"] == pytest.approx(ood.auroc(inside, outside))
        mean = np.mean([values["auroc"] for values in judged["sets"].values()])
        assert judged["mean"]["auroc"] == pytest.approx(mean)
    np.testing.assert_array_equal(saved["noise/gl_mcm"], saved["noise/mcm"] + saved["noise/l_mcm"])
    assert len(np.unique(saved["test/mcm"])) > 850  # a high temperature ties nothing
    assert "GL-MCM, V-V stream" in out and "threshold at 95 % recall" in out
    code, _, err = main(*arguments, "--config.ood.sets=('nothing',)")
    assert code == 2 and '"nothing" is no folder' in err
    code, _, err = main(*arguments, "--config.ood.temperature=0")
    assert code == 2 and "above 0" in err
