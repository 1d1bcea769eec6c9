"""Features on disk when runs are killed, are asked to stop, or want the same at the same time."""

import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from sotglp_jax.errors import InputError
from sotglp_jax.feature_file import FeatureFile

# A run as far as caches go: 12 images, 4 at a time, each of which takes a while to read.
SCRIPT = """
import sys, time
import jax, numpy as np
from PIL import Image
from sotglp_jax import cache, hosts
from sotglp_jax.data.sources import Source

folder, seconds, state, distributed = sys.argv[1:]
if distributed:
    hosts.join(distributed)


class Reader:
    def __call__(self, key):
        print("reads", file=sys.stderr, flush=True)
        time.sleep(float(seconds))
        return Image.new("RGB", (8, 8), (key, 2 * key, 0))

    def states(self, keys):
        return [state]


def encode(frozen, pixels):
    return {"mean": frozen * pixels.mean((1, 2)), "max": pixels.max((1, 2, 3))}


source = Source(Reader(), range(12), [f"{i}" for i in range(12)], range(12), "numbers")
mesh = jax.make_mesh((jax.device_count(),), ("data",))
encoder = cache.Encoder(encode, np.float32(2), {}, 8, np.dtype("float32"), 2, mesh, 0, folder)
features = cache.load(encoder, source).features
print(features["mean"][0, :, 1].astype(int).tolist(), features["max"][0].astype(int).tolist())
"""
SAID = f"{[4 * i for i in range(12)]} {[2 * i for i in range(12)]}\n"


@pytest.fixture
def start(tmp_path, environment):
    """Starts such a run; none outlives its test."""
    started = []

    def run(seconds=0.0, state="", distributed=""):
        arguments = [str(tmp_path), f"{seconds}", state, distributed]
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def start_two(start):
    """Starts two processes of one run, whose files look different."""

    def run(seconds=0.0):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        return [start(seconds, f"{i}", f"localhost:{port},2,{i}") for i in range(2)]

    return run


def until_it_reads(process):
    for line in process.stderr:
        if line == "reads\n":
            return
    raise AssertionError(process.communicate())


def ended(process):
    out, err = process.communicate(timeout=90)
    return process.returncode, out, err


def files(folder):
    return sorted(path.suffix for path in folder.iterdir())


def test_a_killed_run_leaves_nothing_that_stays(start, tmp_path):
    killed = start(seconds=60)
    until_it_reads(killed)
    killed.kill()
    killed.wait()
    (part,) = tmp_path.iterdir()
    assert part.suffix == ".part"
    (tmp_path / "train-of-another-time.part").write_bytes(b"left")
    code, out, err = ended(start())
    assert (code, out) == (0, SAID), err
    assert files(tmp_path) == [".features"]
    code, out, err = ended(start())
    assert (code, out) == (0, SAID) and "reads" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_stops_between_batches(start, tmp_path, number):
    asked = start(seconds=0.5)
    until_it_reads(asked)
    asked.send_signal(number)
    code, out, err = ended(asked)
    assert code == 0 and out == (
        "stopped while caching features; the same command goes on from there\n"
    ), err
    assert err.count("reads") < 12 and not files(tmp_path)


def test_of_two_runs_one_builds_and_the_other_waits(start, tmp_path):
    builds = start(seconds=0.3)
    until_it_reads(builds)
    (code, out, err), (*_, said) = ended(start()), ended(builds)
    assert code == 0 and out.startswith("waiting for another run") and out.endswith(SAID), err
    assert "reads" not in err and said.count("reads") == 11
    assert files(tmp_path) == [".features"]


def test_a_run_that_waits_can_be_stopped_and_survives_the_other(start, tmp_path):
    killed = start(seconds=60)
    until_it_reads(killed)
    stopped, builds = start(), start()
    for waiting in (stopped, builds):
        assert waiting.stdout.readline().startswith("waiting")
    stopped.send_signal(signal.SIGTERM)
    code, out, _ = ended(stopped)
    assert code == 0 and out.startswith("stopped while caching")
    assert files(tmp_path) == [".part"]  # not the stopped one's to remove
    killed.kill()
    assert ended(builds)[:2] == (0, SAID)
    assert files(tmp_path) == [".features"]


def test_the_first_of_two_processes_decides(start_two, tmp_path):
    for reads in (True, False):
        (code, out, err), (other, silent, said) = map(ended, start_two())
        assert (code, other, out, silent) == (0, 0, SAID, ""), err + said
        assert ("reads" in err, "reads" in said) == (reads, reads)
    assert files(tmp_path) == [".features"]


@pytest.mark.parametrize(("number", "which"), [(signal.SIGTERM, 1), (signal.SIGINT, 0)])
def test_one_process_that_is_asked_stops_both(start_two, tmp_path, number, which):
    pair = start_two(seconds=1.0)
    for process in pair:
        until_it_reads(process)
    pair[which].send_signal(number)
    (code, out, err), (other, *_) = map(ended, pair)
    assert (code, other) == (0, 0) and out.startswith("stopped while caching"), err
    assert not files(tmp_path)


@pytest.fixture
def file(tmp_path):
    return FeatureFile(
        tmp_path / "a.features", {"x": (1, 2, 3), "y": (1, 2)}, np.dtype(np.float32), "{}"
    )


def written(file, value):
    part = file.claim()
    file.make_room(part)
    rows = {"x": np.full((2, 3), value, np.float32), "y": np.full(2, value, np.float32)}
    with file.open() as opened:
        file.write(opened, np.arange(2), rows)
    file.finish(part)
    file.release(part)


def test_a_part_is_of_one_and_what_was_mapped_is_kept(file):
    written(file, 1.0)
    mapped = file.maps()
    part = file.claim()
    assert part and file.claim() is None
    file.release(part)
    assert file.is_whole() and not file.part.exists()
    written(file, 2.0)
    assert mapped["x"].tolist() == [[[1.0] * 3] * 2] and mapped["y"].tolist() == [[1.0] * 2]
    assert file.maps()["x"].tolist() == [[[2.0] * 3] * 2]


def test_what_is_released_late_is_not_anothers(file):
    part = file.claim()
    file.make_room(part)
    file.finish(part)
    other = file.claim()  # before the first one lets go
    file.release(part)
    assert other and file.part.exists()
    file.release(other)
    assert not file.part.exists()


def test_a_file_that_was_cut_short_or_is_of_others_is_not_whole(file):
    assert not file.is_whole()
    written(file, 1.0)
    assert file.is_whole()
    os.truncate(file.path, file.size + 1)
    assert not file.is_whole()
    file.path.unlink()
    with pytest.raises(InputError, match="cannot be read .* --config.cache.folder"):
        file.maps()


def test_a_full_disk_is_said(file):
    part = file.claim()
    file.make_room(part)
    with open("/dev/full", "r+b") as full, pytest.raises(InputError, match="No space left"):
        file.write(full, np.arange(2), {"x": np.ones((2, 3)), "y": np.ones(2)})
    file.release(part)
    assert not file.part.exists()
