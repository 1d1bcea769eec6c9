"""Runs in a bucket, which an emulator stands in for."""

import sys

import buckets
import jax
import numpy as np
import pytest
import runs
from etils import epath

from sotglp_jax import lease, metrics, paths, train, workdir
from sotglp_jax.checkpoint import Checkpoints
from sotglp_jax.configs import common
from sotglp_jax.errors import InputError
from sotglp_jax.run import prepare

TIMES = {"images_per_second", "remaining_seconds"}


@pytest.fixture(scope="module")
def variables():
    with buckets.serve() as variables:
        yield variables


@pytest.fixture
def bucket(variables, request):
    """A folder of its own."""
    return epath.Path(f"gs://{buckets.NAME}/{request.node.name}")


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


def test_metrics_are_there_when_a_checkpoint_is_and_now_and_then(bucket):
    def steps():
        return [line["step"] for line in runs.metrics(bucket)]

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
def test_a_bucket_that_cannot_be_used_is_refused(variables, address, said, capfd):
    with pytest.raises(InputError, match=said):
        prepare(common.get_config(), address)
    assert capfd.readouterr() == ("", "")


def test_a_bucket_that_cannot_be_written_is_refused(variables, capfd):
    folder = paths.place(f"gs://{buckets.READ_ONLY}/run")
    with pytest.raises(InputError, match=r"/run cannot be written \(me@here does not have access"):
        with workdir.alone(folder):
            pass
    assert capfd.readouterr() == ("", "")


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"gs://some is .*`pip install 'sotglp_jax\[gcs\]'`"):
        paths.place("gs://some/run")


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
