"""The notebook, cell by cell as IPython takes them, on the digits."""

import json
import subprocess
import sys

from conftest import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "photographs.ipynb").read_text())
SOTGLP = f"!{sys.executable} -m sotglp_jax"
SHORT = " train.epochs=2 train.warmup_epochs=1"
# In place of IPython's: a picture that is not there, or is none, ends it.
PRELUDE = """
import subprocess, sys, types
import PIL.Image
sys.modules["IPython"] = types.ModuleType("IPython")
sys.modules["IPython.display"] = shown = types.ModuleType("IPython.display")
shown.Image = lambda filename: PIL.Image.open(filename)
shown.display = lambda picture: picture.load()
"""


def program():
    """The code cells; of a command, each {NAME} is that variable."""
    lines = []
    for cell in NOTEBOOK["cells"]:
        source = cell["source"] if cell["cell_type"] == "code" else []
        for line in map(str.rstrip, source):
            code = line.lstrip()
            if code.startswith("!"):
                command = code.replace("!sotglp", SOTGLP)[1:] + SHORT * ("sotglp train" in code)
                called = f"subprocess.run(f{command!r}, shell=True, check=True)"
                line = line[: -len(code)] + called
            lines.append(line)
    return "\n".join([PRELUDE, *lines])


def test_the_notebook_runs_on_the_digits(environment, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", program()],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": f"{ROOT}:{environment['PYTHONPATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "photos: 10 classes" in done.stdout and done.stdout.count("new/") == 6
    assert len([*(tmp_path / "maps").iterdir()]) == 6
    assert (tmp_path / "photos.sotglp").stat().st_size > 100_000


def test_the_notebook_is_kept_without_what_it_printed():
    for cell in NOTEBOOK["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count"), cell["id"]
