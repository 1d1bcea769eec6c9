"""How fast images are read, decoded, resized and batched, beside the bare Pillow calls."""

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sotglp_jax.data import loader, transforms
from sotglp_jax.data.pixels import read_image
from sotglp_jax.data.sources import Source, image_files

PHOTOS, SIZE = 64, (500, 375)  # ImageNet's usual size
TIMES = 3  # measurements of each
WARM_UP, IMAGES = 4, 640  # batches that do not count, images
AUGMENTATION = loader.Augmentation((0.08, 1.0), True)


def photographs(folder: Path) -> Source:
    """Draws JPEG files with about a photograph's detail; each is read several times."""
    rng = np.random.default_rng(0)
    for i in range(PHOTOS):
        shapes = Image.fromarray(rng.integers(0, 256, (24, 32, 3)).astype(np.uint8))
        smooth = np.asarray(shapes.resize(SIZE, Image.Resampling.BICUBIC)).astype(int)
        grain = rng.integers(-12, 13, smooth.shape)
        pixels = (smooth + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg", quality=90)
    return image_files(folder, [f"{i % PHOTOS}.jpg" for i in range(IMAGES)], [0] * IMAGES)


def rates(workers: int, batch_size: int, image_size: int) -> list[dict]:
    """Images per second of the loader and of a plain pool, in turn.

    Args:
      workers: processes; 0 compares the loader's threads with a single process.
      batch_size: B.
      image_size: R.

    Returns:
      {"ours": images/s, "pool": images/s}, `TIMES` times.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = photographs(Path(folder))
        return [
            {
                "ours": _rate(_ours(source, workers, batch_size, image_size), batch_size),
                "pool": _rate(_pool(source, workers, batch_size, image_size), batch_size),
            }
            for _ in range(TIMES)
        ]


def _rate(batches: Iterator, batch_size: int) -> float:
    arrivals = [time.perf_counter() for _ in batches][
        WARM_UP:
    ]  # without the workers' start and end
    return batch_size * (len(arrivals) - 1) / (arrivals[-1] - arrivals[0])


def _ours(source: Source, workers: int, batch_size: int, image_size: int) -> Iterator:
    return loader.train_batches(
        source,
        resize=transforms.Resize(image_size),
        batch_size=batch_size,
        epochs=2,
        seed=0,
        augmentation=AUGMENTATION,
        workers=workers,
    )


def _pool(source: Source, workers: int, batch_size: int, image_size: int) -> Iterator:
    """The loader's Pillow calls in worker processes, stacked in this one."""
    jobs = [(source.read.root / name, image_size) for name in source.names] * 2
    with multiprocessing.get_context("spawn").Pool(max(workers, 1)) as pool:
        pixels = []
        for image in pool.imap(_plain, jobs, chunksize=8):
            pixels.append(image)
            if len(pixels) == batch_size:
                yield np.stack(pixels)
                pixels = []


def _plain(job: tuple[Path, int]) -> np.ndarray:
    path, size = job
    rng, resize = np.random.default_rng(0), transforms.Resize(size)
    image = read_image(path)
    return transforms.flip(transforms.random_resized_crop(image, resize, (0.08, 1.0), rng), rng)
