"""Batches from sources, by grain: deterministic, and resumed by position alone."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from PIL import Image
from tqdm import tqdm

from sotglp_jax.data import transforms
from sotglp_jax.data.pixels import explain, to_rgb
from sotglp_jax.data.sources import FileReader, Source
from sotglp_jax.data.transforms import Resize
from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import PADDING
from sotglp_jax.paths import AnyPath, in_bucket, opened

# {"image": uint8 (B, R, R, 3), "label": int32 (B,)}; the label of padding is PADDING.
Batch = dict[str, np.ndarray]

# Batches of an epoch by what becomes of its last one where that is short: it is left out "always",
# "unless_only" it is there, or "never".
STEPS: dict[str, Callable[[int, int], int]] = {
    "unless_only": lambda images, batch_size: max(images // batch_size, 1),
    "always": lambda images, batch_size: images // batch_size,
    "never": lambda images, batch_size: -(-images // batch_size),
}
AHEAD = 2  # batches of a worker that are made before they are asked for


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are varied.

    Attributes:
      scale: range of RandomResizedCrop's area; () resizes and crops as for a test image.
      flip: mirror every second image.
    """

    scale: tuple[float, ...]
    flip: bool


@dataclasses.dataclass(frozen=True)
class _Train:
    resize: Resize
    augmentation: Augmentation

    def __call__(self, example: dict, rng: np.random.Generator) -> dict:
        image, scale = example["image"], self.augmentation.scale
        if scale:
            pixels = transforms.random_resized_crop(image, self.resize, scale, rng)
        else:
            pixels = transforms.resize_and_crop(image, self.resize)
        if self.augmentation.flip:
            pixels = transforms.flip(pixels, rng)
        return {"image": pixels, "label": example["label"]}


@dataclasses.dataclass(frozen=True)
class _Test:
    resize: Resize

    def __call__(self, example: dict) -> dict:
        pixels = transforms.resize_and_crop(example["image"], self.resize)
        return {"image": pixels, "label": example["label"]}


@dataclasses.dataclass(frozen=True)
class _Batches:
    """Batches of all epochs as a grain source: of each, only the rows asked for are decoded.

    Attributes:
      examples: grain's MapDataset of one epoch; it goes on to the next where indices do.
      image_size: R.
      batch_size: B.
      steps: batches of an epoch.
      epochs: their number.
      rows: of each batch, ascending; those from B on are padding.
    """

    examples: Sequence[dict]
    image_size: int
    batch_size: int
    steps: int
    epochs: int
    rows: Sequence[int]

    def __len__(self) -> int:
        return self.steps * self.epochs

    def __getitem__(self, index: int) -> Batch:
        """A short batch is filled up with black images labelled `PADDING`."""
        epoch, step = divmod(index, self.steps)
        images = len(self.examples)
        places = [step * self.batch_size + row for row in self.rows if row < self.batch_size]
        found = [self.examples[epoch * images + place] for place in places if place < images]
        batch = {
            "image": np.zeros((len(self.rows), self.image_size, self.image_size, 3), np.uint8),
            "label": np.full(len(self.rows), PADDING, np.int32),
        }
        for i, example in enumerate(found):
            batch["image"][i], batch["label"][i] = example["image"], example["label"]
        return batch


def train_batches(
    source: Source,
    *,
    resize: Resize,
    batch_size: int,
    epochs: int,
    seed: int,
    augmentation: Augmentation,
    workers: int,
    start: int = 0,
    rows: Sequence[int] | None = None,
    drop_last: str = "unless_only",
) -> Iterator[Batch]:
    """Shuffled and augmented batches of all epochs, each epoch in its `order`.

    Order and augmentation are functions of seed and position, so `start=n` goes on exactly as
    if the first n batches had been taken.

    Args:
      source: training images.
      resize: R and the interpolation.
      batch_size: B.
      epochs: how often every image is shown.
      seed: randomness.
      augmentation: see there.
      workers: processes that decode; 0 decodes in threads of this one.
      start: batches to leave out at the beginning.
      rows: of every batch, those to give, ascending; None gives all.
      drop_last: what becomes of an epoch's last, short batch, see `STEPS`; it is padded if kept.
    """
    examples = _shuffled(source, seed).random_map(_Train(resize, augmentation))
    steps = STEPS[drop_last](len(source), batch_size)
    rows = range(batch_size) if rows is None else rows
    batches = _Batches(examples, resize.size, batch_size, steps, epochs, rows)
    return _iterate(batches, workers, start)


