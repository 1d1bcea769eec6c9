"""Cached features are those of an uncached run, and never those of other images."""

import jax
import numpy as np
import pytest
from PIL import Image

from configs import common
from sotglp_jax import cache, sharding
from sotglp_jax.data import loader
from sotglp_jax.errors import InputError
from sotglp_jax.run import prepare


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
        image_size=run.arch.image_size,
        batch_size=4,
        epochs=epochs,
        seed=run.config.seed,
        augmentation=augmentation,
        workers=0,
        start=start,
    )


def cached(run, start=0, epochs=4):
    built = cache.of_training(run, sharding.make_mesh("1"))
    options = {"batch_size": 4, "epochs": epochs, "seed": run.config.seed, "rows": range(4)}
    return cache.train_batches(built, start=start, **options)


def same(run, a, b):
    see = jax.jit(lambda x: cache.image_features(run.zero_shot.towers, run.frozen, x))
    a, b = list(a), list(b)
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x["label"], y["label"])
        np.testing.assert_array_equal(x["mask"], y["mask"])
        for p, q in zip(jax.tree.leaves(see(x)), jax.tree.leaves(see(y)), strict=True):
            np.testing.assert_allclose(p, q, atol=1e-5)


def test_views_are_the_first_epochs_of_an_uncached_run(make):
    run = make()
    same(run, cached(run, epochs=2), uncached(run, epochs=2))
    same(run, cached(run, start=3), list(cached(run))[3:])
    assert len(list(cached(run, epochs=4))) == 8  # the last images of each epoch are dropped
    third = [b["label"] for b in list(cached(run))[4:6]]
    np.testing.assert_array_equal(third, [b["label"] for b in uncached(run, start=4, epochs=3)])


def test_test_features_are_the_test_images(make):
    run = make()
    built = cache.of_test(run, run.dataset.test, sharding.make_mesh("1"))
    pixels = loader.test_batches(run.dataset.test, image_size=32, batch_size=4, workers=0)
    features = list(cache.test_batches(built, batch_size=4, rows=range(4)))
    assert [b["mask"].tolist() for b in features] == [[True] * 4, [True] * 2 + [False] * 2]
    see = jax.jit(lambda x: cache.image_features(run.zero_shot.towers, run.frozen, x))
    for a, b in zip(features, pixels, strict=True):
        np.testing.assert_allclose(see(a).cls[a["mask"]], see(b).cls[a["mask"]], atol=1e-5)
        np.testing.assert_array_equal(a["label"][a["mask"]], b["label"][a["mask"]])


def folders(tmp_path):
    return {p.name: (p / "meta.json").stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()}


def test_a_stale_cache_is_built_again_and_a_sound_one_is_not(make, tmp_path):
    run = make()
    first = list(cached(run))
    before = folders(tmp_path)
    list(cached(run))
    assert folders(tmp_path) == before and len(before) == 1
    # Another image under the same name, then a file that was cut short.
    path = tmp_path / "data" / "train" / "c0" / "0.png"
    Image.new("RGB", (40, 40), "red").save(path)
    second = list(cached(run))
    assert folders(tmp_path).keys() == before.keys() and folders(tmp_path) != before
    assert any((a["cls"] != b["cls"]).any() for a, b in zip(first, second, strict=True))
    (folder,) = (tmp_path / "cache").iterdir()
    content = (folder / "patches.bin").read_bytes()
    (folder / "patches.bin").write_bytes(content[:-1])
    same(run, cached(run), second)
    # Other weights, views, precision or augmentation have another cache.
    for options in ({"cache.views": 1}, {"precision": "bf16"}, {"data.flip": False}, {"seed": 2}):
        list(cached(make(**options)))
    assert len(folders(tmp_path)) == 5


def test_a_folder_that_cannot_hold_it_is_refused(make, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be written .* --config.cache.folder"):
        cached(make(**{"cache.folder": "/dev/null/x"})).__next__()
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="needs 0.0 GB"):
        cached(make()).__next__()
    assert not list((tmp_path / "cache").iterdir())
