"""Runs in a bucket, which an emulator stands in for."""

import os
import re
import subprocess
import sys
from collections import Counter

import buckets
import jax
import numpy as np
import pytest
import runs
from conftest import ROOT

from sotglp_jax import lease, metrics, paths, predict, train, workdir
from sotglp_jax.checkpoint import Checkpoints
from sotglp_jax.configs import common
from sotglp_jax.data import datasets, digits, duplicates, loader
from sotglp_jax.errors import InputError
from sotglp_jax.run import prepare

TIMES = {"images_per_second", "remaining_seconds"}


@pytest.fixture
def quick(monkeypatch):
    """Leases that are given up soon."""
    monkeypatch.setattr(lease, "BEAT", 0.1)
    monkeypatch.setattr(lease, "PATIENCE", 1.0)


def test_a_checkpoint_is_restored_to_the_bit_and_one_cut_off_is_none(bucket):
    checkpoints = Checkpoints(bucket, create=True)
    states = [{"x": jax.random.normal(jax.random.key(i), (3, 5))} for i in range(2)]
    for step, state in enumerate(states):
        checkpoints.save(step, state, {"step": step})
    checkpoints.close()
    (bucket / "checkpoints/1/commit_success.txt").unlink()
    checkpoints = Checkpoints(bucket)
    state, meta = checkpoints.restore(states[0])
    checkpoints.close()
    assert meta == {"step": 0}
    np.testing.assert_array_equal(state["x"], states[0]["x"])
    checkpoints = Checkpoints(bucket, create=True)
    checkpoints.save(1, states[0], {"step": "again"})
    checkpoints.close()
    checkpoints = Checkpoints(bucket)
    assert checkpoints.restore(states[0])[1] == {"step": "again"}
    checkpoints.close()


def test_a_run_folder_holds_the_same_as_on_disk(bucket, tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.ones(2, np.float32)}
    for folder in (bucket, tmp_path):
        workdir.create(folder, {"a": 1}, [name], ["hat"])
        workdir.check_same(folder, {"a": 1}, [name], ["hat"])
        with pytest.raises(InputError, match="of another configuration, differing in a"):
            workdir.check_same(folder, {"a": 2}, [name], ["hat"])
        workdir.write_arrays(folder / "x.npz", **arrays)
        with workdir.read_arrays(folder / "x.npz") as found:
            jax.tree.map(np.testing.assert_array_equal, found, arrays)
        workdir.write_tensors(folder / "x.safetensors", {"a": arrays})
        found = workdir.load_tensors(folder / "x.safetensors")
        jax.tree.map(np.testing.assert_array_equal, found, {"a": arrays})
    there = {path.name: path.read_bytes() for path in bucket.iterdir()}
    assert there == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_metrics_are_there_when_a_checkpoint_is_and_now_and_then(bucket, tmp_path):
    def steps(folder=bucket):
        return [line["step"] for line in runs.metrics(folder)]

    on_disk = metrics.JsonLines(tmp_path / "metrics.jsonl", 0)
    for step in (1, 2, 3):
        on_disk.write(step, {"loss": 1.0})
        assert steps(tmp_path)[-1] == step
    on_disk.close()
    writers = metrics.create_writers(bucket, 0, metrics.Log(9, "accuracy"))[:2]
    for step in (1, 2, 3):
        for writer in writers:
            writer.write(step, {"loss": 1.0})
    assert steps() == [1]
    for writer in writers:
        writer.sync()
    assert steps() == [1, 2, 3]  # and is killed
    writers = metrics.create_writers(bucket, 2, metrics.Log(9, "accuracy"))[:2]
    for writer in writers:
        writer.write(3, {"loss": 1.0})
        writer.close()
    assert steps() == [1, 2, 3]
    assert all(path.stat().length for path in bucket.glob("events.out.tfevents.*"))


