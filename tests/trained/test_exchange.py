"""Prompts to and from the files of the official code."""

import json
import re
import shutil
import sys
from argparse import Namespace

import jax
import numpy as np
import pytest
from conftest import ROOT
from parities import sotglp
from safetensors.numpy import load_file, save_file

from sotglp_jax import clip, evaluate, exchange, methods, workdir
from sotglp_jax.checkpoint import Checkpoints
from sotglp_jax.configs import common
from sotglp_jax.devices import programs, sharding
from sotglp_jax.errors import InputError
from sotglp_jax.evaluators import classification
from sotglp_jax.inspect import command as inspect
from sotglp_jax.inspect import heatmaps, learned
from sotglp_jax.methods.coop import CoOp
from sotglp_jax.methods.sotglp import SotGlp
from sotglp_jax.reports import grids
from sotglp_jax.run import prepare
from sotglp_jax.trained import finished, official

GOLDEN = ROOT / "tests" / "data" / "tiny.npz"
# Of the digits with a tokenizer of single letters, to which the template has nine tokens.
SHAPES = {"global_prompts": (3, 9, 64), "local_prompts": (10, 6, 9, 64)}
SHAPES["local_projection"] = (64, 64)
METHOD = SotGlp(None)


def theirs(seed=0, n_local=6):
    """Drawn prompts for the ten digits and a projection, as the official code keeps them."""
    rng = np.random.default_rng(seed)
    shapes = {"global_prompt": (3, 9, 64), "local_prompts": (10, n_local, 9, 64)}
    tensors = {name: 0.1 * rng.standard_normal(shape) for name, shape in shapes.items()}
    tensors["local_proj.linear.weight"] = np.eye(64) + 0.05 * rng.standard_normal((64, 64))
    return {name: x.astype(np.float32) for name, x in tensors.items()}


def checkpoint(path, tensors, **more):
    """The prompts as the official code saves them."""
    torch = pytest.importorskip("torch")
    state = {name: torch.tensor(x) for name, x in tensors.items()}
    arguments = Namespace(dataset_name="eurosat", topk=[10], prompts_batch_size=float("inf"))
    weight = torch.zeros(1, requires_grad=True)
    weight.grad, optimizer = torch.ones(1), torch.optim.SGD([weight], 0.01, momentum=0.9)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    contents = {"epoch": 49, "train_meter": {"loss": 0.5}, "state_dict": state, "args": arguments}
    contents["optimizer"] = optimizer.state_dict()
    contents["scheduler"] = scheduler.state_dict() | {"successor": scheduler}  # of CoOp's framework
    torch.save(contents | {"scaler": torch.amp.GradScaler("cpu").state_dict()} | more, path)
    return path


def files(folder, tensors, kind):
    if kind == "ckpt":
        return checkpoint(folder / "theirs.ckpt", tensors)
    save_file(tensors, folder / "theirs.safetensors")
    return folder / "theirs.safetensors"


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_the_goldens_prompts_come_whole_through_a_file(kind, tmp_path):
    """tests/parity.py takes the same tree to the official code's predictions."""
    case = json.loads(str(np.load(GOLDEN)["case"]))
    method, _ = sotglp.make(case, "official")
    drawn = sotglp.draw_prompts(case, np.random.default_rng([case["seed"], 10000]))
    tree = sotglp.tree_of(method, official.load(files(tmp_path, drawn, kind)))
    jax.tree.map(np.testing.assert_array_equal, tree, sotglp.draw_inputs(case, method)[0])


def test_every_tensor_that_does_not_fit_is_listed():
    tensors = theirs(n_local=2) | {"visual.proj": np.zeros(3), "B": np.zeros((3, 224, 16))}
    del tensors["global_prompt"]
    with pytest.raises(InputError) as caught:
        official.from_official(METHOD, tensors, SHAPES)
    said = str(caught.value)
    assert "missing global_prompt; left over visual.proj; wrong shape local_prompts" in said
    assert "(10, 2, 9, 64) instead of (10, 6, 9, 64)" in said and "the method's settings" in said


