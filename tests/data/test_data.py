"""Sources, samplers, transforms and batches."""

import dataclasses
import errno
import io
import json
import multiprocessing
import os
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import StratifiedShuffleSplit

from sotglp_jax.configs import common
from sotglp_jax.data import datasets, fewshot, loader, pictures, sources, transforms
from sotglp_jax.data.pixels import read_image
from sotglp_jax.data.sources import FileReader
from sotglp_jax.data.transforms import Resize
from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import PADDING
from sotglp_jax.run import with_shots


def picture(seed=0, size=(20, 16), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture
def folder(tmp_path):
    """Three classes of ten images."""
    for c, name in enumerate(["bee", "ant", "wasp_nest"]):
        (tmp_path / "insects" / name).mkdir(parents=True)
        for i in range(10):
            picture(10 * c + i).save(tmp_path / "insects" / name / f"{i}.png")
    return tmp_path / "insects"


def refusal(*args, **kwargs):
    with pytest.raises(InputError) as caught:
        datasets.resolve(*args, **kwargs)
    return str(caught.value)


def test_digits_are_1797_real_images_in_fixed_parts():
    digits = datasets.resolve("digits")
    parts = (digits.train, digits.val, digits.test)
    assert [len(p) for p in parts] == [700, 200, 897]
    assert len({n for p in parts for n in p.names}) == 1797
    assert set(digits.test.labels) == set(range(10))
    example = digits.test[896]
    assert example["name"] == "digits/1796" and example["label"] == digits.test.labels[896]
    assert example["image"].size == (64, 64) and example["image"].mode == "RGB"
    with pytest.raises(IndexError):
        digits.test[897]


def test_a_folder_of_class_folders_is_split(folder):
    data = datasets.resolve(str(folder))
    assert data.class_names == ("ant", "bee", "wasp_nest") and data.name == "insects"
    assert [len(p) for p in (data.train, data.val, data.test)] == [15, 6, 9]
    names = [n for p in (data.train, data.val, data.test) for n in p.names]
    assert len(set(names)) == 30
    for part in (data.train, data.val, data.test):
        for name, label in zip(part.names, part.labels, strict=True):
            assert name.startswith(data.class_names[label])
    assert datasets.resolve(str(folder)).train.names == data.train.names


def test_a_folder_with_its_own_parts(folder):
    root = folder.parent / "own"
    root.mkdir()
    folder.rename(root / "train")
    (root / "val" / "bee").mkdir(parents=True)
    picture(99).save(root / "val" / "bee" / "new.png")
    data = datasets.resolve(str(root))
    assert [len(p) for p in (data.train, data.val, data.test)] == [30, 0, 1]
    assert data.test.names == ("val/bee/new.png",) and data.test.labels == (1,)
    (root / "test" / "ant").mkdir(parents=True)
    picture(98).save(root / "test" / "ant" / "new.png")
    data = datasets.resolve(str(root))
    assert [len(p) for p in (data.train, data.val, data.test)] == [30, 1, 1]
    (root / "test" / "moth").mkdir()
    picture(97).save(root / "test" / "moth" / "x.png")
    assert '"moth"' in refusal(str(root))


def split_of(folder):
    return {
        part: [[f"{c}/{i}.png", label, c] for label, c in ((0, "wasp_nest"), (1, "ant")) for i in r]
        for part, r in (("train", range(4)), ("val", range(4, 6)), ("test", range(6, 9)))
    }


def test_a_split_file_keeps_its_own_labels(folder):
    path = folder / "split_zhou_Insects.json"
    path.write_text(json.dumps(split_of(folder)))
    data = datasets.resolve(str(path))
    assert data.name == "Insects" and data.class_names == ("wasp_nest", "ant")
    assert data.test.labels == (0, 0, 0, 1, 1, 1)
    assert data.train[0]["name"] == "wasp_nest/0.png"
    # Images in images/, or elsewhere by data.root.
    (folder / "images").mkdir()
    for name in ("wasp_nest", "ant"):
        (folder / name).rename(folder / "images" / name)
    assert datasets.resolve(str(path)).train[0]["label"] == 0
    assert datasets.resolve(str(path), root=str(folder / "images")).train[0]["label"] == 0
    said = refusal(str(path), root=str(folder / "nowhere"))
    assert "none of the 18 images" in said and "wasp_nest/0.png" in said and "nowhere" in said


def test_a_split_file_in_any_spelling_is_the_same(folder):
    path, split = folder / "split_zhou_Insects.json", split_of(folder)
    path.write_text(json.dumps(split))
    plain = datasets.resolve(str(path))
    windows = {
        part: [[name.replace("/", "\\"), *rest] for name, *rest in rows]
        for part, rows in split.items()
    }
    valid = {"valid" if part == "val" else part: rows for part, rows in split.items()}
    for content in (
        json.dumps(split).encode("utf-8-sig"),
        json.dumps(split).encode("utf-16"),
        json.dumps(windows).encode(),
        json.dumps(valid).encode(),
    ):
        path.write_bytes(content)
        found = datasets.resolve(str(path))
        assert [x.names for x in found.parts.values()] == [x.names for x in plain.parts.values()]
    path.write_bytes(
        json.dumps(split, ensure_ascii=False).replace("ant", "fourmi é").encode("cp1252")
    )
    assert "no UTF-8" in refusal(str(path))


def test_a_name_in_unicodes_two_forms_is_one_of_a_split_file(folder):
    path, split = folder / "split.json", split_of(folder)
    for part, form in (("train", "NFC"), ("val", "NFD"), ("test", "NFD")):
        split[part] = [
            [image, label, unicodedata.normalize(form, f"é{name}")]
            for image, label, name in split[part]
        ]
    path.write_text(json.dumps(split))
    assert datasets.resolve(str(path)).class_names == ("éwasp_nest", "éant")


def test_addresses_of_other_buckets_are_refused_as_folders():
    for options in ({"dataset": "s3://bucket/set"}, {"dataset": "eurosat", "root": "s3://bucket"}):
        assert "is an address" in refusal(**options)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no JSON at line 1, column 2"),
        ('{"train":\n [],}', "no JSON at line 2"),
        ("[]", "no split file"),
        ('{"train": [["a.png", 0, "a"]]}', "no split file"),
        ('{"train": [["a.png", "0", "a"]], "test": [["a.png", 0, "a"]]}', "no split file"),
        ('{"train": [["a.png", 0, "a"]], "test": [["b.png", 2, "b"]]}', "none labelled 1"),
        ('{"train": [["a.png", 0, "a"]], "test": [["b.png", 0, "b"]]}', 'both "a" and "b"'),
        ('{"train": [["../a.png", 0, "a"]], "test": [["b.png", 0, "a"]]}', "outside"),
        ('{"train": [["/a.png", 0, "a"]], "test": [["b.png", 0, "a"]]}', "outside"),
    ],
)
def test_a_wrong_split_file_is_refused(tmp_path, content, said):
    (tmp_path / "split.json").write_text(content)
    assert said in refusal(str(tmp_path / "split.json"))