def test_two_runs_do_not_share_a_folder_and_a_killed_one_lets_go(bucket, quick, capsys):
    with workdir.alone(bucket):
        with pytest.raises(InputError, match=f"^{bucket} is in use by process .*: wait for it"):
            with workdir.alone(bucket):
                pass
    assert not (bucket / workdir.LOCK).exists()
    (bucket / workdir.LOCK).write_text("process 1 on another\n0\n")
    with workdir.alone(bucket):
        pass
    assert "was held by process 1 on another: waiting for 1 s to see" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("gs://nowhere-there/x", "there is no bucket gs://nowhere-there: check the name"),
        (f"gs://{buckets.CLOSED}/x", r"closed cannot be read \(me@here does not have access\)"),
        ("gs:///x", "gs:///x names no bucket"),
        ("s3://bucket/x", "s3://bucket/x is an address, and only .* or below gs://BUCKET"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_refused(emulator, address, said, capfd):
    with pytest.raises(InputError, match=said):
        prepare(common.get_config(), address)
    assert capfd.readouterr() == ("", "")


def test_a_bucket_that_cannot_be_written_is_refused(emulator, capfd):
    folder = paths.place(f"gs://{buckets.READ_ONLY}/run")
    with pytest.raises(InputError, match=r"/run cannot be written \(me@here does not have access"):
        with workdir.alone(folder):
            pass
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("locked", [f"/b/{buckets.NAME}/", "process_0"])  # orbax's, tensorstore's
def test_a_checkpoint_that_a_bucket_takes_no_more_is_told(bucket, locked, monkeypatch):
    checkpoints = Checkpoints(bucket, create=True)
    state = {"x": jax.numpy.ones(3)}
    checkpoints.save(1, state, {"step": 1})
    checkpoints.remove(0)  # waits
    said = rf"^{bucket}/checkpoints cannot be written \(.*me@here does not have access\): when"
    with pytest.raises(InputError, match=said), workdir.alone(bucket):
        monkeypatch.setattr(buckets, "LOCKED", locked)
        checkpoints.save(2, state, {"step": 2})
        checkpoints.close()
    checkpoints = Checkpoints(bucket)
    assert checkpoints.restore(state)[1] == {"step": 1}
    checkpoints.close()


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"gs://some is .*`pip install 'sotglp_jax\[gcs\]'`"):
        paths.place("gs://some/run")


