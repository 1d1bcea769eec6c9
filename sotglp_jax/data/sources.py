"""Where images come from: a source is a length and [i] -> {image, label, name}.

`image` is an RGB Pillow image, `label` an int, `name` the image's name within its data set.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from sotglp_jax.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


class Source(Protocol):
    """Images with labels, known without reading an image."""

    labels: Sequence[int]
    names: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...

    def take(self, indices: Sequence[int]) -> "Source":
        """Some of the images, in the given order."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A classification task.

    Attributes:
      name: what results call it.
      class_names: one name per label.
      template: zero-shot sentence with {} for the class name.
      train: pool that the shots are drawn from.
      val: pool for validation shots, may be empty.
      test: images to be judged on.
    """

    name: str
    class_names: tuple[str, ...]
    template: str
    train: Source
    val: Source
    test: Source


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Image files below a folder.

    Attributes:
      root: the folder.
      names: paths relative to it.
      labels: class indices.
    """

    root: Path
    names: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        image = read_image(self.root / self.names[index])
        return {"image": image, "label": self.labels[index], "name": self.names[index]}

    def take(self, indices: Sequence[int]) -> "ImageFiles":
        """Some of the files, in the given order."""
        names, labels = (tuple(x[i] for i in indices) for x in (self.names, self.labels))
        return ImageFiles(self.root, names, labels)


def read_image(path: Path) -> Image.Image:
    """Decodes a file of any mode to RGB; 16-bit grey keeps its high byte.

    Raises:
      OSError: the file is missing, no image, or cut short.
    """
    with Image.open(path) as image:
        image.load()
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of an image of any mode.

    Raises:
      OSError: pixels without a known range (floats, 32-bit integers above 16 bits).
    """
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


def image_folder(root: Path, template: str) -> Dataset:
    """`root/<class>/*.jpg`, or the same below `root/train`, `root/val` and `root/test`.

    Without folders in `train` every class is split 50/20/30, as CoOp splits what comes unsplit.
    With `train` and `val` alone, `val` is the test part.

    Raises:
      InputError: no class folder, no image, or a test class that is not in `train`.
    """
    if any((root / "train").glob("*/")):
        return _presplit_folder(root, template)
    names, labels, classes = _list_classes(root, root)
    parts = _split_by_class(labels)
    whole = ImageFiles(root, names, labels)
    return Dataset(root.name, classes, template, *map(whole.take, parts))


def _presplit_folder(root: Path, template: str) -> Dataset:
    names, labels, classes = _list_classes(root / "train", root)
    parts = {"train": ImageFiles(root, names, labels)}
    for part in ("val", "test"):
        names, labels = (), ()
        if (root / part).is_dir():
            names, labels, _ = _list_classes(root / part, root, classes)
        parts[part] = ImageFiles(root, names, labels)
    if not parts["test"]:
        parts["test"], parts["val"] = parts["val"], parts["test"]
    if not parts["test"]:
        raise InputError(
            f"{root} has train/ but no images in test/ or val/: add test/<class>/ folders, or put "
            "the class folders into one folder to have them split."
        )
    return Dataset(root.name, classes, template, **parts)


def _list_classes(folder: Path, root: Path, classes: Sequence[str] = ()):
    """Names relative to root, labels, and classes; given classes, no other may appear."""
    found = sorted(d.name for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))
    if classes and (strange := sorted(set(found) - set(classes))):
        raise InputError(
            f'{folder} holds a class "{strange[0]}" that {root / "train"} lacks: remove it or add '
            "training images."
        )
    classes = tuple(classes) or tuple(found)
    names, labels = [], []
    for label, name in enumerate(classes):
        below = (p.relative_to(root) for p in (folder / name).rglob("*"))
        files = sorted(p for p in below if p.suffix.lower() in SUFFIXES and not _hidden(p))
        names += map(str, files)
        labels += [label] * len(files)
    if not names:
        raise InputError(
            f"{folder} holds no images: expected {folder}/<class>/<image>, with endings such as "
            "jpg or png."
        )
    return tuple(names), tuple(labels), classes


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _split_by_class(labels: Sequence[int], seed: int = 1) -> tuple[tuple[int, ...], ...]:
    """Indices of 50 % / 20 % / 30 % of every class; of two images, one each to train and test."""
    rng, labels = np.random.default_rng(seed), np.array(labels)
    parts = ([], [], [])
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        ends = np.rint(np.array([0.5, 0.7]) * len(of_class)).astype(int)
        for part, indices in zip(parts, np.split(of_class, ends), strict=True):
            part.extend(sorted(indices.tolist()))
    return tuple(map(tuple, parts))