def test_unknown_and_empty_data_sets_are_refused(tmp_path):
    assert "no known name" in refusal("eurosatt") and "eurosat" in refusal("eurosatt")
    assert "holds no class folders" in refusal(str(tmp_path))
    assert "split_zhou_EuroSAT.json" in refusal("eurosat", root=str(tmp_path))
    assert "cannot be read" in refusal(str(tmp_path / "split.json"))
    assert "exactly one {}" in refusal("digits", template="a photo")


def test_a_benchmark_is_found_by_its_alias(folder):
    root = folder.parent / "data"
    (root / "EuroSAT_RGB").mkdir(parents=True)
    for name in ("wasp_nest", "ant"):
        (folder / name).rename(root / "EuroSAT_RGB" / name)
    (root / "split_zhou_EuroSAT.json").write_text(json.dumps(split_of(folder)))
    data = datasets.resolve("eurosat", root=str(root), allow_partial=True)
    assert data.name == "eurosat" and len(data.test) == 6
    assert data.template == "a centered satellite photo of {}."
    own = datasets.resolve("eurosat", str(root), "{} from above", allow_partial=True)
    assert own.template == "{} from above"


def test_coop_sampler_is_pythons_random(folder):
    train, val = [2, 0, 0, 2, 1, 0, 2, 2, 0], [0, 1, 1, 2, 2, 2]
    random.seed(7)
    expected = random.sample([0, 3, 6, 7], 2) + random.sample([1, 2, 5, 8], 2) + [4]
    expected_val = [0] + random.sample([1, 2], 2) + random.sample([3, 4, 5], 2)
    chosen = fewshot.coop([train, val], [2, 2], seed=7)
    assert chosen == [tuple(expected), tuple(expected_val)]


def test_too_few_images_are_all_taken_and_said_once(folder, caplog):
    data = datasets.resolve(str(folder))
    train, val = fewshot.sample(data, 16, 1, "coop")
    assert len(train) == 15 and len(val) == 6
    assert [r.getMessage() for r in caplog.records] == [
        "fewer than 16 images, all taken: ant (5), bee (5), wasp_nest (5)"
    ]
    assert train.names == data.train.names and train.names[0] == train[0]["name"]


