"""Cached features are those of an uncached run, and never those of other images."""

import dataclasses
import itertools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from sotglp_jax import cache, features
from sotglp_jax.configs import common
from sotglp_jax.data import loader
from sotglp_jax.data.sources import Source
from sotglp_jax.data.transforms import Resize
from sotglp_jax.devices import sharding
from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import PADDING
from sotglp_jax.run import prepare

# The fingerprint of the tiny CLIP's program, with a mesh around it as a run has one.
TEXT = """
import hashlib
import jax
import numpy as np
from sotglp_jax import cache, clip, features
from sotglp_jax.data.transforms import Resize
from sotglp_jax.methods.zeroshot import ZeroShot
loaded = clip.load("tiny")
mesh = jax.make_mesh((jax.device_count(),), ("data",), (jax.sharding.AxisType.Auto,))
encode = features.Encode(ZeroShot(loaded.towers()))
size = Resize(64)
encoder = cache.Encoder(encode, loaded.params, {}, size, np.dtype("float32"), 4, mesh, 0)
with jax.set_mesh(mesh):
    print(hashlib.sha256(cache._text(encoder).encode()).hexdigest())
"""


@pytest.fixture
def make(clip_folder, tmp_path):
    """A run on ten files in two classes, with a cache of two views."""
    for c in range(2):
        for part, count in (("train", 5), ("test", 3)):
            for i in range(count):
                path = tmp_path / "data" / part / f"c{c}" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng([c, i]).integers(0, 256, (40, 50, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(path)

    def run(**options):
        config = common.get_config(f"dataset={tmp_path / 'data'},clip={clip_folder},shots=5")
        config.update_from_flattened_dict(
            {
                "precision": "float32",
                "train.batch_size": 4,
                "cache.views": 2,
                "cache.folder": str(tmp_path / "cache"),
                "data.workers": 0,
            }
            | options
        )
        return prepare(config, str(tmp_path / "run"))

    return run


def uncached(run, start=0, epochs=4):
    augmentation = loader.Augmentation(run.config.data.crop_scale, run.config.data.flip)
    return loader.train_batches(
        run.train,
        resize=run.resize,
        batch_size=4,
        epochs=epochs,
        seed=run.config.seed,
        augmentation=augmentation,
        workers=0,
        start=start,
    )


def cached(run, start=0, epochs=4):
    augmentation = loader.Augmentation(run.config.data.crop_scale, run.config.data.flip)
    built = features.cached(run, run.method, run.train, sharding.make_mesh(1), augmentation)
    options = {"batch_size": 4, "epochs": epochs, "seed": run.config.seed, "rows": range(4)}
    return cache.train_batches(built, start=start, **options)


def same(run, a, b):
    see = jax.jit(lambda x: features.of_batch(run.method, {}, run.frozen, x))
    a, b = list(a), list(b)
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x["label"], y["label"])
        for p, q in zip(jax.tree.leaves(see(x)), jax.tree.leaves(see(y)), strict=True):
            np.testing.assert_allclose(p, q, atol=1e-5)


def test_views_are_the_first_epochs_of_an_uncached_run(make):
    run = make()
    same(run, cached(run, epochs=2), uncached(run, epochs=2))
    same(run, cached(run, start=3), list(cached(run))[3:])
    assert len(list(cached(run, epochs=4))) == 8  # the last images of each epoch are dropped
    third = [b["label"] for b in list(cached(run))[4:6]]
    np.testing.assert_array_equal(third, [b["label"] for b in uncached(run, start=4, epochs=3)])


@pytest.mark.parametrize("rule", loader.STEPS)
def test_the_last_batches_that_stay_are_those_of_an_uncached_run(make, rule):
    run, options = make(**{"train.drop_last": rule, "cache.views": 0}), {"rows": range(4)}
    options |= {"batch_size": 4, "epochs": 50, "seed": run.config.seed, "drop_last": rule}
    built = cache.Cache({"cls": np.zeros((2, 10, 1))}, np.array(run.train.labels))
    theirs = features.train_batches(run, sharding.make_mesh(1), 1)
    ours = cache.train_batches(built, start=1, **options)
    few = [[b["label"].tolist() for b in itertools.islice(x, 5)] for x in (ours, theirs)]
    padding = [0, 2, 0, 0, 2] if rule == "never" else [0] * 5
    assert few[0] == few[1] and [x.count(PADDING) for x in few[0]] == padding


def test_test_features_are_the_test_images(make):
    run = make()
    built = features.cached(run, run.method, run.dataset.test, sharding.make_mesh(1))
    pixels = loader.test_batches(run.dataset.test, resize=run.resize, batch_size=4, workers=0)
    found = list(cache.test_batches(built, batch_size=4, rows=range(4)))
    padding = [(b["label"] == PADDING).tolist() for b in found]
    assert padding == [[False] * 4, [False] * 2 + [True] * 2]
    see = jax.jit(lambda x: features.of_batch(run.method, {}, run.frozen, x))
    for a, b in zip(found, pixels, strict=True):
        real = a["label"] != PADDING
        np.testing.assert_allclose(see(a)["cls"][real], see(b)["cls"][real], atol=1e-5)
        np.testing.assert_array_equal(a["label"], b["label"])


def test_rows_that_only_fill_up_the_devices_are_padding(make):
    run = make()
    built = features.cached(run, run.method, run.dataset.test, sharding.make_mesh(1))
    options = {"batch_size": 4, "rows": range(8)}
    found = [b["label"].tolist() for b in cache.test_batches(built, **options)]
    pixels = loader.test_batches(run.dataset.test, resize=run.resize, workers=0, **options)
    assert found == [b["label"].tolist() for b in pixels]
    assert found == [[0, 0, 0, 1] + [-1] * 4, [1, 1] + [-1] * 6]


def files(tmp_path):
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}


