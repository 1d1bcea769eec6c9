"""The command as users run it."""

import json
import os
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from configs import common
from sotglp_jax import sharding
from sotglp_jax.checkpoint import Checkpoints
from sotglp_jax.errors import InputError
from sotglp_jax.run import prepare
from sotglp_jax.settings import flatten, validate
from sotglp_jax.state import restore
from sotglp_jax.workdir import default_path

STEPS = 60
SHORT = ["--config.train.epochs=12", "--config.train.warmup_epochs=1", "--config.train.lr=0.02"]
SHORT += ["--config.train.log_every=5", "--config.train.checkpoint_every=5"]
SHORT += ["--config.precision=float32"]


def fewshot(clip_folder, workdir, *more):
    return f"--config=configs/fewshot.py:clip={clip_folder}", f"--workdir={workdir}", *SHORT, *more


@pytest.fixture(scope="module")
def finished(main, clip_folder, tmp_path_factory):
    """A run that nothing interrupted, and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    code, out, err = main(*fewshot(clip_folder, workdir))
    assert code == 0, err
    return workdir, out, err


def final_state(workdir, clip_folder):
    config = common.get_config(f"clip={clip_folder}")
    saved = json.loads((workdir / "config.json").read_text())
    config.update_from_flattened_dict(
        {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in saved.items()
            if key != "clip.sha256"
        }
    )
    run = prepare(config, str(workdir))
    return restore(run, Checkpoints(workdir), sharding.replicated(sharding.make_mesh()))[0]


def metrics(workdir):
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_folder_holds_everything(finished):
    workdir, out, err = finished
    results = json.loads((workdir / "results.json").read_text())
    assert set(results["accuracy"]) == {"zero_shot", "fused", "global", "local"}
    for value in results["accuracy"].values():
        assert float(value * 897) == pytest.approx(round(value * 897))
    assert results["images"] == {"train": 160, "test": 897} and results["step"] == STEPS
    assert {"seconds", "versions", "protocol"} <= set(results)
    assert len((workdir / "train_images.txt").read_text().splitlines()) == 160
    assert list(workdir.glob("events.out.tfevents.*"))
    lines = metrics(workdir)
    assert [m["step"] for m in lines] == list(range(5, STEPS + 1, 5))
    assert {"loss_global", "loss_local", "plan_entropy", "learning_rate"} <= set(lines[0])
    assert {f"accuracy_{k}" for k in ("fused", "global", "local")} <= set(lines[0])
    assert {"images_per_second", "remaining_seconds"} <= set(lines[0])
    assert "zero-shot CLIP" in out and str(workdir) in out and "quick_gelu" in out
    assert "[5] " in err and "loss=" in err and "Traceback" not in err
    assert not list(workdir.rglob("*.part"))


def test_a_finished_run_only_evaluates_again(finished, main, clip_folder):
    workdir, out, _ = finished
    before = json.loads((workdir / "results.json").read_text())
    code, again, err = main(*fewshot(clip_folder, workdir))
    assert code == 0, err
    assert json.loads((workdir / "results.json").read_text())["accuracy"] == before["accuracy"]
    assert percentages(again) == percentages(out)


def percentages(out):
    return [line for line in out.splitlines() if "%" in line]


def wait_for_step(workdir, step):
    for _ in range(1200):
        path = workdir / "metrics.jsonl"
        if path.exists() and any(m["step"] >= step for m in metrics(workdir)):
            return
        time.sleep(0.05)
    raise TimeoutError(f"{workdir} never reached step {step}")


def test_stopped_killed_and_resumed_equals_uninterrupted(finished, command, main, clip_folder):
    workdir = finished[0].parent / "broken"
    for number, at in ((signal.SIGTERM, 5), (signal.SIGKILL, 20)):
        process = command(*fewshot(clip_folder, workdir))
        wait_for_step(workdir, at)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        assert not (workdir / "results.json").exists()
        if number == signal.SIGKILL:
            assert process.returncode == -9
        else:
            assert process.returncode == 0 and "stopped at step" in out
            assert "Traceback" not in err
    code, out, err = main(*fewshot(clip_folder, workdir))
    assert code == 0 and "going on from step" in out, err
    ours, theirs = (final_state(w, clip_folder) for w in (workdir, finished[0]))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    a, b = metrics(workdir), metrics(finished[0])
    assert [m["step"] for m in a][-4:] == [m["step"] for m in b][-4:]
    assert [m["loss"] for m in a][-4:] == [m["loss"] for m in b][-4:]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of three classes with their own parts."""
    tmp_path = tmp_path_factory.mktemp("images")
    for c in range(3):
        for part in ("train", "test"):
            (tmp_path / "data" / part / f"c{c}").mkdir(parents=True)
            for i in range(4):
                pixels = np.random.default_rng([c, i]).integers(0, 256, (40, 50, 3))
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(tmp_path / "data" / part / f"c{c}" / f"{i}.png")
    return tmp_path / "data"


def on_files(clip_folder, images, workdir, *more):
    config = f"--config=configs/fewshot.py:dataset={images},clip={clip_folder},shots=4"
    return config, f"--workdir={workdir}", *SHORT, "--config.train.batch_size=4", *more