def order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Which of `count` images stands at each place of an epoch of training."""
    places = _shuffled(range(count), seed)
    return np.array([places[epoch * count + place] for place in range(count)])


def _shuffled(source: Sequence, seed: int):
    """Every epoch in another order, a function of seed and number of examples."""
    import grain

    return grain.MapDataset.source(source).seed(seed).shuffle()


def test_batches(
    source: Source,
    *,
    resize: Resize,
    batch_size: int,
    workers: int,
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Every image once, in order; the last batch is padded. Arguments as in `train_batches`."""
    import grain

    examples = grain.MapDataset.source(source).map(_Test(resize))
    steps = -(-len(source) // batch_size)
    rows = range(batch_size) if rows is None else rows
    return _iterate(_Batches(examples, resize.size, batch_size, steps, 1, rows), workers)


def _iterate(batches: _Batches, workers: int, start: int = 0) -> Iterator[Batch]:
    import grain

    if workers:
        return _from_workers(batches, workers, start)
    threads = grain.ReadOptions(num_threads=cores(), prefetch_buffer_size=4)
    return iter(grain.MapDataset.source(batches)[start:].to_iter_dataset(threads))


def _from_workers(batches: _Batches, workers: int, start: int) -> Iterator[Batch]:
    """Batches through pipes: shared memory is small in containers, and outlives killed workers."""
    pool, indices = _pool(batches, workers), iter(range(start, len(batches)))
    submit = functools.partial(pool.submit, _batch)
    try:
        waiting = collections.deque(map(submit, itertools.islice(indices, AHEAD * workers)))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(map(submit, itertools.islice(indices, 1)))
    except BrokenProcessPool:
        raise InputError(
            f"one of {workers} workers that decode images was killed, as the system does where "
            "memory is short: set --config.data.workers to fewer, or to 0."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(batches: _Batches, workers: int) -> concurrent.futures.ProcessPoolExecutor:
    options = {"initializer": _start_worker, "initargs": (batches,)}
    try:
        context = multiprocessing.get_context("spawn")
        return concurrent.futures.ProcessPoolExecutor(workers, context, **options)
    except OSError as error:  # of the semaphores, which Linux keeps in /dev/shm
        raise InputError(
            f"no workers can be started to decode images ({error.strerror}): make a little room in "
            "/dev/shm, or set --config.data.workers=0."
        ) from None


def cores() -> int:
    """Processors that this process may use, at most 16."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), 16)
    return min(os.cpu_count() or 1, 16)


def _start_worker(batches: _Batches) -> None:
    """Leaves Ctrl-C and SIGTERM, which reach the whole group, to the parent, and ends with it."""
    global _batches
    _batches = batches
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _batch(index: int) -> Batch:
    return _batches[index]


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def unreadable(sources: list[Source]) -> list[tuple[AnyPath, str]]:
    """Decodes every image file once; the missing, damaged and truncated ones with their fault."""
    files = _files(sources)
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        faults = tqdm(
            pool.map(_fault, files),
            total=len(files),
            desc="checking images",
            disable=None,
            leave=False,
        )
        found = zip(files, faults, strict=True)
        return [(read.root / name, fault) for (read, name), fault in found if fault]


def check_images(sources: list[Source]) -> None:
    """Makes sure of every image file, so that a bad one stops the run before it starts.

    Raises:
      InputError: lists the missing, damaged and truncated files.
    """
    if bad := unreadable(sources):
        listed = "; ".join(f"{path} ({fault})" for path, fault in bad[:20])
        more = f"; and {len(bad) - 20} more" if len(bad) > 20 else ""
        raise InputError(
            f"{len(bad)} of {len(_files(sources))} images cannot be read: {listed}{more}: restore "
            "them or take them out of the data set."
        )


def _files(sources: list[Source]) -> list[tuple[FileReader, str]]:
    return [
        (source.read, name)
        for source in sources
        if isinstance(source.read, FileReader)
        for name in source.names
    ]


def _fault(file: tuple[FileReader, str]) -> str:
    """What keeps a file from being read as its reader does; "" for nothing."""
    read, name = file
    path = read.root / name
    if not in_bucket(path) and path.exists() and not path.is_file():
        return "no file"  # a pipe would wait for its other end
    try:
        with Image.open(opened(path)) as image:
            # Reads the whole file but, of a JPEG, reconstructs an eighth of the size.
            image.draft("RGB", (1, 1))
            image.load()
            to_rgb(image, read.upright)
    except FileNotFoundError:
        return "missing"
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        return explain(error, str(path))
    return ""
