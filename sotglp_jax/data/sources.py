"""Where images come from: a source is a length and [i] -> {image, label, name}.

`image` is an RGB Pillow image, `label` an int, `name` the image's name within its data set.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from sotglp_jax.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


@dataclasses.dataclass(frozen=True)
class Source:
    """Images with labels, known without reading an image.

    Attributes:
      read: gives the RGB image of a key; it travels to worker processes.
      keys: one per image: a file's name, or a position.
      names: what lists of images call them.
      labels: class indices.
      origin: the data set, its version and its place: where it and a key are the same, so is the
        image, as long as the `states` of the reader are.
    """

    read: Callable[[Any], Image.Image]
    keys: Sequence
    names: Sequence[str]
    labels: Sequence[int]
    origin: str

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict:
        image = self.read(self.keys[index])
        return {"image": image, "label": self.labels[index], "name": self.names[index]}

    def take(self, indices: Sequence[int]) -> "Source":
        """Some of the images, in the given order."""
        taken = (tuple(x[i] for i in indices) for x in (self.keys, self.names, self.labels))
        return Source(self.read, *taken, self.origin)

    @property
    def on_disk(self) -> bool:
        """Whether files are behind the images, whose decoding is worth several processes."""
        return hasattr(self.read, "states")

    def states(self) -> list[str]:
        """What changes when files behind the images do: their sizes and times of change."""
        return self.read.states(self.keys) if self.on_disk else []


@dataclasses.dataclass(frozen=True)
class FileReader:
    """Reads image files below a folder by their relative names."""

    root: Path

    def __call__(self, name: str) -> Image.Image:
        return read_image(self.root / name)

    def states(self, names: Sequence[str]) -> list[str]:
        """Size and time of change of every file."""
        found = (os.stat(self.root / name) for name in names)
        return [f"{state.st_size} {state.st_mtime_ns}" for state in found]


def image_files(root: Path, names: Sequence[str], labels: Sequence[int]) -> Source:
    """A source of image files, named relative to `root`."""
    names = tuple(names)
    return Source(FileReader(root), names, names, tuple(labels), f"files {root.absolute()}")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A classification task.

    Attributes:
      name: what results call it.
      class_names: one name per label; two classes may share one.
      template: zero-shot sentence with {} for the class name.
      train: pool that the shots are drawn from.
      val: pool for validation shots, may be empty.
      test: images to be judged on.
      class_ids: what tells classes apart, within and between data sets, such as WordNet's numbers;
        the names where a data set has nothing better.
    """

    name: str
    class_names: tuple[str, ...]
    template: str
    train: Source
    val: Source
    test: Source
    class_ids: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.class_ids:
            names = self.class_names
            if len(set(names)) < len(names):
                names = tuple(f"{label} {name}" for label, name in enumerate(names))
            object.__setattr__(self, "class_ids", names)

    @property
    def parts(self) -> dict[str, Source]:
        """The three sources by name."""
        return {"train": self.train, "val": self.val, "test": self.test}


def choose_classes(dataset: Dataset, labels: range) -> Dataset:
    """The task of telling apart some neighbouring classes, numbered from 0 again."""

    def choose(source: Source) -> Source:
        chosen = source.take([i for i, label in enumerate(source.labels) if label in labels])
        return dataclasses.replace(
            chosen, labels=tuple(label - labels.start for label in chosen.labels)
        )

    return dataclasses.replace(
        dataset,
        class_names=dataset.class_names[labels.start : labels.stop],
        class_ids=dataset.class_ids[labels.start : labels.stop],
        **{part: choose(source) for part, source in dataset.parts.items()},
    )


def read_image(file: Path | BinaryIO) -> Image.Image:
    """Decodes a file of any mode to RGB; 16-bit grey keeps its high byte.

    Raises:
      OSError: the file is missing, no image, or cut short.
    """
    with Image.open(file) as image:
        image.load()
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of an image of any mode.

    Raises:
      OSError: pixels without a known range (floats, 32-bit integers above 16 bits).
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # convert() would clip everything above 255 to white
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise OSError("32-bit pixels")
        wide = image.mode.startswith("I;16") or pixels.max() > 255
        return Image.fromarray((pixels >> 8 * wide).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise OSError("floating-point pixels")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def list_images(folder: Path, root: Path) -> list[str]:
    """Names, relative to `root` and sorted, of the images anywhere below `folder`."""
    return sorted(_walk(str(folder), str(folder.relative_to(root))))


def _walk(folder: str, name: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            below = entry.name if name == "." else f"{name}/{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, below)
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                yield below


def list_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones; none where it is not there."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def class_folders(folder: Path, root: Path, labels: dict[str, int]) -> Source:
    """The images of `folder/<class>/`, named relative to `root`; `labels` by folder name."""
    names, numbers = [], []
    for name, label in labels.items():
        found = list_images(folder / name, root) if (folder / name).is_dir() else []
        names += found
        numbers += [label] * len(found)
    return image_files(root, names, numbers)


def image_folder(root: Path, template: str) -> Dataset:
    """`root/<class>/*.jpg`, or the same below `root/train`, `root/val` and `root/test`.

    Without folders in `train` every class is split 50/20/30, as CoOp splits what comes unsplit.
    With `train` and `val` alone, `val` is the test part.

    Raises:
      InputError: no class folder, no image, or a test class that is not in `train`.
    """
    if list_folders(root / "train"):
        return _presplit_folder(root, template)
    classes = list_folders(root)
    whole = class_folders(root, root, {name: i for i, name in enumerate(classes)})
    _check_some(whole, root)
    parts = split_by_class(whole.labels)
    return Dataset(root.absolute().name, tuple(classes), template, *map(whole.take, parts))


def _presplit_folder(root: Path, template: str) -> Dataset:
    classes = list_folders(root / "train")
    labels = {name: i for i, name in enumerate(classes)}
    parts = {part: class_folders(root / part, root, labels) for part in ("train", "val", "test")}
    _check_some(parts["train"], root / "train")
    for part in ("val", "test"):
        if strange := sorted(set(list_folders(root / part)) - set(classes)):
            raise InputError(
                f'{root / part} holds a class "{strange[0]}" that {root / "train"} lacks: remove '
                "it or add training images."
            )
    if not len(parts["test"]):
        parts["test"], parts["val"] = parts["val"], parts["test"]
    if not len(parts["test"]):
        raise InputError(
            f"{root} has train/ but no images in test/ or val/: add test/<class>/ folders, or put "
            "the class folders into one folder to have them split."
        )
    return Dataset(root.absolute().name, tuple(classes), template, **parts)


def _check_some(source: Source, folder: Path) -> None:
    if not len(source):
        raise InputError(
            f"{folder} holds no images: expected {folder}/<class>/<image>, with endings such as "
            "jpg or png."
        )


def split_by_class(labels: Sequence[int], seed: int = 1) -> tuple[tuple[int, ...], ...]:
    """Indices of 50 % / 20 % / 30 % of every class; of two images, one each to train and test."""
    rng, labels = np.random.default_rng(seed), np.array(labels)
    parts = ([], [], [])
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        ends = np.rint(np.array([0.5, 0.7]) * len(of_class)).astype(int)
        for part, indices in zip(parts, np.split(of_class, ends), strict=True):
            part.extend(sorted(indices.tolist()))
    return tuple(map(tuple, parts))
