"""The command as users run it."""

import json
import re
import shutil
import signal

import jax
import numpy as np
import pytest
from runs import SHORT, metrics, wait_for_step
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sotglp_jax.checkpoint import Checkpoints
from sotglp_jax.data import digits
from sotglp_jax.devices import sharding
from sotglp_jax.evaluators import classification, maps, mistakes
from sotglp_jax.metrics import Events
from sotglp_jax.run import prepare
from sotglp_jax.settings import unflatten
from sotglp_jax.state import restore

STEPS = 60


def fewshot(clip_folder, workdir, *more):
    return f"--config=configs/fewshot.py:clip={clip_folder}", f"--workdir={workdir}", *SHORT, *more


@pytest.fixture(scope="module")
def finished(main, clip_folder, tmp_path_factory):
    """A run that nothing interrupted, and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    code, out, err = main(*fewshot(clip_folder, workdir))
    assert code == 0, err
    return workdir, out, err


def final_state(workdir):
    saved = json.loads((workdir / "config.json").read_text())
    del saved["clip.sha256"]
    run = prepare(unflatten(saved), str(workdir))
    mesh = sharding.make_mesh()
    names, whole = run.names_on(mesh, run.method), sharding.replicated(mesh)
    return restore(run, run.frozen, names, Checkpoints(workdir), whole)[0]


def test_a_run_folder_holds_everything(finished):
    workdir, out, err = finished
    results = json.loads((workdir / "results.json").read_text())
    assert set(results["accuracy"]) == {"zero_shot", "fused", "global", "local"}
    for value in results["accuracy"].values():
        assert float(value * 897) == pytest.approx(round(value * 897))
    assert results["images"] == {"train": 160, "test": 897} and results["step"] == STEPS
    assert {"seconds", "versions", "protocol"} <= set(results)
    assert len((workdir / "train_images.txt").read_text().splitlines()) == 160
    assert json.loads((workdir / "classes.json").read_text()) == list(digits.CLASS_NAMES)
    predictions = classification.load(workdir)
    counts = classification.confusion(predictions, 10)
    assert counts.shape == (10, 10) and counts.sum() == 897
    assert counts.trace() / 897 == pytest.approx(results["accuracy"]["fused"])
    wrong = mistakes.load(workdir)
    worst = predictions.mistakes[: len(wrong.images)]
    assert len(worst) == mistakes.MOST and (wrong.predicted == predictions.predicted[worst]).all()
    assert (wrong.label != wrong.predicted).all() and (np.diff(wrong.probability) <= 0).all()
    assert (predictions.own <= predictions.probability).all() and len(wrong.maps.prompts) == 6
    assert maps.load(workdir).names == digits.CLASS_NAMES
    lines = metrics(workdir)
    assert [m["step"] for m in lines] == list(range(5, STEPS + 1, 5))
    assert {"loss_global", "loss_local", "plan_entropy", "learning_rate"} <= set(lines[0])
    assert {f"accuracy_{k}" for k in ("fused", "global", "local")} <= set(lines[0])
    assert {"images_per_second", "remaining_seconds"} <= set(lines[0])
    assert "zero-shot CLIP" in out and str(workdir) in out and "quick_gelu" in out
    assert "plan: 60 training steps of 32 images (12 times all shots), then 897 test images" in out
    assert re.search(r"^about \d+:\d\d for the 56 steps that are left", out, re.MULTILINE)
    shown = r"step (\d+) of 60, loss [\d.]+, accuracy \d+%, \d+ images/s, \d+:\d\d left"
    steps = [int(step) for step in re.findall(shown, err)]
    assert (steps[0], steps[-1]) == (5, STEPS)
    assert "Traceback" not in err
    assert not list(workdir.rglob("*.part"))


def test_events_are_those_of_the_metrics_also_after_a_kill(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    writer = Events(tmp_path / "run", start=STEPS - 10)  # as if that were the last checkpoint
    writer.write(STEPS - 5, {"loss": 0.5})
    writer.close()
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    lines = metrics(finished[0])
    assert set(events.Tags()["scalars"]) == {name for line in lines for name in line} - {"step"}
    expected = [(m["step"], m["loss"]) for m in lines[:-2]] + [(STEPS - 5, 0.5)]
    for event, (step, loss) in zip(events.Scalars("loss"), expected, strict=True):
        assert event.step == step and event.value == pytest.approx(loss)


def test_a_finished_run_only_evaluates_again(finished, main, clip_folder):
    workdir, out, _ = finished
    before = json.loads((workdir / "results.json").read_text())
    code, again, err = main(*fewshot(clip_folder, workdir))
    assert code == 0, err
    assert json.loads((workdir / "results.json").read_text())["accuracy"] == before["accuracy"]
    assert percentages(again) == percentages(out)


def percentages(out):
    return [line for line in out.splitlines() if "%" in line]


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
    ours, theirs = (final_state(w) for w in (workdir, finished[0]))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    a, b = metrics(workdir), metrics(finished[0])
    assert [m["step"] for m in a][-4:] == [m["step"] for m in b][-4:]
    assert [m["loss"] for m in a][-4:] == [m["loss"] for m in b][-4:]


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
    assert code == 2 and f"checkpoints/{STEPS} cannot be read" in err and "Traceback" not in err


def test_other_images_are_refused(finished, main, clip_folder, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    images = tmp_path / "run" / "train_images.txt"
    images.write_text(images.read_text().replace("digits/0", "digits/1", 1))
    code, _, err = main(*fewshot(clip_folder, tmp_path / "run"))
    assert code == 2 and "lists other training images" in err


def test_how_a_run_is_computed_may_change(finished, main, clip_folder):
    more = ["--mode=eval", "--config.text.chunk=3", "--config.train.log_every=1"]
    more += ["--config.eval.batch_size=100"]
    code, out, err = main(*fewshot(clip_folder, finished[0], *more))
    assert code == 0, err
    assert percentages(out) == percentages(finished[1])


def test_a_setting_that_an_older_run_lacks_had_its_default(finished, main, clip_folder, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    settings = json.loads(path.read_text())
    for key in ("train.schedule", "method.tau", "eval.batch_size", "protocol"):
        del settings[key]
    path.write_text(json.dumps(settings))
    code, out, err = main(*fewshot(clip_folder, tmp_path / "run"))
    assert code == 0 and percentages(out) == percentages(finished[1]), err
    path.write_text(json.dumps(settings))
    code, _, err = main(*fewshot(clip_folder, tmp_path / "run", "--config.method.tau=0.5"))
    assert code == 2 and "method.tau (default 1.0 there, 0.5 now)" in err


@pytest.mark.slow
def test_after_a_divergence_a_lower_learning_rate_goes_on(main, clip_folder, tmp_path):
    workdir = tmp_path / "run"
    short = "--config.train.epochs=3"
    code, _, err = main(*fewshot(clip_folder, workdir, short, "--config.train.lr=1e30"))
    # Five steps of warm-up, then the weights explode.
    assert code == 2 and re.search("loss or weights are not finite at step [678]:", err)
    assert "Traceback" not in err
    assert "last good checkpoint is of step 5" in err
    steps = [p.name for p in (workdir / "checkpoints").iterdir()]
    assert steps == ["5"] and not (workdir / "results.json").exists()
    code, out, err = main(*fewshot(clip_folder, workdir, short))
    assert code == 0 and "going on from step 5" in out, err
    losses = [m["loss"] for m in metrics(workdir)]
    assert losses[-1] < losses[0] and (workdir / "results.json").exists()


def test_zero_shot_needs_no_training(main, clip_folder, tmp_path, finished):
    config = f"--config=configs/zeroshot.py:clip={clip_folder}"
    code, out, err = main(config, f"--workdir={tmp_path}", "--config.precision=float32")
    assert code == 0, err
    results = json.loads((tmp_path / "results.json").read_text())
    trained = json.loads((finished[0] / "results.json").read_text())
    assert results["accuracy"] == {"zero_shot": trained["accuracy"]["zero_shot"]}