def test_stratified_sampler_is_scikit_learns():
    digits = datasets.resolve("digits")
    train, val = fewshot.sample(digits, 4, 2, "stratified")
    split = StratifiedShuffleSplit(n_splits=1, train_size=40, random_state=2)
    expected, _ = next(split.split(np.zeros(700), digits.train.labels))
    assert train.keys == tuple(expected) and len(val) == 0
    everything, _ = fewshot.sample(digits, 100, 1, "stratified")
    assert len(everything) == 700


def test_classes_numbered_by_first_appearance_are_drawn_as_such():
    labels = np.random.default_rng(0).integers(0, 5, 60)
    numbers = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    renumbered = [numbers[label] for label in labels]
    split = StratifiedShuffleSplit(n_splits=1, train_size=20, random_state=3)
    expected, _ = next(split.split(labels, renumbered))
    found = fewshot.stratified(labels, 4, 3, renumber=True)
    assert found == tuple(expected) != fewshot.stratified(labels, 4, 3)
    assert fewshot.stratified(renumbered, 4, 3) == found


def test_recipe_official_draws_cars_and_aircraft_as_its_authors_do(folder):
    whole = datasets.resolve(str(folder))
    backwards = whole.train.take(range(len(whole.train))[::-1])  # the last class appears first
    whole = dataclasses.replace(whole, train=backwards)

    def drawn(dataset, **options):
        config = common.make(dataset, shots=2, clip="ViT-B/16", recipe="official")
        config.data.update(options)
        return with_shots(config, whole)

    cars, flowers = (drawn(name).train for name in ("stanford_cars", "flowers102"))
    assert cars == flowers != drawn("eurosat").train
    assert cars == drawn("eurosat", renumber=True).train
    assert all(
        name.startswith(whole.class_names[label])
        for name, label in zip(cars.names, cars.labels, strict=True)
    )
    joint, pool = drawn("fgvc_aircraft"), sources.join(whole.train, whole.val)
    assert joint.train == pool.take(fewshot.stratified(pool.labels, 2, 1))
    assert not len(joint.val) and set(joint.train.names) & set(whole.val.names)
    alone = drawn("fgvc_aircraft", pool="train")
    assert set(alone.train.names) <= set(whole.train.names)


def test_impossible_shots_are_refused(folder):
    data = datasets.resolve(str(folder))
    with pytest.raises(InputError, match="shots=0"):
        fewshot.sample(data, 0, 1, "coop")
    one_each = fewshot.Dataset("x", ("a", "b"), "{}", *[data.train.take((0, 6, 7))] * 3)
    with pytest.raises(InputError, match="stratified cannot draw"):
        fewshot.sample(one_each, 1, 1, "stratified")
    no_bee = fewshot.Dataset(
        data.name, data.class_names, "{}", data.train.take((0, 14)), data.val, data.test
    )
    with pytest.raises(InputError, match='"bee" .* no training image'):
        fewshot.sample(no_bee, 1, 1, "coop")


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1", "LA", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    grey = np.tile(np.arange(16, dtype=np.uint8) * 16, (16, 1))
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "x.png")
    else:
        suffix = "tif" if mode in ("CMYK", "LA") else "png"
        image = Image.fromarray(np.stack([grey] * 3, -1))
        (image.quantize(16) if mode == "P" else image.convert(mode)).save(tmp_path / f"x.{suffix}")
    read = read_image(next(tmp_path.glob("x.*")))
    assert read.mode == "RGB" and read.size == (16, 16)
    error = np.abs(np.asarray(read)[..., 0].astype(int) - grey).mean()
    assert error < (100 if mode == "1" else 2)


def test_palette_with_transparency_is_no_warning(tmp_path):
    picture(mode="P").save(tmp_path / "x.png", transparency=b"\x00\xff")
    assert read_image(tmp_path / "x.png").mode == "RGB"


def test_bad_images_are_listed_before_training(folder):
    data = datasets.resolve(str(folder))
    stream = io.BytesIO()
    picture(size=(300, 200)).save(stream, "JPEG")
    for part, content in ((data.train, stream.getvalue()[:-800]), (data.test, b"nothing")):
        (folder / part.names[0]).write_bytes(content)
    (folder / data.train.names[1]).unlink()
    (folder / data.train.names[2]).unlink()
    os.mkfifo(folder / data.train.names[2])
    with pytest.raises(InputError) as caught:
        loader.check_images([data.train, data.test.take((0, 1))])
    said = str(caught.value)
    assert said.startswith("4 of 17 images cannot be read") and "missing" in said
    assert f"{data.train.names[2]} (no file)" in said
    assert "truncated" in said and "no image of a known kind" in said
    for name in (data.train.names[0], data.train.names[1], data.test.names[0]):
        assert name in said
    loader.check_images([data.test.take((1, 2))])