def pictures(folder):
    """Ten digits of two classes each, and what else lies among pictures."""
    source = digits.digits().test
    for i in [*range(10), *range(500, 510)]:
        path = folder / str(i // 500) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        source[i]["image"].save(path)
    (folder / "0/0.png").rename(folder / "0/without ending")
    (folder / "0/notes.txt").write_text("no image")
    (folder / "classes.json").write_text('{"0": "zero"}')
    (folder / "1/.hidden.png").write_bytes(b"")
    (folder / "1/deep").mkdir()
    (folder / "1/500.png").rename(folder / "1/deep/500.png")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX/x").write_bytes(b"")


def upload(folder, bucket):
    for path in folder.rglob("*"):
        if path.is_file():
            (bucket / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())


def test_a_folder_of_images_is_read_as_on_disk(bucket, tmp_path):
    pictures(tmp_path / bucket.name)
    upload(tmp_path / bucket.name, bucket)
    ours, theirs = (datasets.resolve(str(x)) for x in (bucket, tmp_path / bucket.name))
    notes = tuple(note.replace(str(tmp_path), f"gs://{buckets.NAME}") for note in theirs.notes)
    assert (ours.name, ours.class_names, ours.notes) == (bucket.name, ("zero", "1"), notes)
    for part, source in ours.parts.items():
        same = theirs.parts[part]
        assert (source.names, source.labels) == (same.names, same.labels)
        for a, b in zip(source, same, strict=True):
            np.testing.assert_array_equal(a["image"], b["image"])
    names = [predict.image_names([str(x)], Counter()) for x in (bucket, tmp_path / bucket.name)]
    assert [x.removeprefix("gs://stand-in") for x in names[0]] == [
        x.removeprefix(str(tmp_path)) for x in names[1]
    ]
    assert duplicates.warnings(ours) == []
    before = ours.test.states()
    (bucket / ours.test.names[0]).write_bytes(b"damaged")
    assert [a == b for a, b in zip(before, ours.test.states(), strict=True)][:2] == [False, True]
    with pytest.raises(InputError, match=f"1 of .* cannot be read: {bucket}/{ours.test.names[0]}"):
        loader.check_images([ours.test])
    (bucket / ours.test.names[0]).unlink()
    assert datasets.counts(datasets.present(ours))[2] == len(ours.test) - 1


def prepared(clip_folder, folder):
    config = common.get_config(f"clip={clip_folder},shots=2,method=fakes:Staged")
    config.precision, config.train.batch_size = "float32", 8
    config.train.checkpoint_every, config.train.log_every = 4, 1
    return prepare(config, str(folder))


def values(folder):
    """What is measured, without times."""
    return [{k: x for k, x in line.items() if k not in TIMES} for line in runs.metrics(folder)]


@pytest.mark.slow  # its small cases are above
@pytest.mark.usefixtures("compiled")
def test_killed_and_resumed_equals_uninterrupted_on_disk(clip_folder, bucket, tmp_path, ended):
    train.train(prepared(clip_folder, tmp_path))
    runs.train_until_killed(prepared(clip_folder, bucket), 6)
    assert Checkpoints(bucket).latest == 4
    train.train(prepared(clip_folder, bucket))
    jax.tree.map(np.testing.assert_array_equal, *ended[-2:])
    assert values(bucket) == values(tmp_path)
    assert len(list(bucket.glob("events.out.tfevents.*"))) == 2


@pytest.mark.slow
def test_commands_go_from_bucket_to_bucket_and_survive_a_kill(
    command, main, emulator, clip_folder, bucket, tmp_path
):
    def arguments(top):
        config = f"configs/fewshot.py:dataset={top}/photos,clip={clip_folder},shots=2"
        settings = [*runs.SHORT, "--config.train.epochs=60", "--config.data.workers=1"]
        return [f"--config={config}", f"--workdir={top}/run", *settings]

    pictures(tmp_path / "photos")
    upload(tmp_path / "photos", bucket / "photos")
    assert main(*arguments(tmp_path))[0] == 0
    process = command(*arguments(bucket), **emulator)
    runs.wait_for_step(bucket / "run", 20)
    process.kill()
    process.communicate()
    assert not (bucket / "run/results.json").exists()
    code, out, err = main(*arguments(bucket), **emulator)
    assert code == 0, err
    assert f"{bucket}/run was held by process {process.pid} on " in out
    step = re.search(f"going on from step (.*) in {bucket}/run", out)[1]
    assert 10 <= int(step) < 60
    for name in (workdir.PARAMS, workdir.IMAGES, "predictions.npz", "maps.npz"):
        assert (bucket / "run" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    assert values(bucket / "run") == values(tmp_path / "run")
    study = f"configs/shots.py:dataset={bucket}/photos,clip={clip_folder},shots=2,seed=1"
    for name, *rest in (
        ("export", f"{bucket}/run", f"--out={bucket}/x.sotglp"),
        ("predict", f"{bucket}/x.sotglp", f"{bucket}/photos", f"--maps={bucket}/maps"),
        ("inspect", f"{bucket}/run"),
        ("main", f"--config={study}", f"--workdir={bucket}/study", *runs.SHORT)
        + ("--config.data.workers=1", f"--config.train.init_from={bucket}/run"),
        ("reports", f"{bucket}/study", f"--out={bucket}/report"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", f"sotglp_jax.{name}", *rest],
            cwd=ROOT,
            env=os.environ | emulator,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert {"report.html", "table1.md"} <= {path.name for path in (bucket / "report").iterdir()}
    assert len(list((bucket / "maps").iterdir())) == 20
