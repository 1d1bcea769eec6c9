"""What several test files share."""

import os
import re
import subprocess
import sys
from pathlib import Path

import clips
import jax
import pytest
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from sotglp_jax import evaluate

ROOT = Path(__file__).parent.parent
# Most of the tests' time is compilation, which is quick where nothing is optimised.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ.setdefault("XLA_FLAGS", QUICK)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A CLIP of random weights, 32 pixels."""
    return clips.write(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Of commands: programs are compiled once, also where several processes run the tests.

    A command that imports TensorFlow, which only preparing data sets needs, fails.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    (base / "tensorflow.py").write_text("raise AssertionError('TensorFlow is imported')")
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(base), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "JAX_COMPILATION_CACHE_DIR": str(shared / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


@pytest.fixture(scope="session")
def emulator():
    """Stands in for Google Cloud Storage; the environment in which commands ask it."""
    import buckets

    with buckets.serve() as variables:
        yield variables


@pytest.fixture
def bucket(emulator, request):
    """A folder of its own in a bucket."""
    import buckets

    return epath.Path(f"gs://{buckets.NAME}") / re.sub(r"\W+", "-", request.node.name)


@pytest.fixture(scope="module")
def ended():
    """The states that trainings ended with, instead of an evaluation."""
    states = []

    def report(run, mesh, frozen, names, state, train_seconds):
        states.append(jax.device_get(state))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "report", report)
        yield states


@pytest.fixture(scope="module")
def compiled(environment):
    """Programs of this process are compiled once, although every command loads its own."""
    settings = {
        "jax_compilation_cache_dir": environment["JAX_COMPILATION_CACHE_DIR"],
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    _configure(settings)
    yield
    _configure(before)


def _configure(settings):
    compilation_cache.reset_cache()
    for name, value in settings.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def command(environment):
    """Starts the main command in the repository."""

    def start(*arguments, start_new_session=False, **variables):
        return subprocess.Popen(
            [sys.executable, "-m", "sotglp_jax.main", *map(str, arguments)],
            cwd=ROOT,
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=start_new_session,
        )

    return start


@pytest.fixture(scope="session")
def main(command):
    """Runs the main command to its end: (exit code, stdout, stderr)."""

    def run(*arguments, **variables):
        process = command(*arguments, **variables)
        out, err = process.communicate(timeout=600)
        return process.returncode, out, err

    return run