def test_resize_keeps_the_short_side_and_the_centre():
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, 100:200] = 255
    out = transforms.resize_and_crop(Image.fromarray(wide), Resize(50))
    assert out.shape == (50, 50, 3) and out[:, 3:-3].min() > 250
    assert transforms.resize_and_crop(picture(size=(3, 50)), Resize(32)).shape == (32, 32, 3)
    same = picture(size=(32, 32))
    np.testing.assert_array_equal(transforms.resize_and_crop(same, Resize(32)), same)


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
def test_resizing_is_pillows(name):
    wide, filter_ = picture(size=(100, 50)), Image.Resampling[name.upper()]
    shortest = wide.resize((50, 25), filter_).crop((12, 0, 37, 25))
    squashed = wide.resize((25, 25), filter_)
    for mode, expected in (("shortest", shortest), ("squash", squashed)):
        resize, image = Resize(25, mode, name), {"image": wide, "label": 0}
        (batch,) = loader.test_batches([image], resize=resize, batch_size=1, workers=0)
        for found in (batch["image"][0], pictures.load(wide, resize)):
            np.testing.assert_array_equal(found, np.asarray(expected))
    square = wide.crop((0, 0, 50, 50))  # the whole of it is the only part of all its area
    rng = np.random.default_rng(0)
    whole = transforms.random_resized_crop(square, Resize(25, "squash", name), (1.0, 1.0), rng)
    np.testing.assert_array_equal(whole, np.asarray(square.resize((25, 25), filter_)))


def test_the_ends_of_a_long_picture_count_where_it_is_squashed():
    long = np.zeros((4, 4000), np.uint8)
    long[:, :500] = 255
    assert pictures.load(long, Resize(8, "squash"))[:, 0].min() > 200
    assert not pictures.load(long, Resize(8)).any()


def test_random_crop_stays_inside_and_covers_the_asked_area():
    rng = np.random.default_rng(0)
    white = Image.new("RGB", (90, 40), "white")
    for _ in range(50):
        crop = transforms.random_resized_crop(white, Resize(16), (0.08, 1.0), rng)
        assert crop.shape == (16, 16, 3) and crop.min() == 255
    # Too narrow for any allowed ratio at full area: the centre part.
    stripe = np.zeros((10, 400, 3), np.uint8)
    stripe[:, 190:210] = 255
    crop = transforms.random_resized_crop(Image.fromarray(stripe), Resize(16), (1.0, 1.0), rng)
    assert crop.mean() > 250


def batches(source, start=0, seed=1, workers=0, batch_size=4, epochs=3, rows=None, **options):
    augmentation = loader.Augmentation((0.5, 1.0), True)
    return list(
        loader.train_batches(
            source,
            resize=Resize(8),
            batch_size=batch_size,
            epochs=epochs,
            seed=seed,
            augmentation=augmentation,
            workers=workers,
            start=start,
            rows=rows,
            **options,
        )
    )


def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for key in ("image", "label"):
            np.testing.assert_array_equal(x[key], y[key])


def test_training_batches_drop_the_rest_and_resume_by_position(folder):
    source = datasets.resolve(str(folder)).train
    whole = batches(source)
    assert len(whole) == 9
    assert all((b["label"] >= 0).all() and b["image"].shape == (4, 8, 8, 3) for b in whole)
    same(batches(source, start=5), whole[5:])
    other = batches(source, seed=2)
    assert any((a["image"] != b["image"]).any() for a, b in zip(whole, other, strict=True))
    assert any((a["label"] != b["label"]).any() for a, b in zip(whole[:3], whole[3:6], strict=True))


def test_a_last_batch_that_is_short_may_stay_or_always_go(folder):
    source = datasets.resolve(str(folder)).train
    kept = batches(source, drop_last="never")
    assert [int((b["label"] == PADDING).sum()) for b in kept] == [0, 0, 0, 1] * 3
    same(batches(source, drop_last="never", start=5), kept[5:])
    same(kept[:3], batches(source)[:3])
    same(batches(source, drop_last="always"), batches(source))
    few = source.take((0, 5, 10))
    assert not batches(few, drop_last="always") and len(batches(few, drop_last="never")) == 3


