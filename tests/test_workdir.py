"""A run folder and who holds it."""

import subprocess
import sys

import pytest
from conftest import ROOT

from sotglp_jax import exchange, study, workdir
from sotglp_jax.configs import common
from sotglp_jax.errors import InputError

HOLD = """
import pathlib, sys, time
from sotglp_jax import workdir
with workdir.alone(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_runs_do_not_share_a_folder_and_a_killed_one_lets_go(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"in use by process {process.pid} on "):
        with workdir.alone(folder):
            pass
    process.kill()
    process.wait()
    process.stdout.close()
    with workdir.alone(folder):
        pass
    with workdir.alone(folder):
        pass


def test_a_held_folder_is_not_looked_into(tmp_path):
    config = common.get_config(f"dataset={tmp_path / 'nothing'}")
    missing = tmp_path / "missing.safetensors"
    with workdir.alone(tmp_path):
        for start in (
            lambda: study.run_one(config, str(tmp_path), "train"),
            lambda: study.run_one(config, str(tmp_path), "eval"),
            lambda: exchange.bring_in(missing, config, str(tmp_path)),
        ):
            with pytest.raises(InputError, match=f"{tmp_path} is in use by process"):
                start()


def test_a_folder_is_left_as_it_was_where_nothing_came_of_a_run(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    for name in ("there", "link", "new"):
        with workdir.alone(tmp_path / name):
            pass
    assert {path.name for path in tmp_path.iterdir()} == {"there", "link"}
    assert not list((tmp_path / "there").iterdir())


def test_names_in_any_encoding_can_be_written(tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    workdir.create(tmp_path, {"a": 1}, [name], ["hat"])
    assert (tmp_path / workdir.IMAGES).read_bytes() == b"caf\xe9.jpg\n"
    workdir.check_same(tmp_path, {"a": 1}, [name], ["hat"])
    with pytest.raises(InputError, match="other training images"):
        workdir.check_same(tmp_path, {"a": 1}, ["café.jpg"], ["hat"])
    with pytest.raises(InputError, match="classes.json has other class names"):
        workdir.check_same(tmp_path, {"a": 1}, [name], ["shoe"])
