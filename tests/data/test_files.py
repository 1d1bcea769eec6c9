"""The command on image files: workers, devices, and files that are spoiled."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image
from runs import SHORT, metrics, wait_for_step
from safetensors.numpy import save_file


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


@pytest.mark.slow
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
        assert "Traceback" not in err and "leaked shared_memory" not in err
        assert "stopped at step" in out or number == signal.SIGKILL
    code, _, err = main(*broken)
    assert code == 0 and "leaked" not in err, err
    ours, theirs = (
        json.loads((workdir / "results.json").read_text())["accuracy"]
        for workdir in (tmp_path / "broken", on_one_device)
    )
    assert ours == theirs
    assert metrics(tmp_path / "broken")[-1]["loss"] == metrics(on_one_device)[-1]["loss"]


@pytest.mark.slow
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
        ("empty folder", "holds no class folders"),
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
