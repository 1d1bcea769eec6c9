"""The field's data sets: their layouts, what is missing of them, and the commands about them."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from sotglp_jax.data import catalog, datasets, digits, imagenet, names
from sotglp_jax.data.check import check
from sotglp_jax.data.sources import Dataset, with_joint_train
from sotglp_jax.errors import InputError


def draw(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def data(*arguments):
    """Runs the data command: (exit code, stdout, stderr)."""
    command = [sys.executable, "-m", "sotglp_jax.data", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


def refusal(*args, **kwargs):
    with pytest.raises(InputError) as caught:
        datasets.resolve(*args, **kwargs)
    return str(caught.value)


def expect(monkeypatch, name, images):
    """Makes a data set's expected numbers those of a small tree."""
    entry = catalog.dataclasses.replace(catalog.ENTRIES[name], images=images)
    monkeypatch.setitem(catalog.ENTRIES, name, entry)


def write_eurosat(root, folder="eurosat/2750"):
    """Two classes of the ten, nine images each."""
    split = {"train": [], "val": [], "test": []}
    for label, raw in enumerate(("AnnualCrop", "Forest")):
        for i in range(9):
            part = ("train", "val", "test")[i // 3]
            split[part].append([f"{raw}/{raw}_{i}.jpg", label, raw])
            draw(root / folder / raw / f"{raw}_{i}.jpg", i)
    (root / folder).parent.joinpath("split_zhou_EuroSAT.json").write_text(json.dumps(split))


def test_every_entry_is_whole():
    assert len(catalog.BENCHMARKS) == 11 and len(catalog.SHIFTS) == 4 and len(catalog.OOD) == 4
    for name, entry in catalog.ENTRIES.items():
        assert entry.labels in datasets.layouts.READERS, name
        assert bool(entry.split) == (entry.labels == "split"), name
        assert sum(entry.images) > 0 and bool(entry.classes) == (name not in catalog.OOD)
        assert entry.template.count("{}") == 1 and entry.downloads + entry.by_hand
        given = [d.gives for d in entry.downloads] + [path for path, _ in entry.by_hand]
        if entry.split:
            assert any(path.endswith(entry.split) for path in given), name
        for download in entry.downloads:
            kind, digest = download.digest.split(":")
            assert len(digest) == {"sha256": 64, "md5": 32}[kind] and int(digest, 16)
            assert download.url.startswith("http") and not download.gives.startswith("/")


def test_imagenets_classes_are_clips():
    names = list(imagenet.classes().values())
    assert len(names) == 1000 and names[0] == "tench" and names[134] == "crane bird"
    assert sorted(n for n in set(names) if names.count(n) > 1) == ["missile", "sunglasses"]
    assert list(imagenet.classes()) == sorted(imagenet.classes())
    for variant in "AR":
        assert len(imagenet.classes(variant)) == 200
        assert imagenet.classes(variant).items() <= imagenet.classes().items()


def test_a_split_with_folder_names_gets_the_fields_class_names(tmp_path, monkeypatch):
    write_eurosat(tmp_path)
    expect(monkeypatch, "eurosat", (6, 6, 6))
    data = datasets.resolve("eurosat", root=str(tmp_path))
    assert data.class_names == ("Annual Crop Land", "Forest") and len(data.train) == 6


def test_a_partial_set_needs_leave(tmp_path, caplog):
    write_eurosat(tmp_path)
    (tmp_path / "eurosat" / "2750" / "Forest" / "Forest_1.jpg").unlink()
    said = refusal("eurosat", root=str(tmp_path))
    assert "5 of 13500 train, 6 of 5400 val, 6 of 8100 test images" in said
    assert "Forest_1.jpg is missing" in said and "--config.data.allow_partial=True" in said
    data = datasets.resolve("eurosat", root=str(tmp_path), allow_partial=True)
    assert datasets.counts(data) == (5, 6, 6)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "5 of 13500" in caplog.text


def test_a_users_own_split_may_be_partial_too(tmp_path):
    write_eurosat(tmp_path)
    path = tmp_path / "eurosat" / "split_zhou_EuroSAT.json"
    root = str(tmp_path / "eurosat" / "2750")
    assert len(datasets.resolve(str(path), root=root).train) == 6
    (tmp_path / "eurosat" / "2750" / "Forest" / "Forest_1.jpg").unlink()
    assert "5 of 6 train" in refusal(str(path), root=root)
    assert len(datasets.resolve(str(path), root=root, allow_partial=True).train) == 5


def write_imagenet(root):
    """Two classes with two training images, and four flat validation images of the same."""
    for wnid in ("n01443537", "n02489166"):
        for i in range(2):
            draw(root / "train" / wnid / f"{wnid}_{i}.JPEG", i)
    for i in range(4):
        draw(root / "val" / f"ILSVRC2012_val_0000000{i}.JPEG", i)


@pytest.mark.parametrize(
    ("file", "lines"),
    [
        ("LOC_val_solution.csv", "ImageId,PredictionString\n{0},{2} 1 2 3 4\n{1},{3} 1 2 3 4\n"),
        ("val_map.txt", "{0}.JPEG {2}\n{1}.JPEG {3}\n"),
        ("val.txt", "{0}.JPEG 1\n{1}.JPEG 376\n"),
        ("imagenet_2012_validation_synset_labels.txt", "{2}\n{3}\n"),
    ],
)
def test_imagenet_with_a_flat_validation_folder(tmp_path, monkeypatch, file, lines):
    write_imagenet(tmp_path / "imagenet" / "images")
    expect(monkeypatch, "imagenet", (4, 0, 2))
    for i in (2, 3):
        (tmp_path / "imagenet" / "images" / "val" / f"ILSVRC2012_val_0000000{i}.JPEG").unlink()
    assert "no label file" in refusal("imagenet", root=str(tmp_path))
    stems = [f"ILSVRC2012_val_0000000{i}" for i in range(2)]
    text = lines.format(*stems, "n01443537", "n02489166")
    (tmp_path / "imagenet" / "images" / file).write_text(text)
    data = datasets.resolve("imagenet", root=str(tmp_path))
    assert data.test.labels == (1, 376) and data.train.labels == (1, 1, 376, 376)
    assert data.class_names[1] == "goldfish" and data.class_ids[1] == "n01443537"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n01443537\n", "each of the 4 images"),
        ("n99999999\n" * 4, '"n99999999" for one'),
        ("490\n361\n171\n822\n", '"490" for one'),  # the challenge's own numbering is another
    ],
)
def test_labels_of_other_images_are_refused(tmp_path, text, said):
    write_imagenet(tmp_path / "Imagenet")
    name = "imagenet_2012_validation_synset_labels.txt"
    (tmp_path / "Imagenet" / name).write_text(text)
    assert said in refusal("imagenet", root=str(tmp_path))


