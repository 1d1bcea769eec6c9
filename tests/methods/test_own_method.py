"""Anybody's class: the methods of docs/own_method.md through the whole program, and faulty ones."""

import dataclasses
import json
import re

import jax.numpy as jnp
import numpy as np
import own_methods
import pytest
from conftest import ROOT
from safetensors.numpy import load_file

from sotglp_jax import Classifier, methods, predict, study
from sotglp_jax.configs import common
from sotglp_jax.data import digits
from sotglp_jax.devices import hosts
from sotglp_jax.errors import InputError
from sotglp_jax.methods.check import Check
from sotglp_jax.methods.contract import Method, Scores, Stage
from sotglp_jax.methods.coop import CoOp
from sotglp_jax.reports import report, tables
from sotglp_jax.run import prepare
from sotglp_jax.trained import exported

pytestmark = pytest.mark.usefixtures("compiled")
TRAINED, FITTED = "my_package.taskres:TaskRes", "my_package.tip_adapter:TipAdapter"
SHORT = {"train.epochs": 4, "train.checkpoint_every": 1, "precision": "float32"}
TEST = range(900, 960)


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """A folder with the page's methods, which Python finds."""
    folder = own_methods.write(tmp_path_factory.mktemp("code"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


def test_the_pages_methods_are_short(code):
    for path in (code / "my_package").iterdir():
        assert path.name == "__pycache__" or len(path.read_text().splitlines()) <= 60


def configuration(clip_folder, method):
    config = common.get_config(f"clip={clip_folder},shots=1,method={method}")
    config.update_from_flattened_dict(SHORT)
    return config


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def runs(main, code, clip_folder, tmp_path_factory):
    """A folder of two runs: one trained by the command, and one fitted here."""
    folder = tmp_path_factory.mktemp("runs")
    config = f"--config=configs/fewshot.py:clip={clip_folder},shots=1,method={TRAINED}"
    flags = [f"--config.{key}={value}" for key, value in SHORT.items()]
    done, out, err = main(config, f"--workdir={folder / 'trained'}", *flags, PYTHONPATH=str(code))
    assert done == 0, err
    assert re.search(r"TaskRes +[\d.]+%", out)
    study.run_one(configuration(clip_folder, FITTED), str(folder / "fitted"), "train")
    return folder


def test_a_run_is_trained_and_its_results_have_its_names(runs):
    results = results_of(runs / "trained")
    assert results["method"]["title"] == "TaskRes" and set(results["accuracy"]) == {
        "zero_shot",
        "adapted",
    }
    assert results["step"] == 4 and results["config"]["method.scale"] == 0.5
    assert results["ood_threshold"]["score"] == "mcm" and not results["ood_threshold"]["local"]
    lines = [json.loads(x) for x in (runs / "trained" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "accuracy_adapted", "gradient_norm"} <= set(lines[-1])


@pytest.mark.slow  # its small case is test_train's
def test_a_stopped_run_goes_on_to_the_same_parameters(
    runs, clip_folder, tmp_path, monkeypatch, capsys
):
    config, answers = configuration(clip_folder, TRAINED), iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr(hosts.Interruption, "requested", lambda self: next(answers))
        study.run_one(config, str(tmp_path), "train")
    assert not (tmp_path / "results.json").exists()
    study.run_one(config, str(tmp_path), "train")
    out = capsys.readouterr().out
    assert "stopped at step 2 of 4" in out and "going on from step 2" in out
    ours, theirs = (load_file(x / "params.safetensors") for x in (tmp_path, runs / "trained"))
    np.testing.assert_allclose(ours["residual"], theirs["residual"], atol=1e-6)
    assert np.abs(ours["residual"]).max() > 0


def test_a_method_without_steps_is_fitted(runs, clip_folder, capsys):
    folder, results = runs / "fitted", results_of(runs / "fitted")
    assert results["method"]["title"] == "Tip-Adapter" and results["step"] == 0
    params = load_file(folder / "params.safetensors")
    assert params["keys"].shape == (10, 32)
    np.testing.assert_array_equal(params["votes"].sum(0), np.ones(10))  # one shot a class
    study.run_one(configuration(clip_folder, FITTED), str(folder), "eval")
    assert results_of(folder)["accuracy"] == results["accuracy"]
    assert "Tip-Adapter" in capsys.readouterr().out and not (folder / "checkpoints").exists()


@pytest.mark.parametrize("name", ["trained", "fitted"])
def test_predictions_and_exports_are_what_was_evaluated(runs, name, tmp_path):
    exported.write(runs / name, tmp_path / "digits.export")
    several = [digits.draw(i) for i in TEST]
    ours, theirs = (
        Classifier.load(path)(several) for path in (runs / name, tmp_path / "digits.export")
    )
    np.testing.assert_allclose(ours.best, theirs.best, atol=1e-5)
    np.testing.assert_allclose(ours.ood_score, theirs.ood_score, atol=1e-5)
    whole = Classifier.load(runs / name)([digits.draw(i) for i in range(900, 1797)])
    right = np.mean(whole.labels == digits.source(range(900, 1797)).labels)
    assert right == pytest.approx(results_of(runs / name)["accuracy"]["adapted"], abs=2 / 897)


def test_predict_prints_a_line(runs, capsys):
    picture = ROOT / "tests" / "data" / "digit.png"
    predict.main(predict.parse(["predict", str(runs / "trained"), str(picture), "--topk=3"]))
    assert capsys.readouterr().out.count("%") == 3


def test_tables_and_reports_show_them(runs, tmp_path):
    table = tables.few_shot([results_of(runs / name) for name in ("trained", "fitted")])
    for row in ("zero-shot CLIP", "TaskRes", "Tip-Adapter"):
        assert re.search(rf"(?m)^ *{row} +\d", table), table
    list(report.write(runs, tmp_path, ()))
    page = (tmp_path / "report.html").read_text()
    assert "TaskRes" in page and "Tip-Adapter" in page


@pytest.fixture(scope="module")
def run(clip_folder):
    """A prepared run of CoOp, which the faulty ones derive from."""
    return prepare(configuration(clip_folder, "coop"))


def faulty(run, functions):
    """The check of a method with these functions, and that method."""
    made = dataclasses.dataclass(frozen=True)(type("Mine", (CoOp,), functions))
    method = made(run.method.towers)
    return Check(method, run.frozen, 10, run.arch.image_size), method


def stage(**changes):
    usual = {"epochs": 2, "lr": 0.1, "schedule": "paper", "warmup_epochs": 0, "warmup_lr": 0.0}
    return {"stages": lambda self, train: (Stage(**usual | changes),)}


def scores(rename=lambda x: x, change=lambda x: x, sims=None):
    def score(self, *arguments):
        logits = CoOp.score(self, *arguments).logits
        return Scores({rename(k): change(x) for k, x in logits.items()}, sims or {})

    return {"score": score}


def images(make):
    return {"encode_images": lambda self, params, frozen, pixels: make(params)}


@pytest.mark.parametrize(
    ("functions", "said"),
    [
        ({"init": lambda *_: [jnp.zeros(3)]}, "init must give a dictionary of arrays .* list"),
        ({"init": lambda *_: {"ctx": jnp.zeros((4, 64), int)}}, "init .* float32 arrays alone"),
        (
            {"encode_classes": lambda *_: jnp.zeros((3, 32))},
            r"encode_classes .* first axis is that of the 10 classes, .* float32 \(3, 32\)",
        ),
        (
            images(lambda params: {"cls": jnp.zeros(64)}),
            "encode_images .* first axis is that of the 2 images",
        ),
        (
            images(lambda params: jnp.zeros((2, 64))),
            "encode_images must give a dictionary",
        ),
        (
            images(lambda params: {"cls": jnp.zeros((2, 64)) + params["ctx"].sum()}),
            "encode_images uses the parameter 'ctx', .*: set frozen_images = False",
        ),
        ({"score": lambda *_: jnp.zeros((2, 10))}, "score must give Scores"),
        (scores(rename=lambda x: "logits"), 'score must give logits named "prompted"'),
        (scores(change=lambda x: x.T), r"score must give logits of shape \(2, 10\), .*\(10, 2\)"),
        (scores(sims={"global": jnp.zeros((2, 10))}), 'score must give sims "global"'),
        (scores(sims={"local": jnp.zeros((2, 16, 10, 1))}), 'score gives sims "local" while'),
        ({"loss": lambda *_: jnp.zeros(2)}, "loss must give the values of all images and"),
        ({"loss": lambda *_: (jnp.zeros(()), {})}, r"loss must give values of shape \(2,\)"),
        (
            {"loss": lambda *_: (jnp.zeros(2), {"x": jnp.zeros((2, 3))})},
            "loss must give metrics of shape",
        ),
        (
            {"loss": lambda self, params: (jnp.zeros(2), {})},
            r"loss\(params\) cannot be called with the contract's arguments",
        ),
        ({"fixed": lambda *_: jnp.zeros(3)}, "fixed must give a dictionary"),
        ({"on": lambda self, params, labels: params}, "on must give a method and its parameters"),
        (stage(schedule="linear"), 'stages names the schedule "linear": take one of "dassl"'),
        (stage(trained=("context",)), 'stages trains "context", but init gives "ctx" alone'),
        (stage(average=(1.0,)), "stages gives 1 weights of an average over 2 epochs"),
        ({"stages": lambda self, train: (train,)}, "stages must give a tuple of Stage"),
    ],
)
def test_what_is_wrong_is_told_by_the_name_of_the_function(run, functions, said):
    check, method = faulty(run, functions)
    with pytest.raises(InputError, match=f"^Mine.{said}"):
        check.start(run.tokenize(method), {}, run.config.train)


def test_a_right_one_passes_and_what_its_code_raises_is_left(run):
    check, method = faulty(run, {})
    check.start(run.tokenize(method), {}, run.config.train)
    check, method = faulty(run, scores(change=lambda x: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        check.start(run.tokenize(method), {}, run.config.train)
    with pytest.raises(InputError, match="Mine.finish must give a dictionary .*, but gives None"):
        check.finished(None, None)


class Undecorated(CoOp):
    n_ctx: int = 4


@dataclasses.dataclass(frozen=True)
class WithoutDefault(CoOp):
    words: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Empty(Method):
    title = "Empty"
    logits = {"empty": ""}


@dataclasses.dataclass(frozen=True)
class WithoutLoss(CoOp):
    @property
    def loss(self):
        raise AttributeError


@dataclasses.dataclass(frozen=True)
class Transposed(CoOp):
    score = scores(change=lambda x: x.T)["score"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Undecorated", "is no frozen dataclass: write @dataclasses.dataclass"),
        ("WithoutDefault", "the option words without a default"),
        ("Empty", "has no init"),
        ("Stage", "names no class derived from"),
        ("Nowhere", "names no class derived from"),
    ],
)
def test_classes_that_are_no_methods(name, said):
    with pytest.raises(InputError, match=said):
        methods.load(f"{__name__}:{name}")


@pytest.mark.parametrize(
    ("name", "said"),
    [("Transposed", "Transposed.score must give"), ("WithoutLoss", "WithoutLoss.loss is missing")],
)
def test_a_run_of_a_faulty_method_does_not_start(clip_folder, tmp_path, name, said):
    config = configuration(clip_folder, f"{__name__}:{name}")
    with pytest.raises(InputError, match=said):
        prepare(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_module_that_is_not_there():
    with pytest.raises(InputError, match="there is no module nowhere here: give its folder"):
        methods.load("nowhere.at_all:Mine")
