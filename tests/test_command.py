"""The command `sotglp`: short forms, refusals, and what doctor finds."""

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys

import jax
import pytest
from conftest import ROOT
from huggingface_hub import constants

from sotglp_jax import doctor, main
from sotglp_jax.__main__ import COMMANDS, expand
from sotglp_jax.errors import InputError


@pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections
def test_the_short_form_is_that_of_the_flags(monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ["dataset=a,b", "clip=ViT-B/16", "method=coop", "train.lr=0.01", "precision=float32"]
    module, (config, *overrides) = expand("train", words)
    assert module == "sotglp_jax.main"
    short = main.load(config.removeprefix("--config="), overrides)
    arg = "configs/fewshot.py:dataset=a,,b,clip=ViT-B/16,method=coop"
    assert short == main.load(arg, ["--config.train.lr=0.01", "--config.precision=float32"])
    assert (short.dataset, short.method.name, short.train.lr) == ("a,b", "coop", 0.01)


def test_what_is_in_the_long_form_stays():
    assert expand("train", [])[1] == ["--config=configs/fewshot.py"]
    given = ["--workdir=w", "--config=configs/shots.py:seed=1", "shots=2"]
    long = ["--mode=eval", "--config=configs/shots.py:seed=1,shots=2", "--workdir=w"]
    assert sorted(expand("eval", given)[1]) == sorted(long)
    assert expand("predict", ["run", "a=b.jpg"]) == ("sotglp_jax.predict", ["run", "a=b.jpg"])
    with pytest.raises(InputError, match='"photos" is neither KEY=VALUE nor a flag'):
        expand("train", ["photos"])


def test_every_command_is_a_module_and_an_unknown_one_is_told_the_nearest():
    assert all(importlib.util.find_spec(f"sotglp_jax.{module}") for module, _ in COMMANDS.values())
    command = [sys.executable, "-m", "sotglp_jax"]
    done = subprocess.run([*command, "evla"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith('error: "evla" is no command: the nearest is eval, and all are')
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and all(f"\n  {name} " in done.stdout for name in COMMANDS)


@pytest.fixture
def diagnosed(compiled, tmp_path, monkeypatch, capsys):
    """Runs doctor where nothing is cached but 3 MB of features: (exit code, lines)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # no complaint of a GPU that is here
    plenty = shutil.disk_usage("/")._replace(total=10**12, free=10**12)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: plenty)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "sotglp_jax" / "features").mkdir(parents=True)
    (tmp_path / "sotglp_jax" / "features" / "a").write_bytes(bytes(3_000_000))

    def run(**hub):
        for name, value in hub.items():
            monkeypatch.setattr(constants, name, value)
        with pytest.raises(SystemExit) as ended:
            doctor.main(None)
        return ended.value.code, capsys.readouterr().out

    return run


def test_doctor_finds_nothing_wrong_where_all_is_well(diagnosed):
    code, out = diagnosed(HF_HUB_OFFLINE=True)
    assert code == 0 and out.endswith("nothing is wrong\n")
    assert f"jax {jax.__version__}, " in out and f"devices: {jax.device_count()} x cpu" in out
    assert "image features: 3 MB in " in out and "the hub's files: 0 MB in " in out


def test_doctor_says_what_is_wrong_and_what_to_do(diagnosed, monkeypatch):
    wanted = ["flax>=99", "nothing-of-this-name>=1", "jax>=0.1; python_version>'2'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: wanted)
    code, out = diagnosed(HF_HUB_OFFLINE=False, ENDPOINT="http://127.0.0.1:9")
    wrong = [line for line in out.splitlines() if line.startswith("wrong: ")]
    assert code == 1 and len(wrong) == 2
    assert wrong[0] == "wrong: run `pip install 'flax>=99' 'nothing-of-this-name>=1'`."
    assert "http://127.0.0.1:9 does not answer" in out and "or copy them here" in wrong[1]
