"""Runs on the hub: pushed to one on this machine, loaded from there, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import clips
import hubs
import jax
import numpy as np
import pytest

from sotglp_jax import Classifier, evaluate, push, workdir
from sotglp_jax.configs import common
from sotglp_jax.data import digits
from sotglp_jax.devices import sharding
from sotglp_jax.errors import InputError
from sotglp_jax.evaluators import maps
from sotglp_jax.paths import trained
from sotglp_jax.run import prepare
from sotglp_jax.state import init_state
from sotglp_jax.trained import finished, hub

pytestmark = [
    pytest.mark.usefixtures("compiled"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # within huggingface_hub
]
RUN = "someone/digits"


def finish(folder, method="sotglp", clip="tiny"):
    """A run folder as training leaves it, of parameters that were drawn and not trained."""
    run = prepare(common.get_config(f"clip={clip},shots=1,method={method}"), str(folder))
    params = init_state(run, run.frozen, run.names_on(sharding.make_mesh(1), run.method))["params"]
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda x: x + 0.1 * draw(size=x.shape).astype("float32"), params)
    workdir.create(folder, run.settings, run.train.names, run.dataset.class_names)
    workdir.write_tensors(folder / workdir.PARAMS, params)
    results = {
        "method": evaluate.describe(run),
        "accuracy": {name: 0.125 for name in ("zero_shot", *run.method.logits)},
        "images": {"train": 10, "test": 897},
        "protocol": evaluate.protocol(run),
        "targets": {},
        "config": run.settings | {"data.root": str(folder)},
        "clip_path": run.clip.path,
        "learned": {},
        "versions": {"sotglp_jax": "0.1.2"},
        "ood_threshold": {"score": "gl_mcm", "value": 0.25, "part": "val", "images": 40},
    }
    (folder / "results.json").write_text(json.dumps(results))
    example = {"names": np.array(["a `_|name`"]), "images": np.zeros((1, 8, 8, 3), np.uint8)}
    example |= {"prompts": np.ones((1, 1, 2, 2)), "combined": np.ones((1, 2, 2))}
    example |= {"kept": np.ones((1, 2, 2), bool), "tops": np.zeros((1, 1, 1), int)}
    workdir.write_arrays(folder / maps.FILE, **example, shares=np.ones((1, 1)))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hubs.TOKEN)
    with hubs.serve({"someone/else": {"a.txt": b""}}, tmp_path / "cache", monkeypatch) as served:
        yield served


def pushed(run, *words):
    push.main(push.parse(["push", str(run), RUN, *words]))


def check_the_same(run):
    picture = digits.draw(900)
    ours, theirs = (Classifier.load(x)(picture) for x in (run, f"hf:{RUN}"))
    jax.tree.map(np.testing.assert_array_equal, ours.probabilities, theirs.probabilities)
    np.testing.assert_array_equal(ours.ood_score, theirs.ood_score)
    assert (ours.class_names, ours.threshold) == (theirs.class_names, theirs.threshold)


def test_what_is_pushed_and_loaded_predicts_the_same_to_the_bit(server, run, capsys, monkeypatch):
    pushed(run, "--private")
    files = server.repositories[RUN]
    assert server.visibility[RUN] == "private" and "maps.png shows test" in capsys.readouterr().out
    assert set(server.large) and not [name for name in files if name.endswith((".pkl", ".npz"))]
    assert not [name for name, content in files.items() if str(run.parent).encode() in content]
    check_the_same(run)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # and once is enough
    assert hub.locate(f"hf:{RUN}").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["coop", "cocoop", "maple"])
def test_runs_of_other_methods_predict_the_same(server, tmp_path, method):
    run = finish(tmp_path / "run", method)
    pushed(run)
    check_the_same(run)


def test_the_card_says_what_is_there_and_how_to_load_it(server, run):
    pushed(run)
    files = server.repositories[RUN]
    card = files["README.md"].decode()
    assert files["maps.png"].startswith(b"\x89PNG") and "](maps.png)" in card
    for said in ("SOT-GLP, fused          12.5%", "    zero\n    one\n", "below 0.25 in GL-MCM"):
        assert said in card
    (name,) = re.findall(r'Classifier\.load\("(.+)"\)', card)
    assert name == f"hf:{RUN}" and f"sotglp predict {name} " in card
    pushed(run, "--no-maps")  # takes an earlier picture away
    assert "maps.png" not in files and "maps.png" not in files["README.md"].decode()


def test_a_clip_of_this_machine_is_named_as_others_find_it(server, tmp_path):
    clip = clips.write(tmp_path / "clip")
    run = finish(tmp_path / "run", "linear_probe", clip)
    server.repositories["someone/clip"] = {x.name: x.read_bytes() for x in clip.iterdir()}
    other = clips.write(tmp_path / "other", seed=5)
    server.repositories["someone/other"] = {x.name: x.read_bytes() for x in other.iterdir()}
    with pytest.raises(InputError, match=f"lies in {clip}, .* --clip=owner/name"):
        pushed(run)
    with pytest.raises(InputError, match="--clip=someone/other is another CLIP than that of"):
        pushed(run, "--clip=someone/other")
    with pytest.raises(InputError, match="lies on this machine"):
        pushed(run, f"--clip={clip}")
    pushed(run, "--clip=someone/clip")
    loaded = finished.load(hub.locate(f"hf:{RUN}"))
    assert loaded.run.config.clip.name == "someone/clip"
    shutil.rmtree(tmp_path / "cache" / "models--someone--clip")
    server.repositories["someone/clip"] = server.repositories["someone/other"]
    with pytest.raises(InputError, match="are not those that the run .* was made with"):
        finished.load(hub.locate(f"hf:{RUN}"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.pop(hub.ABOUT), "holds no run that `sotglp push` wrote"),
        (lambda x: x.update({hub.ABOUT: b"{}"}), "holds no run that `sotglp push` wrote"),
        (
            lambda x: changed(x, hub.ABOUT, version=2, sotglp_jax="9.0"),
            f"{RUN} is a run in version 2 by sotglp_jax 9.0, and .* reads version 1: install",
        ),
        (
            lambda x: changed(x, "config.json", shots=2),
            "config.json of .* is not the file that sotglp.json describes",
        ),
        (lambda x: x.pop(workdir.PARAMS), "holds no run that `sotglp push` wrote"),
    ],
)
def test_what_is_refused_from_the_hub(server, files, change, said):
    server.repositories[RUN] = dict(files)
    change(server.repositories[RUN])
    with pytest.raises(InputError, match=said):
        Classifier.load(f"hf:{RUN}")


@pytest.fixture(scope="module")
def files(run):
    return hub.contents(finished.load(run))


def changed(repository, name, **values):
    repository[name] = json.dumps(json.loads(repository[name]) | values).encode()


def test_code_of_ones_own_is_not_imported(server, files):
    server.repositories[RUN] = own = dict(files)
    changed(own, workdir.CONFIG, **{"method.name": "os:system"})
    digests = {name: hub.digest(own[name]) for name in hub.TAKEN}
    changed(own, hub.ABOUT, files=digests)
    with pytest.raises(InputError, match="os:system, and runs with code of one's own are not"):
        Classifier.load(f"hf:{RUN}")


def test_a_newer_setting_is_told_and_not_a_traceback(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    results["config"]["method.newer"] = 1
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match=r"sotglp_jax 0.1.2, .*\(method.newer\): install"):
        finished.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("token", "repository", "said"),
    [
        ("", RUN, "no token of the hub here: make one .*/settings/tokens.* HF_TOKEN"),
        ("hf_reads", RUN, "cannot be written .*401.*whether your token may write"),
        (hubs.TOKEN, "digits", '"digits" names no repository'),
        (hubs.TOKEN, "someone/else", "holds something else than a run, a.txt"),
    ],
)
def test_what_is_not_pushed(server, files, monkeypatch, tmp_path, token, repository, said):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(InputError, match=said):
        hub.push(repository, files)
    assert RUN not in server.repositories


@pytest.mark.parametrize("name", ["nowhere/run", "nowhere", "a/b/c", "//a/b", "a/b@"])
def test_what_is_no_address(server, name):
    with pytest.raises(InputError, match="cannot be downloaded|names no run on the hub"):
        hub.locate(trained(f"hf:{name}"))
    assert trained("run") == Path("run")
