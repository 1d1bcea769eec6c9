"""Prompts to and from the files of the official code."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import jax
import numpy as np
import parity
import pytest
from safetensors.numpy import load_file, save_file

from configs import common
from sotglp_jax import exchange
from sotglp_jax.errors import InputError

GOLDEN = Path(__file__).parent / "data" / "tiny.npz"
SHAPES = {"global_prompts": (3, 4, 64), "local_prompts": (10, 4, 4, 64)}
SHAPES["local_projection"] = (64, 64)


def official(seed=0, n_local=4):
    """Drawn prompts for the ten digits and a projection, as the official code keeps them."""
    rng = np.random.default_rng(seed)
    shapes = {"global_prompt": (3, 4, 64), "local_prompts": (10, n_local, 4, 64)}
    tensors = {name: 0.1 * rng.standard_normal(shape) for name, shape in shapes.items()}
    tensors["local_proj.linear.weight"] = np.eye(64) + 0.05 * rng.standard_normal((64, 64))
    return {name: x.astype(np.float32) for name, x in tensors.items()}


def checkpoint(path, tensors, **more):
    """The same as the official code saves it."""
    torch = pytest.importorskip("torch")
    state = {name: torch.tensor(x) for name, x in tensors.items()}
    arguments = Namespace(dataset_name="eurosat", topk=[10], prompts_batch_size=float("inf"))
    contents = {"epoch": 49, "train_meter": {"loss": 0.5}, "state_dict": state, "args": arguments}
    torch.save(contents | more, path)
    return path


def config(clip_folder, **overrides):
    found = common.get_config(f"clip={clip_folder},recipe=official")
    found.update_from_flattened_dict({"precision": "float32", **overrides})
    return found


def files(folder, tensors, kind):
    if kind == "ckpt":
        return checkpoint(folder / "theirs.ckpt", tensors)
    save_file(tensors, folder / "theirs.safetensors")
    return folder / "theirs.safetensors"


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_a_file_of_the_official_code_gives_its_predictions(kind, tmp_path):
    golden = np.load(GOLDEN)
    case = json.loads(str(golden["case"]))
    method, frozen = parity.make(case, "official")
    drawn, images, _ = parity.draw_inputs(case)
    tensors = parity.official_names(drawn)
    tensors["local_proj.linear.weight"] = np.ascontiguousarray(tensors.pop("local_proj"))
    shapes = {name: x.shape for name, x in drawn.items()}
    read = exchange.read(files(tmp_path, tensors, kind))
    trained = exchange.from_official(read, shapes)

    @jax.jit
    def predict(trained, frozen, classes, images):
        image = method.towers.vision.apply({"params": frozen["vision"]}, images)
        text = method.encode_classes(trained, frozen, classes)
        logits = method.score(trained, frozen, text, image).logits
        return {name: jax.nn.softmax(x) for name, x in logits.items()}

    ours = predict(trained, frozen, parity.classes_of(golden), images)
    for name, x in ours.items():
        theirs = golden[f"official/prob_{name}"]
        np.testing.assert_array_equal(x.argmax(-1), theirs.argmax(-1))
        np.testing.assert_allclose(x, theirs, atol=parity.TOLERANCE * theirs.max())


def test_every_tensor_that_does_not_fit_is_listed():
    tensors = official(n_local=2) | {"visual.proj": np.zeros(3), "B": np.zeros((3, 224, 16))}
    del tensors["global_prompt"]
    with pytest.raises(InputError) as caught:
        exchange.from_official(tensors, SHAPES)
    said = str(caught.value)
    assert "missing global_prompt; left over visual.proj; wrong shape local_prompts" in said
    assert "(10, 2, 4, 64) instead of (10, 4, 4, 64)" in said and "method.n_local" in said


def test_the_projection_is_transposed_and_the_rest_is_not():
    tensors = official()
    trained = exchange.from_official(tensors, SHAPES)
    x = np.random.default_rng(1).standard_normal(64).astype(np.float32)
    weight = tensors["local_proj.linear.weight"]
    np.testing.assert_allclose(x @ trained["local_projection"], weight @ x, atol=1e-5)
    back = exchange.to_official(trained)
    assert back.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(back[name], value)


def refusal(path):
    with pytest.raises(InputError) as caught:
        exchange.read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class RunsCode:
    def __reduce__(self):
        return eval, ("open('ran', 'w')",)


def test_an_archive_that_wants_to_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = checkpoint(tmp_path / "x.ckpt", official(), scheduler=RunsCode())
    assert "refused, since reading it would run code (builtins.eval)" in refusal(path)
    assert not (tmp_path / "ran").exists()


def test_wrong_files_are_refused(tmp_path):
    assert "x.ckpt is no file: give a .safetensors" in refusal(tmp_path / "x.ckpt")
    (tmp_path / "x.safetensors").write_bytes(b"junk")
    assert "not a readable safetensors file" in refusal(tmp_path / "x.safetensors")
    pytest.importorskip("torch")
    for content in (b"", b"junk", b"PK\x03\x04junk"):
        (tmp_path / "x.ckpt").write_bytes(content)
        assert "x.ckpt is no readable PyTorch archive" in refusal(tmp_path / "x.ckpt")
    path = checkpoint(tmp_path / "x.ckpt", {}, state_dict={"epoch": 3})
    assert "has no state_dict of tensors" in refusal(path)


@pytest.mark.skipif("torch" in sys.modules, reason="is about its absence")
def test_a_checkpoint_needs_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "x.ckpt").write_bytes(b"")
    assert "pip install sotglp_jax[torch]" in refusal(tmp_path / "x.ckpt")
