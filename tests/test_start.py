"""Trainings that start from another run's prompts."""

import json
import shutil

import jax
import numpy as np
import pytest
import runs

from sotglp_jax import evaluate, train, workdir
from sotglp_jax.__main__ import expand
from sotglp_jax.configs import common
from sotglp_jax.devices import sharding
from sotglp_jax.errors import InputError
from sotglp_jax.run import describe, prepare
from sotglp_jax.state import init_state

pytestmark = pytest.mark.usefixtures("compiled", "ended")


def make_run(clip_folder, folder, start="", method="fakes:Staged", **settings):
    """Two digits of a class in a batch, of all classes where the start is one of the base's."""
    config = common.get_config(f"clip={clip_folder},shots=1,method={method}")
    config.precision, config.train.batch_size, config.train.checkpoint_every = "float32", 5, 1
    config.data.classes = "all" if start else "base"
    config.train.init_from = str(start)
    config.update_from_flattened_dict(settings)
    return prepare(config, str(folder))


@pytest.fixture(scope="module")
def first(clip_folder, tmp_path_factory, ended):
    """The folder of a run of the first five digits, which ended with these parameters."""
    folder = tmp_path_factory.mktemp("first") / "run"
    train.train(make_run(clip_folder, folder))
    workdir.write_tensors(folder / workdir.PARAMS, ended[-1]["params"])
    return folder, ended[-1]["params"]


def start_of(run):
    with jax.set_mesh(mesh := sharding.make_mesh(1)):
        return init_state(run, run.frozen, run.names_on(mesh, run.method))["params"]


def test_known_classes_go_on_and_new_ones_begin(clip_folder, first, tmp_path):
    folder, params = first
    run = make_run(clip_folder, tmp_path / "more", folder)
    plain = make_run(clip_folder, tmp_path / "plain", **{"data.classes": "all"})
    begun, begins = start_of(run), start_of(plain)
    for name, x in begun.items():
        np.testing.assert_array_equal(x[..., :5], params[name])
        np.testing.assert_array_equal(x[..., 5:], begins[name][..., 5:])
    names = run.dataset.class_names
    said = (
        f"from {folder}, classes: 5 go on ({', '.join(names[:5])}); 5 new ({', '.join(names[5:])})"
    )
    assert said in describe(run)
    assert evaluate.protocol(run)["changed"]["train.init_from"] == str(folder)


def test_what_began_elsewhere_resumes_to_the_bit(clip_folder, first, tmp_path, ended):
    folder, _ = first
    train.train(make_run(clip_folder, tmp_path / "whole", folder))
    whole = ended[-1]
    assert json.loads((tmp_path / "whole" / workdir.START).read_text())["run"] == str(folder)
    runs.train_until_killed(make_run(clip_folder, tmp_path / "killed", folder), 3)
    train.train(make_run(clip_folder, tmp_path / "killed", folder))
    jax.tree.map(np.testing.assert_array_equal, ended[-1], whole)


def test_a_start_that_is_another_by_now_is_refused(clip_folder, first, tmp_path):
    moved = shutil.copytree(first[0], tmp_path / "moved")
    runs.train_until_killed(make_run(clip_folder, tmp_path / "run", moved), 1)
    changed = {name: x + 1 for name, x in first[1].items()}
    workdir.write_tensors(moved / workdir.PARAMS, changed)
    with pytest.raises(InputError, match="other parameters than when .* started from it"):
        make_run(clip_folder, tmp_path / "run", moved)


def test_runs_that_are_no_start_are_refused(clip_folder, first, tmp_path):
    folder, _ = first

    def refused(said, start=folder, **settings):
        with pytest.raises(InputError, match=said):
            make_run(clip_folder, tmp_path / "new", start, **settings)

    refused("another method, fakes:Staged, than this run's coop: choose the same", method="coop")
    refused("another CLIP", **{"clip.name": "tiny"})
    refused("linear probe is not trained step by step", method="linear_probe")
    refused("is no run folder: it has no config.json", tmp_path)
    unfinished = shutil.copytree(folder, tmp_path / "unfinished")
    (unfinished / workdir.PARAMS).unlink()
    refused("is not finished: finish it", unfinished)
    coop = shutil.copytree(folder, tmp_path / "coop")
    stated = json.loads((folder / workdir.CONFIG).read_text())
    stated = {k: x for k, x in stated.items() if not k.startswith("method.")}
    stated |= {"method.name": "coop", "method.n_ctx": 4}
    (coop / workdir.CONFIG).write_text(json.dumps(stated))
    refused(r"other shapes .* method.n_ctx \(4 there, 16 now\)", coop, method="coop")


def test_the_short_form_is_a_setting():
    given = ["--from", "runs/a", "dataset=b"]
    long = ["--config=configs/fewshot.py:dataset=b", "--config.train.init_from=runs/a"]
    assert expand("train", given)[1] == expand("train", ["--from=runs/a", "dataset=b"])[1] == long
    with pytest.raises(InputError, match="--from has no run folder"):
        expand("train", ["dataset=b", "--from"])
