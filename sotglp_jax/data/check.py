"""What is there of a data set of the field, and what to do next."""

from pathlib import Path

from sotglp_jax.data import datasets, loader, records
from sotglp_jax.data.catalog import ENTRIES, PARTS, Entry
from sotglp_jax.data.sources import Dataset
from sotglp_jax.errors import InputError


def check(name: str, root: Path) -> bool:
    """Prints what is found of a data set below a data root; returns whether all of it is sound."""
    entry = ENTRIES[name]
    if prepared := records.find(name, str(root)):
        print(f"{name}: found, prepared as {prepared.test.read.directory}")
        return _report(name, entry, prepared, prepared, None, root)
    try:
        listed, folder = datasets.locate(name, root)
    except InputError as error:
        print(f"{name}: damaged\n  {error}")
        return False
    if listed is None:
        print(f"{name}: not found\n  looked in: {datasets.looked_in(entry, root)}")
        if folder:
            print(f"  {folder} is there, but not what tells its labels")
        print(f"  next: {_next(name, entry, root)}")
        return False
    print(f"{name}: found in {folder}" + (f", with {entry.split}" if entry.split else ""))
    there = datasets.present(listed)
    unreadable = loader.unreadable(list(there.parts.values()))
    return _report(name, entry, listed, there, unreadable, root)


def _report(
    name: str, entry: Entry, listed: Dataset, there: Dataset, unreadable: list | None, root: Path
) -> bool:
    """Prints numbers, faults and the next step; shards were checked when they were written."""
    for part, expected in zip(PARTS, entry.images, strict=True):
        source = there.parts[part]
        if expected or len(source):
            line = f"  {part:<6}{len(source):>9} of {expected} images"
            if entry.classes:
                line += f", {len(set(source.labels))} of {entry.classes} classes"
            print(line)
    if unreadable is not None:
        for path, fault in unreadable[:10]:
            print(f"  unreadable: {path} ({fault})")
        print(f"  unreadable files: {len(unreadable)}")
    whole = datasets.counts(there) == entry.images and not unreadable
    if whole and entry.classes:
        step = f"ready: --config=configs/fewshot.py:dataset={name} --config.data.root={root}"
    elif whole:
        step = "ready, as an out-of-distribution set"
    else:
        missing = sum(datasets.counts(listed)) - sum(datasets.counts(there))
        step = f"unpack its archives again: {missing} of the listed files are missing"
    print(f"  next: {step}")
    return whole


def _next(name: str, entry: Entry, root: Path) -> str:
    steps = by_hand(entry, root)
    if any(not (root / download.gives).exists() for download in entry.downloads):
        steps.insert(0, f"python -m sotglp_jax.data fetch {name} --root {root}")
    return "; then ".join(steps)


def by_hand(entry: Entry, root: Path) -> list[str]:
    """What of a data set has to be got by hand and is not there yet, and from where."""
    return [
        f"put {root / path} there by hand, from {origin}"
        for path, origin in entry.by_hand
        if not (root / path).exists()
    ]