def test_imagenet_in_folders_and_a_strange_one(tmp_path, monkeypatch):
    write_imagenet(tmp_path / "imagenet")
    for path in (tmp_path / "imagenet" / "val").iterdir():
        path.unlink()
    draw(tmp_path / "imagenet" / "val" / "n01440764" / "x.JPEG")
    expect(monkeypatch, "imagenet", (4, 0, 1))
    assert datasets.resolve("imagenet", root=str(tmp_path)).test.labels == (0,)
    draw(tmp_path / "imagenet" / "train" / "n00000001" / "x.JPEG")
    said = refusal("imagenet", root=str(tmp_path))
    assert '"n00000001" that is none of its 1000 classes' in said


def test_shifted_sets_label_by_number_and_by_wordnet(tmp_path, monkeypatch):
    v2 = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    for label in (10, 9, 999):
        draw(v2 / str(label) / "x.jpeg")
    expect(monkeypatch, "imagenet_v2", (0, 0, 3))
    data = datasets.resolve("imagenet_v2", root=str(tmp_path))
    assert sorted(data.test.labels) == [9, 10, 999] and len(data.class_names) == 1000
    for name, label in zip(data.test.names, data.test.labels, strict=True):
        assert name == f"{label}/x.jpeg"
    folder = tmp_path / "imagenet-adversarial" / "imagenet-a"
    for wnid in ("n01498041", "n01531178"):
        draw(folder / wnid / "x.jpg")
    expect(monkeypatch, "imagenet_a", (0, 0, 2))
    data = datasets.resolve("imagenet_a", root=str(tmp_path))
    assert len(data.class_names) == 200 and data.test.labels == (0, 1)
    assert data.class_names[:2] == ("stingray", "goldfinch")
    draw(folder / "n01440764" / "x.jpg")  # a class of ImageNet, but not of ImageNet-A
    assert "none of its 200 classes" in refusal("imagenet_a", root=str(tmp_path))