@pytest.fixture(scope="module")
def on_one_device(main, clip_folder, images, tmp_path_factory):
    """A run on image files, without workers and interruptions."""
    workdir = tmp_path_factory.mktemp("runs") / "one"
    code, _, err = main(*on_files(clip_folder, images, workdir, "--config.data.workers=0"))
    assert code == 0, err
    return workdir


def test_with_workers_ctrl_c_saves_and_a_kill_leaves_no_process(
    command, main, clip_folder, images, on_one_device, tmp_path
):
    broken = on_files(clip_folder, images, tmp_path / "broken", "--config.data.workers=2")
    for number, at in ((signal.SIGINT, 5), (signal.SIGKILL, 15)):
        process = command(*broken, start_new_session=True)
        wait_for_step(tmp_path / "broken", at)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal's Ctrl-C reaches the workers too
        else:
            process.kill()
        out, err = process.communicate(timeout=60)  # returns once no worker holds the pipes
        assert "Traceback" not in err
        assert "stopped at step" in out or number == signal.SIGKILL
    assert main(*broken)[0] == 0
    ours, theirs = (
        json.loads((workdir / "results.json").read_text())["accuracy"]
        for workdir in (tmp_path / "broken", on_one_device)
    )
    assert ours == theirs
    assert metrics(tmp_path / "broken")[-1]["loss"] == metrics(on_one_device)[-1]["loss"]


def test_another_configuration_is_refused_with_its_keys(finished, main, clip_folder):
    workdir = finished[0]
    before = sorted(workdir.iterdir())
    code, _, err = main(*fewshot(clip_folder, workdir, "--config.method.topk=4"))
    assert code == 2 and "method.topk (10 there, 4 now)" in err and "Traceback" not in err
    assert "train.lr" not in err and sorted(workdir.iterdir()) == before


