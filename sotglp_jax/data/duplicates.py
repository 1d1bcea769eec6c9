"""Images that are in a data set more often than once."""

import collections
import functools
import hashlib
import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

from sotglp_jax.data.sources import Dataset, FileReader
from sotglp_jax.paths import AnyPath, in_bucket

MOST = 20_000  # images up to which files are compared; above, names alone


class Copy(NamedTuple):
    """One of several places of an image."""

    part: str
    label: int
    path: AnyPath


def warnings(dataset: Dataset) -> list[str]:
    """Sentences about test images that are trained on, and images under two labels.

    Files are compared by their path, and, where there are not too many and on disk, by their
    content, which is read only of files of the same size.
    """
    copies = [list(group) for group in _groups(dataset) if len(group) > 1]
    leaks = [g for g in copies if {"test"} < {copy.part for copy in g}]
    labels = [g for g in copies if len({copy.label for copy in g}) > 1]
    said = []
    if leaks:
        said.append(
            f"of the test images, {len(leaks)} are among those for training or validation, "
            f"{_example(leaks[0])}: accuracies are too high"
        )
    if labels:
        names = dataset.class_names
        under = " and ".join(sorted({f'"{names[copy.label]}"' for copy in labels[0]}))
        said.append(f"under two labels: {len(labels)}, {_example(labels[0])} ({under})")
    return said


def repeated(dataset: Dataset) -> str:
    """A sentence about images that a part holds more often than once under one label, or ""."""
    kinds = [[(copy.part, copy.label) for copy in group] for group in _groups(dataset)]
    groups = [x for x in kinds if len(set(x)) < len(x)]
    if not groups:
        return ""
    more = sum(len(x) - len(set(x)) for x in groups)
    return f"copies of other images of their part and class: {more}"


def _example(group: list[Copy]) -> str:
    first, *_, last = group
    return f"such as {first.path} ({first.part}) and {last.path} ({last.part})"


def _groups(dataset: Dataset) -> Iterator[list[Copy]]:
    by_path = collections.defaultdict(list)
    for part, source in dataset.parts.items():
        if isinstance(source.read, FileReader):
            for name, label in zip(source.names, source.labels, strict=True):
                path = source.read.root / name
                by_path[os.path.normpath(path)].append(Copy(part, label, path))
    if len(by_path) > MOST or any(in_bucket(group[0].path) for group in by_path.values()):
        return iter(by_path.values())
    by_size = collections.defaultdict(list)
    for path, group in by_path.items():
        if os.path.isfile(path):
            by_size[os.path.getsize(path)].append((path, group))
    return itertools.chain.from_iterable(map(_by_content, by_size.values()))


def _by_content(files: list[tuple[str, list[Copy]]]) -> Iterator[list[Copy]]:
    if len(files) == 1:
        yield files[0][1]
        return
    same = collections.defaultdict(list)
    for path, group in files:
        same[_digest(path, os.stat(path).st_mtime_ns)] += group
    yield from same.values()


@functools.cache  # the runs of a study look at the same files
def _digest(path: str, _changed: int) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
