"""TensorFlow Datasets both ways: our sets as shards, and theirs as a data set."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from sotglp_jax.data import datasets, fewshot, loader, shards
from sotglp_jax.data.transforms import Resize
from sotglp_jax.errors import InputError

# Importing TensorFlow takes seconds: one process prepares everything.
PREPARE = """
import sys
import tensorflow_datasets as tfds
from sotglp_jax.data.__main__ import parse

pictures, out = sys.argv[1:]
arguments = parse(["", "prepare", pictures, "--out", out])
arguments.function(arguments)


def write(name, splits, features=None, file_format="array_record", **more):
    import numpy as np
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    label = tfds.features.ClassLabel(names=["n01440764", "n01443537", "n01484850"])
    features = features or {"image": tfds.features.Image(shape=(4, 4, 3)), "label": label}
    rows = lambda n: [(i, {"image": image + i, "label": i % 3}) for i in range(n)]
    if "label" not in features:
        rows = lambda n: [(i, {"image": image + i}) for i in range(n)]
    tfds.dataset_builders.AdhocBuilder(
        name=name, version="1.0.0", features=tfds.features.FeaturesDict(features), data_dir=out,
        split_datasets={split: rows(n) for split, n in splits.items()}, disable_shuffling=True,
        **more,
    ).download_and_prepare(file_format=file_format)