def test_a_damaged_run_folder_is_refused(finished, main, clip_folder, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("")
    code, _, err = main(*fewshot(clip_folder, tmp_path / "run"))
    assert code == 2 and "config.json is damaged" in err
    shutil.copy(finished[0] / "config.json", tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints" / str(STEPS) / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    code, _, err = main(*fewshot(clip_folder, tmp_path / "run"))
    assert code == 2 and "is damaged" in err and "Traceback" not in err


def test_other_images_are_refused(finished, main, clip_folder, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    images = tmp_path / "run" / "train_images.txt"
    images.write_text(images.read_text().replace("digits/0", "digits/1", 1))
    code, _, err = main(*fewshot(clip_folder, tmp_path / "run"))
    assert code == 2 and "lists other training images" in err


def test_how_a_run_is_computed_may_change(finished, main, clip_folder):
    more = ["--mode=eval", "--config.text.chunk=3", "--config.train.log_every=1"]
    code, out, err = main(*fewshot(clip_folder, finished[0], *more))
    assert code == 0, err
    assert percentages(out) == percentages(finished[1])


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(main, clip_folder, tmp_path):
    workdir = tmp_path / "run"
    code, _, err = main(*fewshot(clip_folder, workdir, "--config.train.lr=1e30"))
    # Five steps of warm-up, then the weights explode.
    assert code == 2 and re.search("loss or weights are not finite at step [678]:", err)
    assert "Traceback" not in err
    assert "last good checkpoint is of step 5" in err
    steps = [p.name for p in (workdir / "checkpoints").iterdir()]
    assert steps == ["5"] and not (workdir / "results.json").exists()


def test_zero_shot_needs_no_training(main, clip_folder, tmp_path, finished):
    config = f"--config=configs/zeroshot.py:clip={clip_folder}"
    code, out, err = main(config, f"--workdir={tmp_path}", "--config.precision=float32")
    assert code == 0, err
    results = json.loads((tmp_path / "results.json").read_text())
    trained = json.loads((finished[0] / "results.json").read_text())
    assert results["accuracy"] == {"zero_shot": trained["accuracy"]["zero_shot"]}


def test_four_devices_and_two_workers_give_what_one_device_gives(
    main, clip_folder, images, on_one_device, tmp_path
):
    code, _, err = main(
        *on_files(clip_folder, images, tmp_path / "four", "--config.data.workers=2"),
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    assert code == 0, err
    losses = [[m["loss"] for m in metrics(w)] for w in (tmp_path / "four", on_one_device)]
    assert len(losses[0]) == 8
    np.testing.assert_allclose(*losses, rtol=1e-3)


def spoil(images, clip_folder, what, tmp_path):
    """Breaks one thing; returns the config string's data set and CLIP."""
    model = shutil.copytree(clip_folder, tmp_path / "clip")
    images = shutil.copytree(images, tmp_path / "images")
    if what == "truncated weights":
        content = (model / "model.safetensors").read_bytes()
        (model / "model.safetensors").write_bytes(content[:-99])
    if what == "foreign weights":
        (model / "model.safetensors").unlink()
        save_file({"conv1.weight": np.zeros(3)}, model / "model.safetensors")
    if what == "truncated image":
        path = images / "train" / "c1" / "2.png"
        path.write_bytes(path.read_bytes()[:-2000])
    if what == "empty folder":
        images = tmp_path / "empty"
        images.mkdir()
    if what == "missing images":
        images = tmp_path / "split.json"
        images.write_text('{"train": [["a.png", 0, "a"]], "test": [["b.png", 0, "a"]]}')
    return images, model


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("truncated weights", "perhaps cut short"),
        ("foreign weights", "not those of a CLIP"),
        ("truncated image", "1 of 24 images cannot be read: "),
        ("empty folder", "holds no images"),
        ("missing images", "none of the 2 images"),
    ],
)
def test_spoiled_files_are_one_sentence_and_exit_code_2(
    main, clip_folder, images, what, said, tmp_path
):
    images, model = spoil(images, clip_folder, what, tmp_path)
    code, _, err = main(*on_files(model, images, tmp_path / "run"))
    assert code == 2 and said in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--config=FILE is missing"),
        (["--config=README.md"], "README.md is no Python file"),
        (["--config=configs/fewshot.py", "--config.train.lr.x=1"], "no such key"),
        (["--config=configs/fewshot.py:seed=-1"], "seed=-1 is too small"),
        (["--config=configs/fewshot.py", "--config.method.context="], "has 0 tokens"),
        (["--config=configs/fewshot.py", "--config.data.crop_scale=('a','b')"], "two shares"),
        (["--config=configs/nothing.py"], "No such file or directory: 'configs/nothing.py'"),
        (["--config=configs/fewshot.py:sots=1"], "the keys are dataset, shots, seed, clip, recipe"),
        (["--config=configs/fewshot.py:shots=many"], "shots must be a whole number"),
        (["--config=configs/fewshot.py:recipe=soup"], "take paper or official"),
        (["--config=configs/fewshot.py", "--config.train.foo=1"], "--config.train.foo=1: no such"),
        (["--config=configs/fewshot.py", "--config.shots=few"], "--config.shots=few"),
        (["--config=configs/fewshot.py", "--config.recipe=official"], "FILE:recipe=VALUE"),
        (["--config=configs/fewshot.py", "--nothing=1"], "Unknown command line flag"),
        (["--config=configs/fewshot.py", "stray"], '"stray" is no flag'),
        (["--config=configs/fewshot.py:dataset=nothing"], "no known name"),
        (["--config=configs/fewshot.py:clip=/nowhere.safetensors"], "no file or folder here"),
        (["--config=configs/fewshot.py", "--config.mesh=99"], 'mesh="99" does not fit'),
        (["--config=configs/fewshot.py", "--workdir=setup.py/run"], "cannot be written"),
        (["--config=configs/fewshot.py", "--config.method.topk=65"], "than the 64"),
        (["--config=configs/fewshot.py", "--mode=eval"], "no finished"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(main, arguments, said, tmp_path):
    workdir = tmp_path / "run"
    code, _, err = main(f"--workdir={workdir}", *arguments)  # the last one given counts
    assert code == 2 and said in err and "Traceback" not in err
    assert len([x for x in err.splitlines() if x.startswith("error: ")]) == 1
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("precision", "fp8", "set --config.precision to 'float32', 'bf16'"),
        ("data.sampler", "all", "data.sampler"),
        ("method.local_init", "zeros", "'template', 'random', 'gram'"),
        ("method.n_global", 0, "n_global=0 is too small"),
        ("train.epochs", 5, "all warm-up"),
        ("train.batch_size", 0, "batch_size"),
        ("transport.epsilon", 0.0, "epsilon"),
        ("method.fusion_weight", float("nan"), "fusion_weight"),
        ("data.crop_scale", (0.5, 0.1), "crop_scale"),
    ],
)
def test_values_out_of_range_are_refused(key, value, said):
    config = common.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError, match=said):
        validate(config)


@pytest.mark.parametrize(
    ("arg", "folder"),
    [
        ("", "digits-tiny-16shot-seed1"),
        ("dataset=eurosat,clip=ViT-B/16,shots=4,seed=2", "eurosat-ViT-B-16-4shot-seed2"),
        (
            "dataset=/data/split_zhou_Pets.json,clip=/models/big/",
            "split_zhou_Pets-big-16shot-seed1",
        ),
        ("dataset=some/folder/,clip=ViT-L/14@336", "folder-ViT-L-14@336-16shot-seed1"),
    ],
)
def test_run_folders_are_named_after_the_configuration(arg, folder):
    assert str(default_path(common.get_config(arg))) == f"runs/{folder}"


def test_recipe_official_is_the_scripts():
    config = flatten(common.get_config("dataset=eurosat,clip=ViT-B/16,recipe=official"))
    assert (config["train.epochs"], config["train.batch_size"], config["train.lr"]) == (
        200,
        10,
        1e-3,
    )
    assert config["method.n_global"] == 3 and config["method.mean_of_branches"]
    assert config["data.sampler"] == "stratified" and config["precision"] == "bf16"
    assert config["method.keep_underscores"] and config["train.warmup_epochs"] == 0
