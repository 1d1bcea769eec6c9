"""How commands end: a sentence for what their user can mend, a traceback for what is ours."""

import ctypes
import errno
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image

from sotglp_jax import clip, errors
from sotglp_jax.data import datasets, loader
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


@pytest.fixture
def without_privileges():
    """The superuser may read everything: these tests do without that right of theirs."""
    if os.geteuid():
        yield
        return
    libc, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0)
    before, after = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    for found in (before, after):
        assert libc.capget(header, found) == 0
    after[0] &= ~0b110  # effective: to read and search whatever the permissions
    assert libc.capset(header, after) == 0
    yield
    assert libc.capset(header, before) == 0


def said_of(path, load):
    """What a command says where it may not read a file or folder."""
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        with pytest.raises((InputError, PermissionError)) as caught:
            load()
    finally:
        path.chmod(mode)
    return errors.mend(caught.value)


@pytest.mark.parametrize(
    "what", [".", "model.safetensors", "open_clip_config.json", "tokenizer.json"]
)
def test_weights_that_may_not_be_read_are_not_missing(clip_folder, without_privileges, what):
    said = said_of(clip_folder / what, lambda: clip.load(str(clip_folder)))
    assert str(clip_folder / what) in said and "ermission denied" in said
    assert "missing" not in said


@pytest.mark.parametrize("what", [".", "hat", "hat/0.png"])
def test_images_that_may_not_be_read_are_not_missing(tmp_path, without_privileges, what):
    for name in ("hat", "shoe"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("RGB", (8, 8), i).save(tmp_path / name / f"{i}.png")

    def load():
        loader.check_images(list(datasets.resolve(str(tmp_path)).parts.values()))

    said = said_of(tmp_path / what, load)
    assert str(tmp_path / what) in said and "ermission denied" in said
    assert "missing" not in said


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