def test_aircraft_reads_its_variant_files(tmp_path, monkeypatch):
    folder = tmp_path / "fgvc-aircraft-2013b" / "data"
    for i in range(6):
        draw(folder / "images" / f"000{i}.jpg", i)
    (folder / "variants.txt").write_text("A300B4\nC-130\n")
    for part, rows in (("train", (0, 1)), ("val", (2, 3)), ("test", (4, 5))):
        lines = "".join(f"000{i} {('C-130', 'A300B4')[i % 2]}\n" for i in rows)
        (folder / f"images_variant_{part}.txt").write_text(lines)
    expect(monkeypatch, "fgvc_aircraft", (2, 2, 2))
    data = datasets.resolve("fgvc_aircraft", root=str(tmp_path))
    assert data.class_names == ("A300B4", "C-130") and data.test.labels == (1, 0)
    assert [f"000{i}.jpg" for i in range(4)] == [*with_joint_train(data).train.names]
    lines = "".join(f"000{i} {('C-130', 'A300B4')[i % 2]}\n" for i in (2, 0, 3, 1))
    (folder / "images_variant_trainval.txt").write_text(lines)
    joint = with_joint_train(datasets.resolve("fgvc_aircraft", root=str(tmp_path)))
    assert joint.train.names == ("0002.jpg", "0000.jpg", "0003.jpg", "0001.jpg")
    assert joint.train.labels == (1, 1, 0, 0) and not len(joint.val)
    (folder / "images_variant_val.txt").unlink()
    assert "images_variant_val.txt is missing" in refusal("fgvc_aircraft", root=str(tmp_path))


def test_an_ood_set_has_no_classes_and_may_not_be_empty(tmp_path, monkeypatch, main):
    (tmp_path / "iNaturalist" / "images").mkdir(parents=True)
    assert "0 of 10000 test images" in refusal("inaturalist", root=str(tmp_path))
    draw(tmp_path / "iNaturalist" / "images" / "x.jpg")
    expect(monkeypatch, "inaturalist", (0, 0, 1))
    data = datasets.resolve("inaturalist", root=str(tmp_path))
    assert data.class_names == () and data.test.names == ("x.jpg",)
    config = "--config=configs/fewshot.py:dataset=inaturalist"
    partial = "--config.data.allow_partial=True"
    code, _, err = main(config, f"--config.data.root={tmp_path}", partial)
    assert code == 2 and "has no classes" in err and "Traceback" not in err


def test_two_classes_of_one_name_are_kept_where_the_field_has_them():
    source = digits.source(range(2))
    data = Dataset("imagenet", ("missile", "missile"), "", source, source, source)
    assert len(set(data.class_ids)) == 2
    (note,) = names.check(data.name, data.class_names, known=True)
    assert '"missile" and "missile", make the same prompt' in note


def test_check_tells_whole_partial_absent_and_unreadable(tmp_path):
    write_eurosat(tmp_path)
    (tmp_path / "eurosat" / "2750" / "Forest" / "Forest_1.jpg").unlink()
    (tmp_path / "eurosat" / "2750" / "Forest" / "Forest_2.jpg").write_bytes(b"nothing")
    (tmp_path / "dtd" / "images").mkdir(parents=True)
    code, out, err = data("check", "all", "--root", tmp_path)
    assert code == 1 and not err
    blocks = dict(block.split(": ", 1) for block in out.replace("\n  ", "\t").splitlines()[:-1])
    assert set(blocks) == set(catalog.ENTRIES)
    eurosat = blocks["eurosat"].split("\t")
    assert eurosat[0] == f"found in {tmp_path}/eurosat/2750, with split_zhou_EuroSAT.json"
    assert "train         5 of 13500 images, 2 of 10 classes" in eurosat
    assert "Forest_2.jpg (it holds no image" in blocks["eurosat"]
    assert "unreadable files: 1" in eurosat
    assert blocks["dtd"].startswith("not found") and "what tells its labels" in blocks["dtd"]
    assert f"fetch dtd --root {tmp_path}" in blocks["dtd"]
    assert f"{tmp_path}/ucf101/UCF-101-midframes and {tmp_path}/UCF" in blocks["ucf101"]
    assert "by hand" in blocks["ucf101"] and "fetch" not in blocks["ucf101"]
    assert out.splitlines()[-1].startswith("0 of 19 data sets are ready")


def test_check_of_a_whole_set(tmp_path, monkeypatch, capsys):
    write_eurosat(tmp_path)
    expect(monkeypatch, "eurosat", (6, 6, 6))
    assert check("eurosat", tmp_path)
    out = capsys.readouterr().out
    assert "unreadable files: 0" in out and "next: ready" in out
    (tmp_path / "eurosat" / "split_zhou_EuroSAT.json").write_text("{")
    assert not check("eurosat", tmp_path)
    assert "no JSON at line 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "nothing"], '"nothing" is not in the catalogue'),
        (["fetch", "nothing"], '"nothing" is not in the catalogue'),
        (["prepare", "nothing"], "no known name"),
        (["prepare", "digits"], "not a set of image files"),
        ([], "required: COMMAND"),
    ],
)
def test_bad_arguments_are_one_sentence_and_exit_code_2(arguments, said):
    code, _, err = data(*arguments)
    assert code == 2 and said in err and "Traceback" not in err