def test_workers_give_the_same_batches_and_leave_nothing_behind(folder):
    source = datasets.resolve(str(folder)).train
    options = {"resize": Resize(8), "batch_size": 2}
    found = loader.test_batches(source, **options, workers=1)
    expected = list(loader.test_batches(source, **options, workers=0))
    same([next(found) for _ in range(3)], expected[:3])
    assert "/dev/shm/psm_" not in Path("/proc/self/maps").read_text()  # Python's shared memory
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(InputError, match="set --config.data.workers to fewer"):
        list(found)
    assert not multiprocessing.active_children()


def test_a_machine_that_gives_no_semaphores_is_told(folder, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    batches = loader.test_batches(
        datasets.resolve(str(folder)).test, resize=Resize(8), batch_size=2, workers=1
    )
    with pytest.raises(InputError, match="set --config.data.workers=0"):
        next(batches)


def test_two_processes_share_the_rows_of_the_same_batches(folder):
    source = datasets.resolve(str(folder)).train
    halves = [(0, 1), (2, 3)]
    pairs = zip(*(batches(source, rows=rows) for rows in halves), strict=True)
    joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in pairs]
    same(joined, batches(source))
    same(batches(source, start=4, rows=halves[1]), batches(source, rows=halves[1])[4:])
    options = {"resize": Resize(8), "batch_size": 4, "workers": 0}
    first, second = (
        list(loader.test_batches(source.take(range(5)), **options, rows=rows)) for rows in halves
    )
    # The last batch has one image: the second process gets padding alone.
    assert [(b["label"] != PADDING).sum() for b in first] == [2, 1]
    assert [(b["label"] != PADDING).sum() for b in second] == [2, 0]
    assert not second[1]["image"].any()


def test_a_data_set_below_one_batch_is_padded(folder):
    source = datasets.resolve(str(folder)).train.take((0, 5, 10))
    whole = batches(source)
    assert len(whole) == 3 and not whole[0]["image"][3].any()
    assert all(sorted(b["label"][:3]) == [0, 1, 2] and b["label"][3] == PADDING for b in whole)


def test_test_batches_hold_every_image_once(folder):
    source = datasets.resolve(str(folder)).test
    whole = list(loader.test_batches(source, resize=Resize(8), batch_size=4, workers=0))
    labels = np.concatenate([b["label"][b["label"] != PADDING] for b in whole])
    assert labels.tolist() == list(source.labels)
    assert {b["image"].shape for b in whole} == {(4, 8, 8, 3)}


def test_hidden_files_and_a_class_called_train(folder):
    (folder / "ant" / ".ipynb_checkpoints").mkdir()
    picture().save(folder / "ant" / ".ipynb_checkpoints" / "0-checkpoint.png")
    picture().save(folder / "ant" / "._0.png")
    (folder / "wasp_nest").rename(folder / "train")
    data = datasets.resolve(str(folder))
    assert data.class_names == ("ant", "bee", "train") and len(data.train) == 15


@pytest.mark.parametrize(
    "pixels", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), -7, np.int32)]
)
def test_pixels_without_a_range_are_refused(tmp_path, pixels):
    Image.fromarray(np.full((4, 4), pixels)).save(tmp_path / "x.tif")
    with pytest.raises(OSError, match="pixels"):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2)])
def test_an_image_smaller_than_a_patch_is_scaled_up(size):
    image, rng = Image.new("RGB", size, "red"), np.random.default_rng(0)
    for pixels in (
        transforms.resize_and_crop(image, Resize(32)),
        *(transforms.random_resized_crop(image, Resize(32), (0.08, 1.0), rng) for _ in range(20)),
    ):
        np.testing.assert_array_equal(pixels, np.full((32, 32, 3), (255, 0, 0)))


def test_sources_with_readers_of_their_own_are_joined_in_order(folder, tmp_path):
    data = datasets.resolve(str(folder))
    other = sources.image_files(tmp_path, data.val.names, data.val.labels, upright=True)
    whole = sources.join(data.train, data.val, dataclasses.replace(other, origin="other"))
    assert len(whole) == 15 + 6 + 6 and whole.labels[15:21] == whole.labels[21:]
    assert isinstance(sources.join(data.train, data.val).read, FileReader)
    for i, name in ((0, data.train.names[0]), (20, data.val.names[-1])):
        assert whole[i]["name"] == name and whole[i]["image"] == read_image(folder / name)
    picked = whole.take((20, 0))
    assert picked.states() == data.train.take((0,)).states() + data.val.take((5,)).states()
