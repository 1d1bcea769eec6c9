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

# A run as far as caches go: 24 images, one after the other, none while a file is there.
SCRIPT = r"""
import os
import sys
import threading
import time

import jax
import numpy as np
from PIL import Image
from sotglp_jax import cache
from sotglp_jax.devices import hosts, sharding
from sotglp_jax.data.sources import Source
from sotglp_jax.data.transforms import Resize

folder, held, seconds, state, distributed = sys.argv[1:]
one = threading.Lock()
if distributed:
    hosts.join(distributed)


class Reader:
    def __call__(self, key):
        os.write(2, b"reads\n")  # by several threads
        with one:
            time.sleep(float(seconds))
        while os.path.exists(held):
            time.sleep(0.05)
        return Image.new("RGB", (8, 8), (key, 2 * key, 0))

    def states(self, keys):
        return [state]


def encode(frozen, pixels):
    return {"mean": frozen * pixels.mean((1, 2)), "max": pixels.max((1, 2, 3))}


source = Source(Reader(), range(24), [f"{i}" for i in range(24)], range(24), "numbers")
mesh = sharding.make_mesh()
size = Resize(8)
encoder = cache.Encoder(encode, np.float32(2), {}, size, np.dtype("float32"), 2, mesh, 0, folder)
features = cache.load(encoder, source).features
print(features["mean"][0, :, 1].astype(int).tolist(), features["max"][0].astype(int).tolist())
"""
SAID = f"{[4 * i for i in range(24)]} {[2 * i for i in range(24)]}\n"


@pytest.fixture
def start(tmp_path, environment):
    """Starts such a run; none outlives its test."""
    started = []

    def run(seconds=0.0, state="", distributed=""):
        arguments = [str(tmp_path / "cache"), str(tmp_path / "held"), f"{seconds}", state]
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments, distributed],
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


@pytest.fixture
def held(tmp_path):
    """A file that holds up runs while they read."""
    (tmp_path / "held").touch()
    return tmp_path / "held"


def until_it_reads(process):
    for line in process.stderr:
        if line == "reads\n":
            return
    raise AssertionError(process.communicate())


def ended(process):
    out, err = process.communicate(timeout=90)
    return process.returncode, out, err


def files(folder):
    return sorted(path.suffix for path in (folder / "cache").iterdir())


def test_a_killed_run_leaves_nothing_that_stays(start, held, tmp_path):
    killed = start()
    until_it_reads(killed)
    killed.kill()
    killed.wait()
    held.unlink()
    assert files(tmp_path) == [".part"]
    (tmp_path / "cache" / "train-of-another-time.part").write_bytes(b"left")
    code, out, err = ended(start())
    assert (code, out) == (0, SAID), err
    assert files(tmp_path) == [".features"]
    code, out, err = ended(start())
    assert (code, out) == (0, SAID) and "reads" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_stops_between_batches(start, held, tmp_path, number):
    asked = start()
    until_it_reads(asked)
    asked.send_signal(number)
    held.unlink()
    code, out, err = ended(asked)
    assert (code, out) == (
        0,
        "stopped while caching features; the same command goes on from there\n",
    ), err
    assert not files(tmp_path)


def test_of_runs_that_want_the_same_one_builds_and_the_others_wait(start, held, tmp_path):
    builds = start()
    until_it_reads(builds)
    waits, stopped = start(), start()
    for process in (waits, stopped):
        assert process.stdout.readline().startswith("waiting for another run")
    stopped.send_signal(signal.SIGTERM)
    code, out, _ = ended(stopped)
    assert code == 0 and out.startswith("stopped while caching")
    assert files(tmp_path) == [".part"]  # not the stopped one's to remove
    held.unlink()
    (code, out, err), (other, said, _) = ended(waits), ended(builds)
    assert (code, other, out, said) == (0, 0, SAID, SAID) and "reads" not in err, err
    assert files(tmp_path) == [".features"]


def test_a_run_that_waits_takes_over_from_one_that_is_killed(start, held, tmp_path):
    killed = start()
    until_it_reads(killed)
    waits = start()
    assert waits.stdout.readline().startswith("waiting for another run")
    held.unlink()
    killed.kill()
    assert ended(waits)[:2] == (0, SAID)
    assert files(tmp_path) == [".features"]


def test_the_first_of_two_processes_decides(start_two, tmp_path):
    for reads in (True, False):
        (code, out, err), (other, silent, said) = map(ended, start_two())
        assert (code, other) == (0, 0) and SAID in out and SAID not in silent, err + said
        assert ("reads" in err, "reads" in said) == (reads, reads)
    assert files(tmp_path) == [".features"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "which"), [(signal.SIGTERM, 1), (signal.SIGINT, 0)])
def test_one_process_that_is_asked_stops_both(start_two, tmp_path, number, which):
    pair = start_two(seconds=0.7)
    for process in pair:
        until_it_reads(process)
    pair[which].send_signal(number)
    (code, out, err), (other, *_) = map(ended, pair)
    assert (code, other) == (0, 0) and "stopped while caching features" in out, err
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
    with (
        open("/dev/full", "wb", buffering=0) as full,
        pytest.raises(InputError, match="No space left"),
    ):
        file.write(full, np.arange(2), {"x": np.ones((2, 3)), "y": np.ones(2)})
    file.release(part)
    assert not file.part.exists()
