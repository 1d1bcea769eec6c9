"""Every command of the README and of docs/ runs, and what they show is what comes out."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import clothes
import hubs
import numpy as np
import own_methods
import pytest
from conftest import ROOT
from PIL import Image

from sotglp_jax import Classifier
from sotglp_jax.methods.sotglp import GlobalBranch

README = (ROOT / "README.md").read_text()
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
QUICK_START = "python -m sotglp_jax.main --config=configs/fewshot.py"
# What cannot be done here: exit code, and what is said.
REFUSED = {
    "cross_dataset|domain_shift|=imagenet": (2, "dataset imagenet is not below"),
    "data prepare": (2, "8 of 13500 train"),
    "data check all": (1, "eurosat: found"),
}
# Run by CI, or by the test named.
ELSEWHERE = {
    "^pip install [^&]*(&& pytest)?$": "",
    "reproduce.py": "test_reproduce.py",
    "^sotglp serve|^curl": "serve/test_page.py",
}
INSTALLATION = "pip install -e . && "


def commands(page: str) -> list[str]:
    """Lines of a page's shell blocks, but for those that are run elsewhere."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines = [line for line in lines if not any(re.search(x, line) for x in ELSEWHERE)]
    return [line.removeprefix(INSTALLATION) for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes as a folder, a split file and EuroSAT's layout, and garments."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for label, name in enumerate(["Forest", "River"]):
        (root / "EuroSAT_RGB" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng([label, i]).integers(0, 256, (40, 50, 3))
            path = f"{name}/{i}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(root / "EuroSAT_RGB" / path)
            rows.append([path, label, name])
    clothes.write(root / "clothes", "dress", "shirt", "trousers")
    clothes.write(root / "more-clothes", *clothes.OUTLINES)
    split = {"train": rows[::2], "val": [], "test": rows[1::2]}
    for path in (root / "split_zhou_EuroSAT.json", root / "EuroSAT_RGB" / "split.json"):
        path.write_text(json.dumps(split))
    return root


@pytest.fixture
def clone(tmp_path):
    """A place to run commands that reads like a clone, and where what they write is no one's."""
    for name in ("configs", "launch", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    own_methods.write(tmp_path / "mine")
    Image.new("RGB", (60, 50)).save(tmp_path / "picture.jpg")
    return tmp_path


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Variables that make a hub on this machine the one that commands know."""
    with hubs.serve({}, tmp_path / "cache", monkeypatch) as hub:
        variables = {"HF_ENDPOINT": hub.address, "HF_TOKEN": hubs.TOKEN, "HF_HUB_DISABLE_XET": "1"}
        yield variables | {"HF_HUB_CACHE": str(tmp_path / "hub")}


def as_run_here(line: str, folder: Path, clip_folder: Path) -> list[str]:
    """The command with what is here for what its names stand for, and shorter."""
    for name, path in (
        ("ViT-B/16", clip_folder),
        ("/path/to/folder", folder / "EuroSAT_RGB"),
        ("/path/to/clothes", folder / "clothes"),
        ("/path/to/more-clothes", folder / "more-clothes"),
        ("/path/to/others", folder / "EuroSAT_RGB" / "River"),
        ("/path/to/pictures", folder / "EuroSAT_RGB"),
        ("/path/to/split.json", folder / "EuroSAT_RGB" / "split.json"),
        (" folder/", f" {folder}/EuroSAT_RGB"),
        ("--root data", f"--root {folder}"),
    ):
        line = line.replace(name, str(path))
    words = shlex.split(line)
    if "sotglp_jax.main" in line or "sotglp train" in line:
        words += ["--config.train.epochs=2", "--config.train.warmup_epochs=1"]
    if "=eurosat" in line:
        words += [f"--config.data.root={folder}", "--config.data.allow_partial=True"]
    if any(study in line for study in ("shots.py", "base_to_new", "beyond")):
        words += ["--config.study.shots=(1,)", "--config.study.seeds=(1,)"]
    if words[0] == "sotglp":
        words[:1] = ["python", "-m", "sotglp_jax"]
    return [sys.executable if word == "python" else word for word in words]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_commands(page, folder, clip_folder, environment, clone, served):
    for line in commands(page):
        refused = [result for x, result in REFUSED.items() if re.search(x, line)]
        code, said = refused[0] if refused else (0, "")
        assignment = re.match(r"(\w+)=(\S+) ", line)
        variables = dict([assignment.groups()]) if assignment else {}
        line = line[assignment.end() :] if assignment else line
        done = subprocess.run(
            as_run_here(line, folder, clip_folder),
            capture_output=True,
            text=True,
            cwd=clone,
            env=environment
            | served
            | variables
            | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )
        assert done.returncode == code and said in done.stdout + done.stderr, (line, done.stderr)


def test_no_command_is_left_out():
    """Those run elsewhere are few, and are these."""
    assert f"\n{INSTALLATION}{QUICK_START}\n" in README
    assert "\npip install -e '.[test]' && pytest\n" in README
    assert commands("README.md")[0] == "sotglp train" and QUICK_START in commands("README.md")
    assert sum(map(len, map(commands, PAGES))) >= 20


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
            assert link.startswith("http") or ((ROOT / page).parent / link).exists(), (page, link)


def test_the_messages_that_are_explained_are_messages():
    source = "".join(x.read_text() for x in (ROOT / "sotglp_jax").rglob("*.py"))
    source = re.sub(r'"\s*f?"', "", source)  # a sentence is in several strings
    page = (ROOT / "docs/troubleshooting.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    assert len(rows) >= 10
    for row in rows:
        for fragment in re.findall("`(.+?)`", row):
            assert fragment in source, fragment


def test_quick_start_learns_and_prints_what_the_readme_shows(main, tmp_path):
    code, out, err = main(*shlex.split(QUICK_START)[3:], f"--workdir={tmp_path}")
    assert code == 0, err
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["seconds"]["train"] < 300
    accuracy = results["accuracy"]
    assert accuracy["zero_shot"] >= 0.6 and accuracy["fused"] >= 0.85
    assert accuracy["fused"] > accuracy["zero_shot"]
    for line in out[out.index("\ndigits, tiny") :].splitlines()[1:-1]:
        title = re.sub(r"[\d.]+%", "", line)
        shown = next(x for x in README.splitlines() if re.sub(r"[\d.]+%", "", x) == title)
        for ours, readme in zip(*(re.findall(r"([\d.]+)%", x) for x in (line, shown)), strict=True):
            # Processors round differently.
            assert float(ours) == pytest.approx(float(readme), abs=2.0)
    quick_start = (ROOT / "docs" / "quickstart.md").read_text()
    (name, given) = re.search(r"^(\S+\.png) +(\w+) +[\d.]+%", quick_start, re.MULTILINE).groups()
    found = Classifier.load(tmp_path)(ROOT / name)
    assert found.names == [given] and not found.is_ood.any()


def test_the_table_that_the_readme_shows_is_a_studys():
    """Its first and last line are as a study prints them; its numbers took three runs."""
    shown = README[README.index("digits, tiny, recipe tiny") :].splitlines()
    assert "seeds 1, 2, 3" in shown[0] and shown[1].split() == ["base", "new", "H"]
    assert shown[5] == f"* {GlobalBranch.note}"