def test_the_projection_is_transposed_and_the_rest_is_not():
    tensors = theirs() | {"log_fusion": np.array(-1.5, np.float32)}
    params = official.from_official(METHOD, tensors, SHAPES | {"log_fusion": ()})
    x = np.random.default_rng(1).standard_normal(64).astype(np.float32)
    weight = tensors["local_proj.linear.weight"]
    np.testing.assert_allclose(x @ params["local_projection"], weight @ x, atol=1e-5)
    back = official.to_official(METHOD, params)
    assert back.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(back[name], value, strict=True)


def test_a_method_has_names_of_its_own_and_leaves_out_what_no_score_needs():
    ctx = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    method, left = CoOp(None), {"token_prefix": np.zeros((10, 1, 64))}
    params = official.from_official(method, {"ctx": ctx} | left, {"ctx": (16, 64)})
    np.testing.assert_array_equal(official.to_official(method, params)["ctx"], ctx, strict=True)
    with pytest.raises(InputError, match="missing global_prompt.*left over ctx"):
        official.from_official(METHOD, {"ctx": ctx}, SHAPES)


BUFFERS = ("token_prefix", "token_suffix")
META_NET = [f"meta_net.linear{i}.{part}" for i in (1, 2) for part in ("weight", "bias")]
TOWER = "{}_encoder.transformer.resblocks.{}.VPT_shallow"
INDEPENDENT = ["prompt_learner.ctx", TOWER.format("text", 1), "image_encoder.VPT"]
INDEPENDENT += [TOWER.format("image", i) for i in (1, 2)]
PROJECTED = ["ctx", "proj.weight", "proj.bias", "compound_prompts_text.0"]
PROJECTED += [f"compound_prompt_projections.0.{part}" for part in ("weight", "bias")]
# What the authors' checkpoints have learned, and the prefixes of CLIP's two towers in them.
CHECKPOINTS = {
    "locoop": (["ctx"], (), ()),
    "cocoop": (["ctx", *META_NET], (), ()),
    "gallop": (["global_prompt", "local_prompts", "local_proj.linear.weight"], ("visual.",), ("",)),
    "maple": ([f"prompt_learner.{x}" for x in PROJECTED], ("image_encoder.",), ("text_encoder.",)),
    "ivlp": (INDEPENDENT, ("image_encoder.",), ("text_encoder.",)),
}
CHECKPOINTS["promptsrc"] = (
    INDEPENDENT,
    ("image_encoder.", "prompt_learner.ZS_image_encoder."),
    ("text_encoder.",),
)
OPTIONS = {"cocoop": {"ctx_init": ""}, "maple": {"depth": 2}}
OPTIONS |= dict.fromkeys(("ivlp", "promptsrc"), {"text_depth": 2, "vision_depth": 3})


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_whole_models_checkpoint_comes_in_without_its_frozen_weights(clip_folder, name):
    loaded, (own, visual, text) = clip.load(str(clip_folder)), CHECKPOINTS[name]
    method = methods.load(name)(loaded.towers(), **OPTIONS.get(name, {}))
    tokens = method.tokenize(loaded.tokenizer, ("cat", "sea"), "")
    names = sharding.put_names(tokens, sharding.make_mesh(1), lambda _: 0)
    shapes = jax.eval_shape(method.init, jax.random.key(0), loaded.params, names)
    shapes, rng = {x: like.shape for x, like in shapes.items()}, np.random.default_rng(0)
    params = {x: rng.standard_normal(shape).astype(np.float32) for x, shape in shapes.items()}
    learned = official.to_official(method, params)
    assert learned.keys() == set(own)
    kept = load_file(clip_folder / "model.safetensors")
    of_vision = {x.removeprefix("visual."): kept[x] for x in kept if x.startswith("visual.")}
    frozen = {prefix + x: of_vision[x] for prefix in visual for x in of_vision}
    of_text = [x for x in kept if not x.startswith(("visual.", "logit_scale"))]
    frozen |= {prefix + x: kept[x] for prefix in text for x in of_text} | {
        "logit_scale": kept["logit_scale"]
    }
    buffers = {own[0].rpartition("ctx")[0] + x: np.zeros(1) for x in BUFFERS if name != "gallop"}
    whole = learned | frozen | buffers
    assert official.frozen(whole, loaded.arch) == frozen.keys()
    rest = learned | buffers
    again = official.from_official(method, rest, shapes)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    unknown = {"image_encoder.adapter.weight": np.zeros(3)}
    assert not official.frozen(unknown, loaded.arch)
    with pytest.raises(InputError, match="left over image_encoder.adapter.weight"):
        official.from_official(method, rest | unknown, shapes)


