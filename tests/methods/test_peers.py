"""Other methods through the program: base to new, predictions, exports, PyTorch's names."""

import json
import re
from argparse import Namespace

import jax
import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import load_file

from sotglp_jax import Classifier, exchange, predict, study
from sotglp_jax.configs import common
from sotglp_jax.data import digits, loader
from sotglp_jax.devices import programs
from sotglp_jax.errors import InputError
from sotglp_jax.inspect import command as inspect
from sotglp_jax.methods.locoop import LoCoOp
from sotglp_jax.reports import tables
from sotglp_jax.run import prepare
from sotglp_jax.trained import exported

pytestmark = pytest.mark.usefixtures("compiled")
TITLES = {"coop": "CoOp", "promptsrc": "PromptSRC", "cocoop": "CoCoOp", "maple": "MaPLe"}
TITLES |= {"locoop": "LoCoOp", "ivlp": "IVLP", "language": "deep text prompting", "vpt": "VPT"}
META_NET = [f"linear{i}_{part}" for i in (1, 2) for part in ("weight", "bias")]
LEARNED = {
    "coop": ["ctx"],
    "cocoop": ["ctx", *META_NET],
    "promptsrc": ["text_prompts", "vision_prompts"],
    "ivlp": ["text_prompts", "vision_prompts"],
    "language": ["text_prompts"],
    "vpt": ["vision_prompts"],
    "maple": ["text_prompts", "proj_w", "proj_b"],
    "locoop": ["ctx"],
}
FACTS = {"locoop": {"background": {"K": 1}}}  # a fifth of five classes
LOCAL = {"locoop": "value"}
# Made of the same parts as the others.
SLOW = ("maple", "ivlp", "language", "vpt", "locoop")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in SLOW]
TEST = range(900, 1797)


def configuration(method, **changes):
    """Base to new on the digits, two epochs of one step."""
    config = common.get_config(f"method={method},shots=1", "base_to_new")
    config.data.classes, config.targets = "base", ("new",)
    short = {"train.epochs": 2, "train.batch_size": 5}
    config.update_from_flattened_dict(short | changes)
    return config


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module", params=["coop", "promptsrc", "cocoop", *SLOW])
def run(request, tmp_path_factory):
    """The folder of a finished run of each."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    study.run_one(configuration(request.param), str(folder), "train")
    return folder


def test_results_are_those_of_the_method(run):
    results = results_of(run)
    assert results["method"]["title"] == TITLES[run.name] and results["step"] == 2
    assert results["method"]["logits"] == {"prompted": ""}
    assert results["learned"] == FACTS.get(run.name, {})
    new = results["targets"]["new"]
    for accuracy in (results["accuracy"], new["accuracy"]):
        assert set(accuracy) == {"zero_shot", "prompted"}
    assert new["images"]["test"] + results["images"]["test"] == 897
    own = results["protocol"]["recipe"] == "tiny"
    assert bool(results["protocol"]["unpublished"]) == (own or run.name == "locoop")  # its K
    local = LOCAL.get(run.name, "")
    assert results["ood_threshold"]["local"] == local
    assert results["ood_threshold"]["score"] == ("gl_mcm" if local else "mcm")
    assert not {"specialisation", "ood"} & results.keys()
    assert not (run / "maps.npz").exists()
    assert re.search(rf"(?m)^ *{TITLES[run.name]} +\d[^–]+$", tables.base_to_new([results]))


def test_predictions_and_exports_are_what_was_evaluated(run, tmp_path):
    exported.write(run, tmp_path / "digits.export")
    classifier = Classifier.load(run)
    several = [digits.draw(i) for i in TEST[:40]]
    ours, theirs = classifier(several), Classifier.load(tmp_path / "digits.export")(several)
    np.testing.assert_allclose(ours.best, theirs.best, atol=1e-5)
    np.testing.assert_allclose(ours.ood_score, theirs.ood_score, atol=1e-5)
    labels = np.array(digits.source(TEST).labels)
    of_base = [digits.draw(TEST[i]) for i in np.flatnonzero(labels < 5)]
    right = np.mean(classifier(of_base).labels == labels[labels < 5])
    assert right == pytest.approx(results_of(run)["accuracy"]["prompted"], abs=2 / len(of_base))
    with pytest.raises(InputError, match="no local prompts"):
        classifier(several, maps=True)


def test_predict_prints_a_line(run, capsys):
    picture = ROOT / "tests" / "data" / "digit.png"
    predict.main(predict.parse(["predict", str(run), str(picture), "--topk=3"]))
    assert capsys.readouterr().out.count("%") == 3


def test_inspect_tells_what_was_learned(run, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(programs, "keep", lambda: None)  # not into the user's folder
    inspect.main(Namespace(folder=run, out=tmp_path / "picture.png"))
    out = capsys.readouterr().out
    for name in LEARNED[run.name]:
        assert re.search(rf"(?m)^\| {name} +\| \(", out), out
    assert (tmp_path / "picture.png").exists()


def test_prompts_go_out_and_in(run, tmp_path):
    config, file = configuration(run.name), tmp_path / "theirs.safetensors"
    exchange.take_out(run, file)
    params = load_file(run / "params.safetensors")
    assert sum(x.size for x in load_file(file).values()) == sum(x.size for x in params.values())
    exchange.bring_in(file, config, str(tmp_path / "again"))
    study.run_one(config, str(tmp_path / "again"), "eval")
    jax.tree.map(
        np.testing.assert_array_equal, load_file(tmp_path / "again" / "params.safetensors"), params
    )
    assert results_of(tmp_path / "again")["accuracy"] == results_of(run)["accuracy"]


def test_locoops_share_of_the_classes_is_a_fact_and_no_more_than_there_are(tmp_path, monkeypatch):
    shares = {classes: LoCoOp(None).summary({}, classes) for classes in (2, 100, 1000)}
    assert [x["background"]["K"] for x in shares.values()] == [1, 20, 200]
    monkeypatch.setattr(loader, "check_images", lambda _: pytest.fail("images were read"))
    with pytest.raises(InputError, match="topk=6 asks for more than the 5 classes"):
        prepare(configuration("locoop", **{"method.topk": 6}), str(tmp_path / "run"))


def test_features_from_disk_are_refused_where_they_change(tmp_path):
    config = configuration("promptsrc", **{"cache.views": 2})
    with pytest.raises(InputError, match="cache.views=2 .* PromptSRC learns in the vision tower"):
        prepare(config, str(tmp_path / "run"))


def test_a_class_of_its_own_context_has_none_for_new_classes(tmp_path):
    own = {"method.class_specific": True, "method.ctx_init": "", "method.n_ctx": 2}
    study.run_one(configuration("coop", **own), str(tmp_path), "train")
    results = results_of(tmp_path)
    assert set(results["accuracy"]) == {"zero_shot", "prompted"}
    assert set(results["targets"]["new"]["accuracy"]) == {"zero_shot"}
    assert re.search(r"(?m)^ *CoOp +[\d.]+ +[-–]", tables.base_to_new([results]))
