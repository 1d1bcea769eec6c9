"""Folders of images as people have them."""

import hashlib
import os
import shutil
import unicodedata
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from sotglp_jax import predict, run
from sotglp_jax.configs import common
from sotglp_jax.data import datasets, duplicates, files, loader
from sotglp_jax.errors import InputError

CLASSES = ("hat", "shoe")
_number = iter(range(10**6))


def put(folder, count=4, ending=".png"):
    """Images of which no two are equal."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (8, 8), next(_number)).save(folder / f"{i}{ending}", format="PNG")


def classes(folder, count=4):
    for name in CLASSES:
        put(folder / name, count)


def found(folder):
    """Classes, images of every part, and notes."""
    dataset = datasets.resolve(str(folder))
    return dataset.class_names, datasets.counts(dataset), " ".join(dataset.notes)


def refusal(folder) -> str:
    with pytest.raises(InputError) as caught:
        datasets.resolve(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Valid", "Test"),
        ("Training", "Validation", "Testing"),
        ("training_set", "dev_set", "test_set"),
        ("images_train", "images_val", "images_test"),
        ("seg_train/seg_train", "dev", "seg_test/seg_test"),
        ("train2017", "val2017", "test2017"),
    ],
)
def test_parts_are_known_by_their_spellings(tmp_path, train, val, test):
    for part, count in ((train, 3), (val, 1), (test, 2)):
        classes(tmp_path / part, count)
    assert found(tmp_path)[:2] == (CLASSES, (6, 2, 4))


def test_without_a_test_part_validation_is_that(tmp_path):
    classes(tmp_path / "train", 3)
    classes(tmp_path / "valid", 1)
    names, counts, notes = found(tmp_path)
    assert counts == (6, 0, 2)
    assert "valid is val" in notes and "validation images are those for testing" in notes


def test_two_folders_for_a_part_are_refused(tmp_path):
    for part in ("train", "training", "test"):
        classes(tmp_path / part)
    assert "both mean train" in refusal(tmp_path)


def test_a_class_may_be_called_like_a_part(tmp_path):
    for name in ("test", "quiz"):
        put(tmp_path / name)
    assert found(tmp_path)[0] == ("quiz", "test")


def test_parts_without_training_are_refused(tmp_path):
    for part in ("valid", "test"):
        classes(tmp_path / part)
    assert "no class folders in a train/" in refusal(tmp_path)


def test_wrappers_are_followed_and_said(tmp_path):
    classes(tmp_path / "unzipped" / "clothes-v2")
    put(tmp_path, 1)
    names, _, notes = found(tmp_path)
    assert names == CLASSES and "clothes-v2" in notes and "1 in no class folder" in notes
    classes(tmp_path / "unzipped" / "clothes-v2" / "hat" / "inner")  # not around everything
    assert found(tmp_path)[0] == CLASSES


def test_parts_that_look_like_classes_are_refused(tmp_path):
    for year in ("2020", "2021"):
        classes(tmp_path / year)
    said = refusal(tmp_path)
    assert str(tmp_path / "2020") in said and "hat, shoe" in said


@pytest.mark.parametrize("inside", ["", "data"])
def test_parts_of_unknown_names_may_lack_a_class(tmp_path, inside):
    for part, names in (
        ("lernen", ("cap", *CLASSES)),
        ("fragen", ("cap", "hat")),
        ("beispiel", ()),
    ):
        (tmp_path / part).mkdir()
        for name in names:
            put(tmp_path / part / (inside if part == "lernen" else "") / name)
    put(tmp_path / "beispiel")
    said = refusal(tmp_path)
    assert "the same folders cap, hat" in said and str(tmp_path / "fragen") in said


def test_classes_may_share_a_folder_and_have_their_own(tmp_path):
    for name, kinds in (("cat", ("tom", "other")), ("dog", ("pug", "other")), ("owl", ("barn",))):
        for kind in kinds:
            put(tmp_path / name / kind)
    assert found(tmp_path)[0] == ("cat", "dog", "owl")
    for name in CLASSES:  # as a few classes are kept in folders by size, and most are not
        put(tmp_path / "few" / name / "large")
        put(tmp_path / "few" / name / "small")
        put(tmp_path / "few" / f"{name} box")
    assert len(found(tmp_path / "few")[0]) == 4


def test_one_folder_inside_every_class_is_its_content(tmp_path):
    for name in CLASSES:  # as in Tiny-ImageNet
        put(tmp_path / name / "images")
    assert found(tmp_path)[:2] == (CLASSES, (4, 2, 2))


@pytest.mark.parametrize("system", sorted(files.SYSTEM))
def test_what_systems_leave_is_left_out_and_counted(tmp_path, system):
    classes(tmp_path)
    put(tmp_path / "hat" / system, 3)
    put(tmp_path / system / "hat", 2)
    (tmp_path / "hat" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    (tmp_path / "hat" / "._0.png").write_bytes(b"\0\5")
    names, counts, notes = found(tmp_path)
    assert names == CLASSES and sum(counts) == 8 and f"5 in {system}" in notes


def test_what_is_no_file_is_left_out_and_counted(tmp_path):
    classes(tmp_path)
    os.symlink("loop", tmp_path / "hat" / "loop")
    os.symlink("nowhere", tmp_path / "hat" / "gone")
    os.mkfifo(tmp_path / "hat" / "pipe.png")
    os.symlink("pipe.png", tmp_path / "hat" / "to_pipe.png")
    _, counts, notes = found(tmp_path)
    assert sum(counts) == 8
    assert "2 links that lead nowhere" in notes and "2 pipes, sockets or devices" in notes
    for path in (tmp_path / "hat" / "loop", tmp_path / "hat" / "pipe.png"):
        assert "is no folder" in refusal(path)


def test_links_to_images_that_are_gone_are_refused_by_name(tmp_path):
    classes(tmp_path)
    os.symlink("nowhere.png", tmp_path / "hat" / "gone.png")
    os.symlink("loop.png", tmp_path / "hat" / "loop.png")
    sources = list(datasets.resolve(str(tmp_path)).parts.values())
    with pytest.raises(InputError, match=r"2 of 10 images .*gone.png \(missing\)"):
        loader.check_images(sources)


def test_folders_are_looked_into_once(tmp_path, monkeypatch):
    for part in ("Train", "Test", "more"):
        classes(tmp_path / "data" / part / "images")
    scan, seen = os.scandir, Counter()

    def count(path):
        seen[os.fspath(path)] += 1
        return scan(path)

    monkeypatch.setattr(os, "scandir", count)
    assert datasets.counts(datasets.resolve(str(tmp_path))) == (8, 0, 8)
    assert len(seen) == 14 and set(seen.values()) == {1}


def test_empty_classes_are_refused_by_name(tmp_path):
    classes(tmp_path)
    (tmp_path / "glove").mkdir()
    assert "glove holds no image" in refusal(tmp_path)
    (tmp_path / "glove" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    assert "glove holds no image that can be read, but 1 .heic" in refusal(tmp_path)


def test_help_for_heic_names_the_extra(monkeypatch):
    monkeypatch.setattr(files, "READS_HEIF", False)
    assert "sotglp_jax[heif]" in files.describe(Counter({".heic": 2}))


def test_images_are_told_by_content(tmp_path):
    classes(tmp_path, 2)
    put(tmp_path / "hat", 2, ending="")
    put(tmp_path / "hat", 2, ending=".jfif")
    Image.new("RGB", (8, 8), 3).save(tmp_path / "hat" / "a.avif")
    Image.new("RGB", (8, 8), 4).save(tmp_path / "hat" / "a.jp2")
    Image.new("RGB", (8, 8), 5).save(tmp_path / "hat" / "a.heif")
    for name in ("notes.txt", "photo.cr2", "nothing"):
        (tmp_path / "shoe" / name).write_bytes(b"II*\0nothing")
    _, counts, notes = found(tmp_path)
    assert sum(counts) == 2 + 2 + 2 + 2 + 3
    assert all(f"1 {kind}" in notes for kind in (".txt", ".cr2", "without an ending"))


def test_predict_says_what_it_leaves_out(tmp_path):
    put(tmp_path, 2)
    (tmp_path / "list.csv").write_text("a")
    left_out = Counter()
    assert len(predict.image_names([str(tmp_path)], left_out)) == 2 and left_out[".csv"] == 1
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no images"):
        predict.image_names([str(tmp_path / "none")], Counter())


def test_images_beside_class_folders_are_counted(tmp_path):
    classes(tmp_path / "train")
    classes(tmp_path / "test")
    put(tmp_path / "test", 3)
    put(tmp_path / "pred", 2)
    notes = found(tmp_path)[2]
    assert "3 in no class folder" in notes and "2 in pred, which is no part" in notes


def test_a_flat_test_part_is_refused(tmp_path):
    classes(tmp_path / "train")
    put(tmp_path / "test")
    assert "add test/<class>/ folders" in refusal(tmp_path)


def test_links_to_folders_above_end(tmp_path):
    classes(tmp_path)
    os.symlink("..", tmp_path / "hat" / "up")
    _, counts, notes = found(tmp_path)
    assert sum(counts) == 8 and "1 links to folders above them" in notes


def test_a_folder_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    classes(tmp_path)

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "may not be read (Permission denied)" in refusal(tmp_path)


def test_file_names_may_have_any_bytes_and_class_names_not(tmp_path):
    classes(tmp_path)
    os.rename(tmp_path / "hat" / "0.png", os.fsencode(tmp_path / "hat") + b"/caf\xe9.png")
    assert sum(found(tmp_path)[1]) == 8
    os.rename(tmp_path / "shoe", os.fsencode(tmp_path) + b"/caf\xe9")
    assert "no UTF-8" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("names", "said"),
    [(("Hat", "hat"), "make the same prompt"), (("top_hat", "top hat"), "make the same prompt")],
)
def test_classes_of_one_prompt_are_refused(tmp_path, names, said):
    for name in names:
        put(tmp_path / name)
    assert said in refusal(tmp_path)


def test_a_name_in_unicodes_two_forms_is_one(tmp_path):
    for part, form in (("train", "NFC"), ("test", "NFD")):
        put(tmp_path / part / unicodedata.normalize(form, "café"))
        put(tmp_path / part / "zoo")
    assert found(tmp_path)[:2] == (("café", "zoo"), (8, 0, 8))
    put(tmp_path / "test" / "café")
    assert f'{tmp_path / "test"} holds two folders "café"' in refusal(tmp_path)


def test_names_without_a_word_are_refused(tmp_path):
    put(tmp_path / "_")
    put(tmp_path / "hat")
    assert 'the name "_"' in refusal(tmp_path)


def test_imagenets_two_classes_of_one_name_are_said():
    from sotglp_jax.data import imagenet, names

    said = names.check("imagenet", tuple(imagenet.classes().values()), known=True)
    assert said and all("make the same prompt, as the field has them" in note for note in said)


def test_images_twice_are_warned_of(tmp_path):
    classes(tmp_path / "train")
    classes(tmp_path / "test")
    assert duplicates.warnings(datasets.resolve(str(tmp_path))) == []
    content = (tmp_path / "train" / "hat" / "0.png").read_bytes()
    (tmp_path / "test" / "hat" / "0.png").write_bytes(content)
    (leak,) = duplicates.warnings(datasets.resolve(str(tmp_path)))
    assert "of the test images, 1 are among those for training" in leak and "0.png" in leak
    (tmp_path / "test" / "hat" / "0.png").unlink()
    (tmp_path / "train" / "shoe" / "9.png").write_bytes(content)
    (labels,) = duplicates.warnings(datasets.resolve(str(tmp_path)))
    assert "under two labels: 1" in labels and '"hat" and "shoe"' in labels


def test_files_are_compared_once(tmp_path, monkeypatch):
    classes(tmp_path)
    dataset, read = datasets.resolve(str(tmp_path)), hashlib.file_digest
    assert duplicates.warnings(dataset) == []
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert duplicates.warnings(dataset) == []
    monkeypatch.setattr(hashlib, "file_digest", read)
    first, second = (os.path.join(tmp_path, name) for name in dataset.test.names)
    os.replace(shutil.copy(first, tmp_path / "copy"), second)
    assert len(duplicates.warnings(dataset)) == 1  # a file that was changed is another


def test_all_sets_of_a_run_are_described(tmp_path, clip_folder):
    for part in ("train", "test"):
        for own in ("own", "other"):
            classes(tmp_path / own / part)
    shutil.rmtree(tmp_path / "own" / "test" / "hat")
    put(tmp_path / "strange")
    for name in ("own", "other/test", "strange"):
        (tmp_path / name / "list.txt").write_text("")
    config = common.get_config(f"dataset={tmp_path / 'own'},clip={clip_folder},method=zeroshot")
    config.targets, config.ood.sets = (str(tmp_path / "other"),), (str(tmp_path / "strange"),)
    lines = run.describe(run.prepare(config, str(tmp_path / "run")))[1:]
    classes_of = "2 classes (hat, shoe); images:"
    assert lines == [
        f"own: {classes_of} 0 train, 0 val, 4 test",
        "note: left out: 1 .txt",
        "warning: without test images: 1 class (hat)",
        f"target {tmp_path / 'other'}: {classes_of} 8 test",
        "note: left out: 1 .txt",
        f"out of distribution {tmp_path / 'strange'}: 4 images",
        "note: left out: 1 .txt",
    ]


def test_photographs_are_upright_and_on_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    for name in CLASSES:
        (tmp_path / name).mkdir()
        wide = np.zeros((4, 8, 3), np.uint8)
        wide[:, :4] = 255
        Image.fromarray(wide).save(tmp_path / name / "0.png", exif=exif)
        Image.new("RGBA", (4, 4), (9, 9, 9, 0)).save(tmp_path / name / "1.png")
    dataset = datasets.resolve(str(tmp_path))
    images = [source[i]["image"] for source in dataset.parts.values() for i in range(len(source))]
    sizes = sorted(image.size for image in images)
    assert sizes == [(4, 4), (4, 4), (4, 8), (4, 8)]
    assert all(np.asarray(image).max() == 255 for image in images)
    assert all(source.pixels == "upright, on white" for source in dataset.parts.values())