def refusal(path):
    with pytest.raises(InputError) as caught:
        official.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class RunsCode:
    def __reduce__(self):
        return eval, ("open('ran', 'w')",)


def test_an_archive_that_wants_to_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = checkpoint(tmp_path / "x.ckpt", theirs(), scheduler=RunsCode())
    assert "refused, since reading it would run code (eval)" in refusal(path)
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


@pytest.fixture(scope="module")
def config(clip_folder):
    found = common.get_config(f"clip={clip_folder},recipe=official")
    found.precision = "float32"
    return found


def finish(run):
    """Stands for an evaluation, which takes longer than all these tests."""
    results = {"config": run.settings, "protocol": evaluate.protocol(run), "step": run.total_steps}
    results |= {"method": evaluate.describe(run), "ood_threshold": {"value": 0.5}}
    (run.workdir / "results.json").write_text(json.dumps(results))
    state, _ = Checkpoints(run.workdir).restore(None)
    workdir.write_tensors(run.workdir / workdir.PARAMS, state["params"])
    label = np.repeat(np.arange(10), 80)
    given = {"label": label, "predicted": np.where(np.arange(800) % 80, label, (label + 1) % 10)}
    np.savez(run.workdir / classification.FILE, **given, probability=label, own=label)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A run folder made of a file with drawn prompts; and that file."""
    folder = tmp_path_factory.mktemp("exchange")
    file = files(folder, theirs() | {"A": np.zeros((3, 16, 224), np.float32)}, "safetensors")
    exchange.bring_in(file, config, str(folder / "run"))
    finish(prepare(config, str(folder / "run")))
    return folder / "run", file


def test_a_round_trip_changes_no_bit(run, config, tmp_path, capsys):
    folder, file = run
    exchange.take_out(folder, tmp_path / "ours.safetensors")
    ours, drawn = load_file(tmp_path / "ours.safetensors"), load_file(file)
    assert drawn.keys() - ours.keys() == {"A"}
    for name, x in ours.items():
        np.testing.assert_array_equal(x, drawn[name])
    theirs_too = {"A": np.zeros((3, 16, 224)), "logit_scale": np.zeros(())}
    save_file(ours | theirs_too, tmp_path / "ours.safetensors")
    exchange.bring_in(tmp_path / "ours.safetensors", config, str(tmp_path / "again"))
    said = capsys.readouterr().out
    assert "left out: 1 of the frozen CLIP's" in said and "no score depends on them: A\n" in said
    finish(prepare(config, str(tmp_path / "again")))
    trees = [finished.load(x).params for x in (folder, tmp_path / "again")]
    jax.tree.map(np.testing.assert_array_equal, *trees)


@pytest.mark.slow
def test_scores_are_the_same_after_a_round_trip(run, config, tmp_path):
    shutil.copytree(run[0], tmp_path / "first")
    exchange.take_out(run[0], tmp_path / "ours.safetensors")
    exchange.bring_in(tmp_path / "ours.safetensors", config, str(tmp_path / "again"))
    for name in ("first", "again"):
        evaluate.evaluate(prepare(config, str(tmp_path / name)))
    first, again = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("first", "again")
    )
    assert first["step"] > 0 and not first.keys() ^ again.keys()
    for key in first.keys() - {"seconds"}:
        assert first[key] == again[key]


def test_inspect_tells_what_was_learned(run, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "keep", lambda: None)  # not into the user's folder
    inspect.main(Namespace(folder=run[0], out=tmp_path / "picture.png"))
    out = capsys.readouterr().out
    assert re.search(r"\| local_prompts +\| \(10, 6, 9, 64\) \| float32 \| 34,560 ", out)
    assert "Total: 40,384 " in out and re.search(r"(?m)^frozen: [\d,]+$", out)
    assert len(re.findall(r"(?m)^  global \d ", out)) == 3
    assert len(re.findall(r"(?m)^  seven \d ( .+ \d\.\d\d){9}$", out)) == 6
    assert "1.000" in out and "least alike: " in out and "(10 of 800 test images are taken" in out
    assert "zero for one: 1 of 80 (1.2%)" in out
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_nearest_words_are_those_of_the_table():
    table = np.random.default_rng(0).standard_normal((2000, 16)).astype(np.float32)
    ids, distances = learned.nearest_words(table[[3, 1999, 7]] + np.float32(0.01), table)
    assert ids.tolist() == [3, 1999, 7]
    np.testing.assert_allclose(distances, 0.01 * 4, rtol=1e-3)
    apart = [np.sort(np.linalg.norm(table - x, axis=-1))[1] for x in table]
    assert learned.yardstick(table) == pytest.approx(np.median(apart), rel=0.05)


def test_mistakes_and_overlaps():
    counts = np.array([[5, 0, 2], [3, 1, 0], [0, 2, 8]])
    found = [(x.true, x.given, x.count, x.of) for x in learned.mistakes(counts)]
    assert found == [(1, 0, 3, 4), (0, 2, 2, 7), (2, 1, 2, 10)]
    alike = np.array([[[1, 0.5], [0.5, 1]], [[1, -1], [-1, 1]]])
    assert learned.overlaps(alike).tolist() == [0.5, -1.0]
    assert learned.overlaps(np.ones((3, 1, 1))).tolist() == [1, 1, 1]
    names = [f"a class with a long name, number {i}" for i in range(30)]
    figure = heatmaps.draw(np.ones((30, 2, 2)), np.eye(30, dtype=int), names)
    figure.draw_without_rendering()
    assert len(figure.axes[1].get_xticklabels()) == grids.CLASSES


def test_runs_and_folders_that_will_not_do(run, config, tmp_path):
    folder, file = run
    with pytest.raises(InputError, match="holds a run already: choose another --workdir"):
        exchange.bring_in(file, config, str(folder))
    other = common.get_config(f"clip={config.clip.name}")  # recipe paper has 4 global prompts
    with pytest.raises(InputError, match=r"wrong shape global_prompt \(3, 9, 64\) instead of \(4"):
        exchange.bring_in(file, other, str(tmp_path / "run"))
    other = common.get_config(f"clip={config.clip.name},method=zeroshot")
    with pytest.raises(InputError, match="zero-shot CLIP has no parameters under names of PyTorch"):
        exchange.bring_in(file, other, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    take, look = (
        exchange.take_out,
        lambda folder, out: inspect.main(Namespace(folder=folder, out=out)),
    )
    for use, ending in ((take, "safetensors"), (look, "png")):
        with pytest.raises(InputError, match="is no run folder"):
            use(tmp_path, tmp_path / f"x.{ending}")
        with pytest.raises(InputError, match=f"must end in .*{ending}"):
            use(folder, tmp_path / "x.txt")
    with pytest.raises(InputError, match="cannot be written"):
        take(folder, tmp_path / "nowhere" / "x.safetensors")
