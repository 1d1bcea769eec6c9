"""What a folder or split file holds, before anything is trained on it."""

import concurrent.futures
import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from sotglp_jax.data import datasets, duplicates, fewshot, loader, sheet
from sotglp_jax.data.sources import Dataset, FileReader, Source
from sotglp_jax.errors import InputError

SHOWN = 40  # classes of the table
SHOTS = "shots.txt"  # in the folder of the contact sheet


def survey(given: str, root: str, named_by: str, shots: int, seed: int, out: Path | None) -> bool:
    """Prints what a data set of one's own holds; returns whether a run would take it.

    Args:
      given: a folder, or a split file.
      root: where the images of a split file lie; "" is its folder or its `images`.
      named_by: see `datasets.resolve`.
      shots: images per class that a run would draw.
      seed: of that run.
      out: a folder for contact sheets and the list of the shots; None for none.

    Raises:
      InputError: its classes or images are not to be told, or `out` cannot be written.
    """
    dataset = datasets.resolve(given, root, allow_partial=True, named_by=named_by)
    faults = loader.unreadable(list(dataset.parts.values()))
    sound = _without(dataset, {path for path, _ in faults})
    train, val = _drawn(sound, shots, seed)
    images = ", ".join(f"{len(source)} {part}" for part, source in dataset.parts.items())
    print(f"{dataset.name}: {len(dataset.class_names)} classes; images: {images}")
    print(*_table(dataset, train), *map(_indented, _said(dataset, sound)), sep="\n")
    for path, fault in faults[:10]:
        print(f"  unreadable: {path} ({fault})")
    print(f"  unreadable files: {len(faults)}")
    print(
        f"  shots={shots} seed={seed} draws {len(train)} training and {len(val)} validation images"
    )
    if out:
        written = sheet.write(out, sound, set(train.names))
        _write(out / SHOTS, "".join(f"{name}\n" for name in (*train.names, *val.names)))
        print(f"  contact sheets: {', '.join(map(str, written))}; the shots: {out / SHOTS}")
    print(f"  next: {_next(given, dataset, faults, shots, named_by)}")
    return not faults and not _empty(dataset)


def _indented(line: str) -> str:
    return f"  {line}"


def _drawn(dataset: Dataset, shots: int, seed: int) -> tuple[Source, Source]:
    """The shots of CoOp's sampler."""
    pools = dataset.train, dataset.val
    chosen = fewshot.coop([pool.labels for pool in pools], [shots, min(shots, 4)], seed)
    return tuple(pool.take(places) for pool, places in zip(pools, chosen, strict=True))


def _table(dataset: Dataset, train: Source) -> Iterator[str]:
    """A line a class with its images of every part, of many classes those with the fewest."""
    columns = {part: Counter(source.labels) for part, source in dataset.parts.items()}
    columns["shots"] = Counter(train.labels)
    labels = range(len(dataset.class_names))
    if len(labels) > SHOWN:
        labels = sorted(labels, key=lambda label: columns["train"][label])[:SHOWN]
    names = [_name(dataset, label) for label in labels]
    width = max(map(len, (*names, "class")))
    yield f"  {'class':<{width}}" + "".join(f"{column:>8}" for column in columns)
    for label, name in zip(labels, names, strict=True):
        yield f"  {name:<{width}}" + "".join(f"{x[label]:>8}" for x in columns.values())
    if more := len(dataset.class_names) - len(labels):
        yield f"  and {more} classes with as many training images or more"


def _name(dataset: Dataset, label: int) -> str:
    """A class as its folder is called, and as prompts call it where that is another name."""
    name, folder = dataset.class_names[label], dataset.class_ids[label]
    return name if name == folder else f"{folder} ({name})"


def _said(dataset: Dataset, sound: Dataset) -> Iterator[str]:
    """Sizes, what was left out, and what occurs twice."""
    sizes = _sizes(list(sound.parts.values()))
    if sizes:
        low, middle, high = (sizes[i] for i in (0, len(sizes) // 2, -1))
        said = (f"{width} x {height}" for width, height in (low, middle, high))
        yield "sizes by the short side: {} the smallest, {} the median, {} the largest".format(
            *said
        )
    yield from (f"note: {note}" for note in dataset.notes)
    yield from (f"warning: {warning}" for warning in duplicates.warnings(dataset))
    if repeated := duplicates.repeated(dataset):
        yield f"note: {repeated}"


def _sizes(sources: Sequence[Source]) -> list[tuple[int, int]]:
    """Width and height of every image file, in the order of their short sides."""
    files = {
        source.read.root / name: None
        for source in sources
        if isinstance(source.read, FileReader)
        for name in source.names
    }
    with concurrent.futures.ThreadPoolExecutor(loader.cores()) as pool:
        return sorted(pool.map(_size, files), key=min)


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _without(dataset: Dataset, faulty: set[Path]) -> Dataset:
    def sound(source: Source) -> Source:
        if not isinstance(source.read, FileReader):
            return source
        paths = [source.read.root / name for name in source.names]
        return source.take([i for i, path in enumerate(paths) if path not in faulty])

    parts = {part: sound(source) for part, source in dataset.parts.items()}
    return dataclasses.replace(dataset, **parts)


def _empty(dataset: Dataset) -> list[str]:
    """Classes that there is nothing to train on."""
    there = set(dataset.train.labels)
    return [name for label, name in enumerate(dataset.class_names) if label not in there]


def _next(given: str, dataset: Dataset, faults: Sequence, shots: int, named_by: str) -> str:
    if faults:
        return "restore the unreadable files, or take them out"
    if empty := _empty(dataset):
        return f'add training images of "{empty[0]}", or leave the class out'
    named = f" data.names={named_by}" * bool(named_by)
    return f"sotglp train dataset={given} clip=ViT-B/16 shots={shots}{named}"


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, "utf-8", "surrogateescape")
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}): choose another --out."
        ) from None
