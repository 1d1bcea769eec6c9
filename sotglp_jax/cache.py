"""Frozen image features on disk: what an image encoder says of every view of every image.

The encoder never changes, so its work may be done once. View v of an image is what an uncached run
sees of it in epoch v; epoch e of a cached run sees view e modulo n, in the order that it would
have without the cache.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax
import ml_dtypes
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from sotglp_jax.data import fewshot, loader, transforms
from sotglp_jax.data.sources import Source
from sotglp_jax.devices import hosts
from sotglp_jax.feature_file import FeatureFile
from sotglp_jax.methods.contract import PADDING
from sotglp_jax.paths import local

# float32 runs are to be the same with a cache and without it.
STORED = {"float32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16)}
WAIT = 0.2  # seconds between two looks at what another run is building


@dataclasses.dataclass(frozen=True)
class Cache:
    """Memory-mapped features of n views of N images.

    Attributes:
      features: {name: (n, N, ...)}.
      labels: (N,).
    """

    features: dict[str, np.ndarray]
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Views:
    """How training images are seen; test images are seen once, as they are.

    Attributes:
      count: n, views of every image.
      seed: of their order and augmentation.
      augmentation: see there.
    """

    count: int
    seed: int
    augmentation: loader.Augmentation


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """What the caches of a run have in common.

    Attributes:
      encode: of frozen weights and uint8 pixels (B R R 3) makes {name: (B ...)}; hashable, and
        compiled once for all that are equal. The text of its program is part of a cache's name.
      frozen: its weights, as arrays on the host.
      settings: what else decides the features, fit for JSON, such as the weights' fingerprint.
      resize: of the images.
      dtype: of the features on disk.
      batch_size: images that a process encodes at a time; rounded up to what its devices share.
      mesh: the devices.
      workers: processes that decode images.
      folder: gets the caches and is seen by all processes; "" is the user's cache folder.
    """

    encode: Callable[[Any, jax.Array], dict[str, jax.Array]]
    frozen: Any
    settings: dict
    resize: transforms.Resize
    dtype: np.dtype
    batch_size: int
    mesh: Mesh
    workers: int
    folder: str = ""


def load(encoder: Encoder, source: Source, views: Views | None = None) -> Cache:
    """The features of all images of a source; encoded now if they are not there or of others.

    The first process decides for all; every process encodes its share. A signal ends the program
    after a batch.

    Args:
      encoder: see there.
      source: the images.
      views: of training images; None for test images.

    Raises:
      InputError: the features cannot be written or read, or the disk is too small.
    """
    file = _file(encoder, source, views)
    if not hosts.of_first(file.is_whole()):
        _build(encoder, source, views, file)
    return Cache(hosts.together(file.maps), np.array(source.labels, np.int32))


def train_batches(
    cache: Cache,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    start: int,
    rows: Sequence[int],
    drop_last: str = "unless_only",
) -> Iterator[loader.Batch]:
    """Batches with the features for "image"; arguments as in `loader.train_batches`."""
    views, count = _sizes(cache)
    steps = loader.STEPS[drop_last](count, batch_size)
    for epoch in range(start // steps, epochs):
        order = loader.order(count, seed, epoch)
        for step in range(max(start - epoch * steps, 0), steps):
            yield _batch(cache, epoch % views, order, step, batch_size, rows)


def test_batches(cache: Cache, *, batch_size: int, rows: Sequence[int]) -> Iterator[loader.Batch]:
    """Batches with the features of every test image once; arguments as in `loader.test_batches`."""
    _, count = _sizes(cache)
    for step in range(-(-count // batch_size)):
        yield _batch(cache, 0, np.arange(count), step, batch_size, rows)


def _sizes(cache: Cache) -> tuple[int, int]:
    """Views and images."""
    return next(iter(cache.features.values())).shape[:2]


def _batch(cache: Cache, view: int, order: np.ndarray, step: int, batch_size: int, rows):
    rows = np.asarray(rows)
    places = step * batch_size + rows
    real = (rows < batch_size) & (places < len(order))
    chosen = order[np.where(real, places, 0)]
    features = {name: x[view][chosen] for name, x in cache.features.items()}
    return features | {"label": np.where(real, cache.labels[chosen], np.int32(PADDING))}


def _file(encoder: Encoder, source: Source, views: Views | None) -> FeatureFile:
    """Named by what the features are of; of the files behind the images there is one state."""
    shapes = _shapes(encoder, views, len(source))
    key = encoder.settings | {
        "program": hashlib.sha256(_text(encoder).encode()).hexdigest(),
        "transforms": transforms.VERSION,
        "resize": dataclasses.asdict(encoder.resize),
        "views": views and dataclasses.asdict(views),
        "origin": source.origin,
        "images": fewshot.fingerprint([*map(str, source.keys), *source.names]),
        "shapes": shapes,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).digest()
    digest = hosts.of_first(np.frombuffer(digest, np.uint8))
    name = f"{'train' if views else 'test'}-{bytes(digest).hex()[:16]}.features"
    # Other processes may have files of their own, whose times are others.
    about = key | {"files": fewshot.fingerprint(source.states() if hosts.first() else [])}
    return FeatureFile(base(encoder.folder) / name, shapes, encoder.dtype, json.dumps(about))


def base(folder: str = "") -> Path:
    """Where features are cached; "" is the user's cache folder."""
    if folder:
        return local(folder, "cache.folder")
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sotglp_jax/features"


