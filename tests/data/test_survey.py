"""What a folder holds is said before anything is trained on it."""

import json
import shutil

import pytest
from PIL import Image
from test_folders import classes, put

from sotglp_jax.data import __main__ as command
from sotglp_jax.data import fewshot, sheet
from sotglp_jax.data.datasets import resolve
from sotglp_jax.errors import InputError


@pytest.fixture
def check(capsys):
    """Runs the command: (exit code, lines)."""

    def start(*words):
        with pytest.raises(SystemExit) as ended:
            command.run_check(command.parse(["data", "check", *map(str, words)]))
        return ended.value.code, [line.strip() for line in capsys.readouterr().out.splitlines()]

    return start


def test_a_folder_is_counted_and_its_faults_are_told(check, tmp_path):
    own = tmp_path / "own"
    classes(own, 10)
    put(own / "boot", 3)
    Image.new("RGB", (30, 90), "red").save(own / "hat" / "tall.png")
    (own / "hat" / "list.txt").write_text("")
    (own / "classes.json").write_text(json.dumps({"boot": "rubber boot"}))
    shutil.copy(own / "hat" / "1.png", own / "hat" / "1 (copy).png")
    shutil.copy(own / "hat" / "2.png", own / "shoe" / "2 (copy).png")
    code, lines = check(own, "--shots=4", f"--out={tmp_path / 'out'}")
    data = resolve(str(own))
    assert code == 0 and lines[0] == "own: 3 classes; images: 14 train, 4 val, 8 test"
    table = [line.split() for line in lines[1:5]]
    assert table[0] == ["class", "train", "val", "test", "shots"]
    assert table[1] == ["boot", "(rubber", "boot)", "2", "0", "1", "2"]
    assert [row[-1] for row in table[2:]] == ["4", "4"]
    whole = "\n".join(lines)
    assert "8 x 8 the smallest, 8 x 8 the median, 30 x 90 the largest" in whole
    assert "left out: 1 .txt" in whole and "unreadable files: 0" in whole
    assert "under two labels: 1" in whole and "1 of 3 classes renamed" in whole
    assert lines[-1].startswith(f"next: sotglp train dataset={own} ")
    train, val = fewshot.sample(data, 4, 1, "coop")
    listed = (tmp_path / "out" / "shots.txt").read_text().splitlines()
    assert listed == [*train.names, *val.names]
    with Image.open(tmp_path / "out" / "sheet-1.png") as drawn:
        assert drawn.width == sheet.COLUMNS * (sheet.SIDE + sheet.GAP) + sheet.GAP
        assert drawn.height > 3 * sheet.SIDE
    (own / "hat" / "0.png").write_bytes((own / "hat" / "0.png").read_bytes()[:40])
    code, lines = check(own, f"--out={tmp_path / 'out'}")
    assert code == 1 and any("unreadable: " in line and "0.png" in line for line in lines)
    assert lines[-1] == "next: restore the unreadable files, or take them out"


def test_copies_within_a_part_and_class_are_counted(check, tmp_path):
    for part in ("train", "test"):
        classes(tmp_path / part, 3)
    assert "copies of" not in " ".join(check(tmp_path)[1])
    for name in ("x", "y"):
        shutil.copy(
            tmp_path / "train" / "hat" / "0.png", tmp_path / "train" / "hat" / f"{name}.png"
        )
    assert "copies of other images of their part and class: 2" in " ".join(check(tmp_path)[1])


def test_of_many_classes_those_with_the_fewest_images_are_shown(check, tmp_path, monkeypatch):
    monkeypatch.setattr("sotglp_jax.data.survey.SHOWN", 2)
    for count, name in ((8, "a"), (2, "b"), (4, "c")):
        put(tmp_path / name, count)
    lines = check(tmp_path)[1]
    assert [line.split()[0] for line in lines[2:4]] == ["b", "c"]
    assert lines[4] == "and 1 classes with as many training images or more"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shots=0"], "--shots=0 draws nothing"),
        (["--out=/dev/null/sheets"], "cannot be written"),
        (["--names=nowhere.json"], "nowhere.json, which names classes, cannot be read"),
    ],
)
def test_what_check_refuses(check, tmp_path, words, said):
    classes(tmp_path)
    with pytest.raises(InputError, match=said):
        command.run_check(command.parse(["data", "check", str(tmp_path), *words]))