write("parted", {"train": 9, "validation": 6, "test": 3})
write("halved", {"train": 9, "validation": 6})
write("single", {"train": 30})
write("unlabelled", {"train": 3}, {"image": tfds.features.Image(shape=(4, 4, 3))})
write("oldformat", {"train": 3}, file_format="tfrecord")
write("several", {"train": 3}, config="a")
write("several", {"train": 6, "test": 3}, config="b")
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Photographs and cut-outs in class folders, and the same and other sets prepared."""
    pictures, out = tmp_path_factory.mktemp("in") / "My Pictures", tmp_path_factory.mktemp("out")
    rng, exif = np.random.default_rng(0), Image.Exif()
    for label, name in enumerate(("bee", "ant", "wasp")):
        (pictures / name).mkdir(parents=True)
        for i in range(10):
            image = Image.fromarray(rng.integers(0, 256, (20, 30, 3)).astype(np.uint8))
            exif[0x0112] = 1 + (i + label) % 8
            if i % 2:
                image.save(pictures / name / f"{i}.jpg", exif=exif)
            else:
                image.putalpha(Image.fromarray(rng.integers(0, 256, (20, 30), np.uint8)))
                image.save(pictures / name / f"{i}.png", exif=exif)
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, str(pictures), str(out)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    assert "dataset=tfds:sotglp_my_pictures with --config.data.root=" in done.stdout
    return pictures, out


def same(a, b):
    assert list(a.names) == list(b.names) and list(a.labels) == list(b.labels)


def test_prepared_shards_are_the_folder(folders):
    pictures, out = folders
    files = datasets.resolve(str(pictures))
    shards = datasets.resolve("tfds:sotglp_my_pictures", root=str(out))
    assert (shards.name, shards.class_names) == (files.name, files.class_names)
    assert shards.template == files.template
    for part, source in files.parts.items():
        same(source, shards.parts[part])
        assert source.pixels == shards.parts[part].pixels == "upright, on white"
    (ours, _), (theirs, _) = (fewshot.sample(d, 2, 1, "coop") for d in (files, shards))
    same(ours, theirs)
    a, b = (list(batches(shots, workers=0)) for shots in (ours, theirs))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x["image"], y["image"])
        np.testing.assert_array_equal(x["label"], y["label"])
    for i in range(len(files.test)):
        np.testing.assert_array_equal(shards.test[i]["image"], files.test[i]["image"])


def batches(source, workers):
    augmentation = loader.Augmentation((0.5, 1.0), True)
    options = {"resize": Resize(8), "batch_size": 2, "epochs": 2, "seed": 1, "workers": workers}
    return loader.train_batches(source, augmentation=augmentation, **options)


def test_bytes_and_file_names_are_kept(folders):
    pictures, out = folders
    found = datasets.resolve("tfds:sotglp_my_pictures", root=str(out))
    files = shards.splits(shards.locate("sotglp_my_pictures:1.0.0", str(out)))["test"]
    for i, record in enumerate(shards.Records(files)):
        name = record["file_name"].decode()
        assert name == found.test.names[i] and record["label"] == found.test.labels[i]
        assert record["image"] == (pictures / name).read_bytes()


def test_shards_in_a_bucket_are_those_on_disk(folders, bucket):
    top = folders[1]
    for name in ("sotglp_my_pictures", "parted"):
        for path in (top / name).rglob("*"):
            if path.is_file():
                (bucket / path.relative_to(top).as_posix()).write_bytes(path.read_bytes())
        ours, theirs = (datasets.resolve(f"tfds:{name}", root=str(x)) for x in (bucket, top))
        assert ours.class_names == theirs.class_names
        for part, source in ours.parts.items():
            same(source, theirs.parts[part])
            for image, other in zip(source, theirs.parts[part], strict=True):
                np.testing.assert_array_equal(image["image"], other["image"])
        assert len(ours.train.states()) == len(theirs.train.states())


def test_a_prepared_benchmark_is_found_by_its_name(folders, tmp_path):
    _, out = folders
    shutil.copytree(out / "sotglp_my_pictures", tmp_path / "sotglp_eurosat")
    about = tmp_path / "sotglp_eurosat" / "1.0.0" / "sotglp.json"
    said = json.loads(about.read_text("utf-8"))
    about.write_text(json.dumps({key: said[key] for key in said if key != "upright"}), "utf-8")
    found = datasets.resolve("eurosat", root=str(tmp_path))
    assert len(found.train) == 15 and found.test.pixels == "as stored"  # as shards always were


def test_their_sets_bring_labels_and_class_names(folders):
    _, out = folders
    parted = datasets.resolve("tfds:parted", root=str(out))
    assert datasets.counts(parted) == (9, 6, 3) and parted.test.labels == (0, 1, 2)
    assert parted.class_names == ("tench", "goldfish", "great white shark")
    assert np.asarray(parted.train[1]["image"])[0, 0].tolist() == [1, 2, 3]
    halved = datasets.resolve("tfds:halved", root=str(out))
    assert datasets.counts(halved) == (9, 0, 6)
    named = datasets.resolve("tfds:several/b:1.0.0", root=str(out))
    assert datasets.counts(named) == (6, 0, 3)
    single = datasets.resolve("tfds:single", root=str(out))
    assert datasets.counts(single) == (15, 6, 9) and len(set(single.test.names)) == 9


def test_what_a_set_says_of_itself_is_followed(tmp_path):
    """As TensorFlow Datasets writes it for sets of other makers; all it takes are these files."""
    old, new = (tmp_path / "named" / version for version in ("1.9.0", "1.10.0"))
    for folder in (old, new, tmp_path / "named" / "incomplete.X_2.0.0"):
        folder.mkdir(parents=True)
        keys = {"tuple": {"items": [{"featureKey": "picture"}, {"featureKey": "kind"}]}}
        (folder / "dataset_info.json").write_text(json.dumps({"supervisedKeys": keys}))
    kind = {"pythonClassName": "a.b.ClassLabel", "classLabel": {"numClasses": "2"}}
    (new / "features.json").write_text(json.dumps({"featuresDict": {"features": {"kind": kind}}}))
    folder = shards.locate("named", str(tmp_path))
    assert str(folder) == str(new) and shards.supervised(folder) == ("picture", "kind")
    assert shards.kinds(folder) == {"kind": "ClassLabel"}
    assert shards.class_names(folder, "kind") == ("0", "1")


def test_equal_names_of_other_sets_are_told_apart(folders, tmp_path):
    _, out = folders
    parted, halved = (
        datasets.resolve(f"tfds:{name}", root=str(out)) for name in ("parted", "halved")
    )
    assert parted.train.names == halved.train.names
    shutil.copytree(out / "parted", tmp_path / "parted")
    copied = datasets.resolve("tfds:parted", root=str(tmp_path))
    ours = datasets.resolve("tfds:sotglp_my_pictures", root=str(out))
    sources = [parted.train, parted.val, halved.train, copied.train, ours.train, ours.test]
    assert len({source.origin for source in sources}) == len(sources)
    assert "/parted/1.0.0" in parted.train.origin
    # Prepared again in the same place.
    before = copied.train.states()
    (shard,) = (tmp_path / "parted" / "1.0.0").glob("*-train.array_record*")
    shard.write_bytes(shard.read_bytes() + b"x")
    assert before and copied.train.states() != before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mnist", "not prepared below .* run `tfds build mnist --file_format=array_record"),
        ("parted:2.0.0", "not prepared below"),
        ("oldformat", "prepared as tfrecord"),
        ("several", "is there as a, b: choose one as tfds:several/a"),
        ("unlabelled", "no image classification set: .* has image"),
    ],
)
def test_sets_that_cannot_be_read_are_refused(folders, name, said):
    with pytest.raises(InputError, match=said):
        datasets.resolve(f"tfds:{name}", root=str(folders[1]))


def test_what_is_prepared_is_not_overwritten(folders):
    from sotglp_jax.data import records

    pictures, out = folders
    with pytest.raises(InputError, match="is there already: remove it"):
        records.prepare(datasets.resolve(str(pictures)), str(out))


def test_without_tensorflow_the_extra_is_named(folders, tmp_path, monkeypatch):
    from sotglp_jax.data import records

    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(InputError, match=r"pip install 'sotglp_jax\[tfds\]'"):
        records.prepare(datasets.resolve(str(folders[0])), str(tmp_path))
