"""How commands end: a sentence for what their user can mend, a traceback for what is ours."""

import errno
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from sotglp_jax import errors
from sotglp_jax.data import loader
from sotglp_jax.errors import InputError


def ended(*arguments, **variables):
    """Exit code, stdout and stderr of a command."""
    command = [sys.executable, *arguments]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True
    )
    return result.returncode, result.stdout, result.stderr


def test_a_full_disk_is_told_however_deep_it_is_found():
    inner = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    outer = RuntimeError("saving failed")
    outer.__cause__ = ValueError("thread")
    outer.__cause__.__context__ = inner
    assert "the disk is full" in errors.mend(outer)
    assert "the disk is full" in errors.mend(ValueError(f"... {inner}"))
    assert errors.mend(OSError(errno.EIO, "Input/output error")) == ""
    assert errors.mend(AssertionError()) == ""


def test_devices_that_are_not_there_are_told(platform="cuda"):
    arguments = ["-m", "sotglp_jax.main", "--config=configs/zeroshot.py"]
    code, _, err = ended(*arguments, JAX_PLATFORMS=platform)
    assert code == 2 and "Traceback" not in err
    assert err.splitlines()[-1].startswith(f"error: JAX_PLATFORMS={platform} names no device")


def test_help_is_no_error_and_output_may_be_ascii():
    code, out, _ = ended("-m", "sotglp_jax.main", "-h", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert code == 0 and "--config" in out
    show = "from sotglp_jax.errors import run_command; run_command(lambda _: print('é \\udce9'))"
    code, out, err = ended("-c", show, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (code, out) == (0, "\\xe9 \\udce9\n"), err


def test_too_little_shared_memory_is_told_before_a_worker_dies(tmp_path, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=64_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(loader, "SHARED", tmp_path)
    batches = loader.test_batches(range(64), image_size=8, batch_size=32, workers=0)
    assert batches is not None  # no worker, no shared memory
    with pytest.raises(InputError, match="--config.data.workers=0"):
        loader.test_batches(range(64), image_size=224, batch_size=64, workers=8)