def _shapes(encoder: Encoder, views: Views | None, count: int) -> dict[str, tuple[int, ...]]:
    images = views.count if views else 1, count
    encoded = jax.eval_shape(encoder.encode, encoder.frozen, _pixels(encoder))
    return {name: (*images, *x.shape[1:]) for name, x in sorted(encoded.items())}


def _text(encoder: Encoder) -> str:
    """The program for one image on one device, so that it is the same on every mesh."""
    with jax.set_mesh(Mesh(encoder.mesh.local_devices[:1], ("data",))):
        options = {"encode": encoder.encode, "dtype": encoder.dtype}
        return _features.lower(encoder.frozen, _pixels(encoder), **options).as_text()


def _pixels(encoder: Encoder) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, encoder.resize.size, encoder.resize.size, 3), np.uint8)


def _build(encoder: Encoder, source: Source, views: Views | None, file: FeatureFile) -> None:
    """Makes the file, or waits for a run that does; the first process makes room and names it."""
    with hosts.Interruption() as interruption:
        part = _claim(file, interruption)
        try:
            if not hosts.of_first(file.is_whole()):
                hosts.together(lambda: part and file.make_room(part))
                _fill(encoder, source, views, file, interruption)
                multihost_utils.sync_global_devices("features")
                if part:
                    file.finish(part)
                multihost_utils.sync_global_devices("finished")
        finally:
            if part:
                file.release(part)


def _claim(file: FeatureFile, interruption: hosts.Interruption) -> BinaryIO | None:
    """The part in the first process, and None in the others, once no other run holds it."""
    for attempt in itertools.count():
        part = hosts.together(lambda: file.claim() if hosts.first() else None)
        if hosts.of_first(part is not None):
            return part
        if not attempt:
            print(f"waiting for another run that makes {file.path}", flush=True)
        time.sleep(WAIT)
        _stop_if_asked(interruption)


def _stop_if_asked(interruption: hosts.Interruption) -> None:
    if interruption.requested():
        print("stopped while caching features; the same command goes on from there")
        sys.exit(0)


def _fill(encoder: Encoder, source: Source, views, file: FeatureFile, interruption) -> None:
    encoded = _encode(encoder, source, views)
    with hosts.together(file.open) as opened, contextlib.closing(encoded):
        for view, images, features in encoded:
            file.write(opened, view * len(source) + images, features)
            _stop_if_asked(interruption)


def _encode(encoder: Encoder, source: Source, views: Views | None):
    """Yields (view, image indices, features of this process's images) batch by batch."""
    local = Mesh(encoder.mesh.local_devices, ("data",))
    rows_here = -(-encoder.batch_size // local.size) * local.size
    batch_size = rows_here * jax.process_count()
    rows = jax.process_index() * rows_here + np.arange(rows_here)
    batches = _read(encoder, source, views, batch_size, rows.tolist())
    frozen = jax.device_put(encoder.frozen, NamedSharding(local, PartitionSpec()))
    count, steps = views.count if views else 1, -(-len(source) // batch_size)
    with tqdm(total=count * steps, desc="caching features", disable=hosts.no_bar()) as bar:
        for view in range(count):
            order = np.arange(len(source))
            if views:
                order = loader.order(len(source), views.seed, view)
            for step in range(steps):
                pixels = next(batches)["image"]
                pixels = jax.device_put(pixels, NamedSharding(local, PartitionSpec("data")))
                with jax.set_mesh(local):
                    options = {"encode": encoder.encode, "dtype": encoder.dtype}
                    features = _features(frozen, pixels, **options)
                places = step * batch_size + rows
                kept = places < len(source)
                yield (
                    view,
                    order[places[kept]],
                    {k: np.asarray(x)[kept] for k, x in features.items()},
                )
                bar.update()


def _read(encoder: Encoder, source: Source, views: Views | None, batch_size: int, rows: list[int]):
    """This process's rows of the batches of all views, the last one of a view padded."""
    options = {"resize": encoder.resize, "batch_size": batch_size, "rows": rows}
    options["workers"] = encoder.workers
    if not views:
        return loader.test_batches(source, **options)
    options |= {"seed": views.seed, "augmentation": views.augmentation}
    return loader.train_batches(source, epochs=views.count, drop_last="never", **options)


@functools.partial(jax.jit, static_argnames=("encode", "dtype"))
def _features(frozen: Any, pixels: jax.Array, *, encode: Callable, dtype: np.dtype) -> dict:
    return {name: x.astype(dtype) for name, x in encode(frozen, pixels).items()}