def test_a_stale_cache_is_built_again_and_a_sound_one_is_not(make, tmp_path):
    run = make()
    first = list(cached(run))
    before = files(tmp_path)
    list(cached(run))
    assert files(tmp_path) == before and len(before) == 1
    # Another image under the same name, then a file that was cut short.
    path = tmp_path / "data" / "train" / "c0" / "0.png"
    Image.new("RGB", (40, 40), "red").save(path)
    second = list(cached(run))
    assert files(tmp_path).keys() == before.keys() and files(tmp_path) != before
    assert any((a["cls"] != b["cls"]).any() for a, b in zip(first, second, strict=True))
    (path,) = (tmp_path / "cache").iterdir()
    os.truncate(path, path.stat().st_size // 2)
    same(run, cached(run), second)
    # Other weights, views, precision or augmentation have another cache.
    for options in ({"cache.views": 1}, {"precision": "bf16"}, {"data.flip": False}, {"seed": 2}):
        list(cached(make(**options)))
    assert len(files(tmp_path)) == 5


def test_a_folder_that_cannot_hold_it_is_refused(make, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be written .* --config.cache.folder"):
        cached(make(**{"cache.folder": "/dev/null/x"})).__next__()
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="needs 0.0 GB"):
        cached(make()).__next__()
    assert not list((tmp_path / "cache").iterdir())


def channel(frozen, pixels):
    return {"channel": frozen * pixels.mean((1, 2))}


def halves(frozen, pixels):
    return channel(frozen, pixels) | {"half": pixels[:, ::2] / 2}


def numbers(origin="numbers", offset=0):
    def read(key):
        return Image.new("RGB", (8, 8), (key + offset,) * 3)

    return Source(read, range(6), [f"test/{i}" for i in range(6)], [-1] * 6, origin)


@pytest.fixture
def load(tmp_path):
    def run(source, encode=channel, settings=None, dtype=np.float32, resize=None, **views):
        mesh = sharding.make_mesh(1)
        encoder = cache.Encoder(
            encode,
            np.float32(2),
            settings or {},
            Resize(8, **resize or {}),
            np.dtype(dtype),
            4,
            mesh,
            0,
            str(tmp_path / "cache"),
        )
        views = cache.Views(2, 1, loader.Augmentation((0.5, 1.0), True)) if views else None
        return cache.load(encoder, source, views)

    return run


def test_features_are_of_whatever_is_encoded(load):
    loaded = load(numbers(), halves)
    assert {name: x.shape for name, x in loaded.features.items()} == {
        "channel": (1, 6, 3),
        "half": (1, 6, 4, 8, 3),
    }
    first, last = cache.test_batches(loaded, batch_size=4, rows=range(4))
    assert first["channel"][:, 0].tolist() == [0, 2, 4, 6]
    assert last["half"][:2, 0, 0, 0].tolist() == [2, 2.5]
    assert len(last["half"]) == 4
    views = load(numbers(), halves, views=True).features["channel"]
    assert views.shape == (2, 6, 3) and views[1, :, 0].tolist() == [0, 2, 4, 6, 8, 10]


def test_padding_is_no_class(load):
    source = dataclasses.replace(numbers(), labels=range(6))
    labels = [
        b["label"].tolist() for b in cache.test_batches(load(source), batch_size=4, rows=range(4))
    ]
    assert labels == [[0, 1, 2, 3], [4, 5, -1, -1]]


def test_equal_names_in_other_sets_have_other_features(load):
    first = load(numbers()).features["channel"]
    other = load(numbers("another set", offset=100)).features["channel"]
    assert other[0, :, 0].tolist() == (first[0, :, 0] + 200).tolist()


def test_whatever_decides_the_features_has_a_file_of_its_own(load, tmp_path):
    load(numbers())
    load(numbers().take((1, 0, 2, 3, 4, 5)))
    load(numbers(), halves)
    load(numbers(), lambda frozen, pixels: channel(frozen + 1, pixels))
    load(numbers(), settings={"clip": "another"})
    load(numbers(), resize={"mode": "squash"})
    load(numbers(), resize={"interpolation": "bilinear"})
    load(numbers(), dtype=np.float16)
    load(numbers(), views=True)
    assert len(files(tmp_path)) == 9
    load(numbers(), lambda frozen, pixels: channel(frozen, pixels))  # the same program
    assert len(files(tmp_path)) == 9


def test_the_name_is_the_same_in_every_process_and_on_every_mesh(environment):
    said = set()
    for seed, devices in ((1, 1), (2, 4)):
        variables = {
            "PYTHONHASHSEED": f"{seed}",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        command = [sys.executable, "-c", TEXT]
        options = {"cwd": ROOT, "env": environment | variables, "check": True}
        said.add(subprocess.run(command, capture_output=True, text=True, **options).stdout)
    assert len(said) == 1 and len(said.pop()) == 65
