"""Features of a run's images: of pixels by the vision tower, or as the cache on disk has them."""

import dataclasses
from collections.abc import Iterator

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from sotglp_jax import cache
from sotglp_jax.data import loader
from sotglp_jax.data.sources import Source
from sotglp_jax.devices import hosts, sharding
from sotglp_jax.methods.contract import Method, Params
from sotglp_jax.run import Run


def of_batch(method: Method, params: Params, frozen: dict, batch: loader.Batch) -> dict:
    """What `Method.encode_images` gives of a batch of pixels, or what a cache kept of that."""
    if "image" in batch:
        return method.encode_images(params, frozen, batch["image"])
    return {name: x.astype("float32") for name, x in batch.items() if name != "label"}


def train_batches(run: Run, mesh: Mesh, start: int) -> Iterator[loader.Batch]:
    """This process's rows of every training batch from a step on."""
    options = {
        "batch_size": run.config.train.batch_size,
        "epochs": sum(stage.passes for stage in run.stages),
        "seed": run.config.seed,
        "start": start,
        "rows": sharding.local_rows(run.config.train.batch_size, mesh),
        "drop_last": run.config.train.drop_last,
    }
    data = run.config.data
    augmentation = loader.Augmentation(tuple(data.crop_scale), data.flip)
    if run.config.cache.views:
        return cache.train_batches(
            cached(run, run.method, run.train, mesh, augmentation), **options
        )
    return loader.train_batches(
        run.train,
        resize=run.resize,
        augmentation=augmentation,
        workers=run.workers,
        **options,
    )


def test_batches(
    run: Run, method: Method, source: Source, mesh: Mesh, title: str
) -> Iterator[loader.Batch]:
    """Every image of a source once, on the devices: pixels, or features as a method has them."""
    size = run.config.eval.batch_size
    options = {"batch_size": size, "rows": sharding.local_rows(size, mesh)}
    if run.config.cache.views:
        batches = cache.test_batches(cached(run, method, source, mesh), **options)
    else:
        options |= {"resize": run.resize, "workers": run.workers}
        batches = loader.test_batches(source, **options)
    for batch in tqdm(batches, title, -(-len(source) // size), disable=hosts.no_bar()):
        yield sharding.put_batch(batch, mesh)


def cached(
    run: Run,
    method: Method,
    source: Source,
    mesh: Mesh,
    augmentation: loader.Augmentation | None = None,
) -> cache.Cache:
    """The features of a source on disk, made now if they are not there.

    Args:
      run: whose images they are.
      method: what encodes them.
      source: the images.
      mesh: the devices.
      augmentation: of training images, which have as many views as `cache.views` says; None for
        test images.

    Raises:
      InputError: they cannot be written or read, or the disk is too small.
    """
    encoder = cache.Encoder(
        encode=Encode(method),
        frozen={name: run.frozen[name] for name in ("vision", "logit_scale")},
        settings={"clip": run.settings["clip.sha256"]},
        resize=run.resize,
        dtype=cache.STORED[run.config.precision],
        batch_size=run.config.eval.batch_size,
        mesh=mesh,
        workers=run.workers,
        folder=run.config.cache.folder,
    )
    views = augmentation and cache.Views(run.config.cache.views, run.config.seed, augmentation)
    return cache.load(encoder, source, views)


@dataclasses.dataclass(frozen=True)
class Encode:
    """Encodes pixels by a method that needs no parameters for it."""

    method: Method

    def __call__(self, frozen: dict, pixels: jax.Array) -> dict:
        return self.method.encode_images({}, frozen, pixels)
