"""Every command of the README runs, and what it shows is what comes out."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from sotglp_jax import tables

README = (Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = [
    line.removeprefix("pip install -e . && ")
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
QUICK_START = "python -m sotglp_jax.main --config=configs/fewshot.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes as a folder, a split file and EuroSAT's layout."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for label, name in enumerate(["Forest", "River"]):
        (root / "EuroSAT_RGB" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng([label, i]).integers(0, 256, (40, 50, 3))
            path = f"{name}/{i}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(root / "EuroSAT_RGB" / path)
            rows.append([path, label, name])
    split = {"train": rows[::2], "val": [], "test": rows[1::2]}
    for path in (root / "split_zhou_EuroSAT.json", root / "EuroSAT_RGB" / "split.json"):
        path.write_text(json.dumps(split))
    return root


def test_commands_are_known():
    """A new command needs a test: the pip lines are CI's, the others are below."""
    assert COMMANDS[0] == QUICK_START and "pip install -e '.[test]' && pytest" in COMMANDS
    assert len(COMMANDS) == 15
    # test_reproduce.py has both.
    assert sum("reproduce.py" in command for command in COMMANDS) == 2


def test_quick_start_learns_and_prints_what_the_readme_shows(main, tmp_path):
    code, out, err = main(*shlex.split(QUICK_START)[3:], f"--workdir={tmp_path}")
    assert code == 0, err
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["seconds"]["train"] < 300
    accuracy = results["accuracy"]
    assert accuracy["zero_shot"] >= 0.6 and accuracy["fused"] >= 0.85
    assert accuracy["fused"] > accuracy["zero_shot"]
    for line in out.splitlines()[1:-1]:
        title = re.sub(r"[\d.]+%", "", line)
        shown = next(x for x in README.splitlines() if re.sub(r"[\d.]+%", "", x) == title)
        for ours, readme in zip(*(re.findall(r"([\d.]+)%", x) for x in (line, shown)), strict=True):
            # Processors round differently.
            assert float(ours) == pytest.approx(float(readme), abs=2.0)


@pytest.mark.parametrize("line", [c for c in COMMANDS if "ViT-B/16" in c])
def test_commands_on_real_data(main, line, clip_folder, folder, tmp_path):
    for name, path in (
        ("ViT-B/16", clip_folder),
        ("/path/to/folder", folder / "EuroSAT_RGB"),
        ("/path/to/split.json", folder / "EuroSAT_RGB" / "split.json"),
    ):
        line = line.replace(name, str(path))
    more = [f"--workdir={tmp_path}", "--config.train.epochs=6"]
    if "=eurosat" in line:
        more += [f"--config.data.root={folder}", "--config.data.allow_partial=True"]
    if "shots.py" in line or "base_to_new" in line:
        more += ["--config.study.shots=(1,)", "--config.study.seeds=(1,)"]
    code, out, err = main(*shlex.split(line)[3:], *more)
    if re.search("cross_dataset|domain_shift|imagenet", line):
        assert code == 2 and "dataset imagenet is not below" in err
        return
    assert code == 0, err
    (results,) = tmp_path.rglob("results.json")
    assert 0 <= json.loads(results.read_text())["accuracy"]["zero_shot"] <= 1


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("check", 1, "eurosat: found"),
        ("fetch", 0, "EuroSAT_RGB is there already"),
        ("prepare", 2, "8 of 13500 train"),  # not all there
    ],
)
def test_commands_about_data(folder, command, code, said):
    (line,) = (c for c in COMMANDS if f"sotglp_jax.data {command}" in c)
    line = line.replace("--root data", f"--root {folder}")
    words = [sys.executable, *shlex.split(line)[1:]]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code and said in done.stdout + done.stderr


def test_the_table_that_the_readme_shows_is_a_studys():
    """Its first and last line are as a study prints them; its numbers took three runs."""
    shown = README[README.index("digits, tiny, recipe paper") :].splitlines()
    assert "seeds 1, 2, 3" in shown[0] and shown[1].split() == ["base", "new", "H"]
    assert shown[5] == tables.GLOBAL_NOTE
