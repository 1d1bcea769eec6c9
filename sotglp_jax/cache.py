"""Frozen image features on disk: what the vision tower says of every view of every image.

The tower never changes, so its work may be done once. View v of an image is what an uncached run
sees of it in epoch v; epoch e of a cached run sees view e modulo n, in the order that it would
have without the cache.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import jax
import ml_dtypes
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from sotglp_jax import hosts, sharding
from sotglp_jax.clip import ImageFeatures, Towers
from sotglp_jax.data import fewshot, loader, transforms
from sotglp_jax.data.sources import FileReader, Source
from sotglp_jax.errors import InputError
from sotglp_jax.run import Run
from sotglp_jax.workdir import write

META = "meta.json"
# float32 runs are to be the same with a cache and without it.
STORED = {"float32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16)}


@dataclasses.dataclass(frozen=True)
class Cache:
    """Memory-mapped features of n views of N images.

    Attributes:
      cls: (n, N, W).
      patches: (n, N, P, W).
      labels: (N,).
    """

    cls: np.ndarray
    patches: np.ndarray
    labels: np.ndarray


def image_features(towers: Towers, frozen: dict, batch: loader.Batch) -> ImageFeatures:
    """Of a batch of pixels by the vision tower, or of a batch from a cache as they are."""
    if "patches" in batch:
        return ImageFeatures(*(batch[k].astype(np.float32) for k in ("cls", "patches")))
    pixels = towers.normalise(batch["image"])
    return towers.vision.apply({"params": frozen["vision"]}, pixels)


def of_training(run: Run, mesh: Mesh) -> Cache:
    """The cache of a run's training images; built if it is not there or of other images.

    Raises:
      InputError: it cannot be written, or the disk is too small.
    """
    data = run.config.data
    views = {
        "views": run.config.cache.views,
        "seed": run.config.seed,
        "crop_scale": list(data.crop_scale),
        "flip": data.flip,
    }
    return _load(run, "train", run.train, views, mesh)


def of_test(run: Run, source: Source, mesh: Mesh) -> Cache:
    """The cache of images that a run is judged on, as `of_training`."""
    return _load(run, "test", source, {"views": 1}, mesh)


def train_batches(
    cache: Cache, *, batch_size: int, epochs: int, seed: int, start: int, rows: Sequence[int]
) -> Iterator[loader.Batch]:
    """Batches with "cls" and "patches" for "image"; arguments as in `loader.train_batches`."""
    views, count = cache.cls.shape[:2]
    steps = loader.steps_per_epoch(count, batch_size)
    for epoch in range(start // steps, epochs):
        order = loader.order(count, seed, epoch)
        for step in range(max(start - epoch * steps, 0), steps):
            yield _batch(cache, epoch % views, order, step * batch_size, rows)


def test_batches(cache: Cache, *, batch_size: int, rows: Sequence[int]) -> Iterator[loader.Batch]:
    """The same for every test image once; arguments as in `loader.test_batches`."""
    count = cache.cls.shape[1]
    for first in range(0, count, batch_size):
        yield _batch(cache, 0, np.arange(count), first, rows)


def _batch(cache: Cache, view: int, order: np.ndarray, first: int, rows: Sequence[int]):
    places = first + np.asarray(rows)
    mask = places < len(order)
    chosen = order[np.where(mask, places, 0)]
    arrays = {"cls": cache.cls[view], "patches": cache.patches[view], "label": cache.labels}
    return {key: x[chosen] for key, x in arrays.items()} | {"mask": mask}


def _load(run: Run, part: str, source: Source, views: dict, mesh: Mesh) -> Cache:
    shapes = _shapes(run, views["views"], len(source))
    settings = _settings(run) | views | {"images": fewshot.fingerprint(source.names)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    folder = _base(run) / f"{part}-{digest[:16]}"
    meta = settings | {"files": _states(source), "shapes": shapes}
    dtype = STORED[run.config.precision]
    if not hosts.together(lambda: _is_whole(folder, meta, dtype)):
        _build(run, source, views, mesh, folder, meta)
    arrays = {
        name: np.memmap(folder / f"{name}.bin", dtype, "r", shape=tuple(shape))
        for name, shape in shapes.items()
    }
    return Cache(**arrays, labels=np.array(source.labels, np.int32))


def _base(run: Run) -> Path:
    if run.config.cache.folder:
        return Path(run.config.cache.folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sotglp_jax/features"


def _settings(run: Run) -> dict:
    """What decides the features of an image."""
    vision = run.zero_shot.towers.vision
    return {
        "clip": run.settings["clip.sha256"],
        "activation": vision.activation,
        "vv": vision.vv,
        "vv_first_layer_leak": vision.vv_first_layer_leak,
        "precision": run.config.precision,
        "transforms": transforms.VERSION,
    }


def _shapes(run: Run, views: int, count: int) -> dict[str, list[int]]:
    width, patches = run.arch.vision_width, run.arch.image_tokens - 1
    return {"cls": [views, count, width], "patches": [views, count, patches, width]}


def _states(source: Source) -> str:
    """Of files, a fingerprint of their sizes and times of change: other content, another cache."""
    if not isinstance(source.read, FileReader):
        return ""
    states = (os.stat(source.read.root / name) for name in source.names)
    return fewshot.fingerprint([f"{s.st_size} {s.st_mtime_ns}" for s in states])


def _is_whole(folder: Path, meta: dict, dtype: np.dtype) -> bool:
    try:
        same = json.loads((folder / META).read_text()) == meta
        sizes = {name: (folder / f"{name}.bin").stat().st_size for name in meta["shapes"]}
    except (OSError, ValueError):
        return False
    return same and all(
        sizes[name] == math.prod(shape) * dtype.itemsize for name, shape in meta["shapes"].items()
    )


def _build(run: Run, source: Source, views: dict, mesh: Mesh, folder: Path, meta: dict) -> None:
    """Every process encodes its share on its own devices; the first one makes room and names it."""
    number = int(multihost_utils.broadcast_one_to_all(np.int32(os.getpid())))
    part = folder.with_name(f"{folder.name}.{number}.part")
    dtype = STORED[run.config.precision]
    hosts.together(lambda: hosts.first() and _make_room(part, meta["shapes"], dtype))
    with contextlib.ExitStack() as files:
        opened = {
            name: files.enter_context((part / f"{name}.bin").open("r+b", buffering=0))
            for name in meta["shapes"]
        }
        for view, images, features in _encode(run, source, views, mesh, dtype):
            for name, file in opened.items():
                _write_rows(file, view * len(source) + images, features[name])
    multihost_utils.sync_global_devices("features")
    if hosts.first():
        write(part / META, json.dumps(meta))
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    multihost_utils.sync_global_devices("renamed")


def _write_rows(file: BinaryIO, places: np.ndarray, rows: np.ndarray) -> None:
    """Not through a memory map: processes on several machines may share a page of it."""
    for place, row in zip(places.tolist(), rows, strict=True):
        file.seek(place * row.nbytes)
        file.write(row.tobytes())


def _make_room(part: Path, shapes: dict, dtype: np.dtype) -> None:
    needed = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
    try:
        part.mkdir(parents=True)
        free = shutil.disk_usage(part).free
        for name, shape in shapes.items():
            with (part / f"{name}.bin").open("wb") as file:
                file.truncate(math.prod(shape) * dtype.itemsize)
    except OSError as error:
        raise InputError(
            f"the feature cache {part.parent} cannot be written ({error.strerror}): set "
            "--config.cache.folder."
        ) from None
    if needed > free:
        shutil.rmtree(part)
        raise InputError(
            f"the feature cache needs {needed / 1e9:.1f} GB and {part.parent} has "
            f"{free / 1e9:.1f} GB: set fewer --config.cache.views, or --config.cache.folder."
        )


def _encode(run: Run, source: Source, views: dict, mesh: Mesh, dtype: np.dtype):
    """Yields (view, image indices, features of this process's images) batch by batch."""
    local = Mesh(np.array(mesh.local_devices), ("data",))
    rows_here = -(-run.config.train.batch_size // local.size) * local.size
    batch_size = rows_here * jax.process_count()
    rows = range(jax.process_index() * rows_here, (jax.process_index() + 1) * rows_here)
    options = {"image_size": run.arch.image_size, "batch_size": batch_size, "rows": rows}
    if augmented := "seed" in views:
        augmentation = loader.Augmentation(tuple(views["crop_scale"]), views["flip"])
        options |= {"epochs": views["views"], "seed": views["seed"], "augmentation": augmentation}
        options["drop_rest"] = False
    read = loader.train_batches if augmented else loader.test_batches
    batches = read(source, workers=run.workers, **options)
    vision = jax.device_put(run.frozen["vision"], sharding.replicated(local))
    total = views["views"] * -(-len(source) // batch_size)
    progress = tqdm(batches, "caching features", total, disable=hosts.no_bar())
    for i, batch in enumerate(progress):
        view, step = divmod(i, total // views["views"])
        order = range(len(source))
        if augmented:
            order = loader.order(len(source), views["seed"], view)
        pixels = jax.device_put(batch["image"], sharding.split_batch(local))
        features = _features(vision, pixels, towers=run.zero_shot.towers, dtype=dtype)
        places = step * batch_size + np.asarray(rows)[batch["mask"]]
        kept = {name: np.asarray(x)[batch["mask"]] for name, x in features.items()}
        yield view, np.asarray(order)[places], kept


@functools.partial(jax.jit, static_argnames=("towers", "dtype"))
def _features(vision: dict, pixels: jax.Array, *, towers: Towers, dtype: np.dtype) -> dict:
    features = image_features(towers, {"vision": vision}, {"image": pixels})
    return {"cls": features.cls.astype(dtype), "patches": features.patches.astype(dtype)}
