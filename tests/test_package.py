"""What is installed: everything that a run needs, and from a wheel as well as from a clone."""

import fnmatch
import json
import os
import runpy
import shutil
import subprocess
import sys
import venv

import pytest
from conftest import ROOT
from packaging.specifiers import SpecifierSet
from runs import SHORT


@pytest.fixture
def given(monkeypatch):
    """What setup.py gives to setuptools."""
    setuptools, found = pytest.importorskip("setuptools"), {}
    monkeypatch.setattr(setuptools, "setup", found.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return found


def test_pythons_without_tar_filters_are_not_asked_to_install(given):
    supported = SpecifierSet(given["python_requires"])
    assert [*supported.filter(["3.11.3", "3.11.4", "3.12.0"])] == ["3.11.4", "3.12.0"]


def test_all_programs_configurations_and_assets_are_in_the_package(given):
    package = ROOT / "sotglp_jax"
    folders = {path.parent for path in package.rglob("*.py")} | {package / "configs"}
    assert {str(x.relative_to(ROOT)).replace("/", ".") for x in folders} == set(given["packages"])
    assert (package / "configs").samefile(ROOT / "configs")
    assets = [str(x.relative_to(package)) for x in (package / "assets").rglob("*.*")]
    patterns = given["package_data"]["sotglp_jax"]
    assert assets and all(any(fnmatch.fnmatch(x, p) for p in patterns) for x in assets)


@pytest.fixture
def clone(tmp_path):
    """A copy of the sources, without what a checkout gathers."""
    ignored = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    return shutil.copytree(ROOT, tmp_path / "clone", symlinks=True, ignore=ignored)


@pytest.fixture
def python(tmp_path):
    """Runs Python in a fresh environment, in `tmp_path` or another folder; gives its output."""
    venv.create(tmp_path / "venv", with_pip=True)

    def run(*words, folder=tmp_path):
        env = {k: x for k, x in os.environ.items() if k != "PYTHONPATH"}
        words = [tmp_path / "venv" / "bin" / "python", *map(str, words)]
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_a_wheel_of_the_sources_runs_in_a_fresh_environment_elsewhere(python, clone, tmp_path):
    """No TensorFlow, less than 1.4 GB, no clone; CI installs the clone itself."""
    python("-m", "pip", "install", "setuptools>=77")
    python("setup.py", "-q", "sdist", "--dist-dir", tmp_path / "dist", folder=clone)
    (archive,) = (tmp_path / "dist").iterdir()
    shutil.move(clone / "tests" / "data" / "digit.png", tmp_path)
    shutil.rmtree(clone)
    python("-m", "pip", "wheel", "--no-deps", "-w", tmp_path / "wheels", archive)
    (wheel,) = (tmp_path / "wheels").iterdir()
    python("-m", "pip", "install", wheel)
    sotglp = tmp_path / "venv" / "bin" / "sotglp"
    python("-m", "sotglp_jax.main", "--config=configs/zeroshot.py", "--workdir=plain")
    python(sotglp, "train", "seed=2", "--workdir=run", *SHORT)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["accuracy"]["fused"] > 0.5
    assert "digit.png" in python(sotglp, "predict", "run", "digit.png")
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    size = sum(path.lstat().st_blocks * 512 for path in packages.rglob("*"))
    assert size < 1.4e9 and not (packages / "tensorflow").exists()


@pytest.mark.slow
def test_the_extra_of_a_device_brings_jaxs_plugin_for_it(python, clone, tmp_path):
    """Where there is no such device, the CPU does the work."""
    python("-m", "pip", "install", f"sotglp_jax[cuda12] @ file://{clone}")
    assert "jax-cuda12-plugin" in python("-m", "pip", "list")
    sotglp = tmp_path / "venv" / "bin" / "sotglp"
    python(sotglp, "train", "--workdir=run", *SHORT)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["accuracy"]["fused"] > 0.5


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the lowest NumPy has no wheel for it")
def test_the_suite_passes_at_the_lowest_versions(python, tmp_path):
    """Those of what setup.py names, and the newest of all else."""
    python("-m", "pip", "install", "uv")
    into = ("--python", tmp_path / "venv" / "bin" / "python")
    python("-m", "uv", "pip", "install", *into, "--resolution=lowest-direct", f"-e{ROOT}[test]")
    python("-m", "pytest", folder=ROOT)
