"""Folders of class folders, as people have them."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sotglp_jax.data.files import count_images, count_system, describe, list_folders, list_images
from sotglp_jax.data.sources import Dataset, Source, image_files
from sotglp_jax.errors import InputError

# Spellings of the parts, in any case and beside the words that say nothing.
PARTS = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation", "valset", "dev"),
    "test": ("test", "testing", "tests", "testset"),
}
SAY_NOTHING = {"set", "sets", "images", "image", "imgs", "img", "data", "dataset", "seg", "split"}


def image_folder(root: Path, template: str) -> Dataset:
    """`root/<class>/<image>`, or the same below folders for training, validation and test.

    Parts are known by the spellings of `PARTS`. A single folder around them is followed. Without
    parts every class is split 50/20/30, as CoOp splits what comes unsplit; with parts for training
    and validation alone, the latter is the test part. Images are turned upright and put on white.

    Raises:
      InputError: classes, parts or images are not to be told; says where and what to do.
    """
    left_out, notes = Counter(), []
    top = _inside(root, notes)
    folders = _part_folders(top, notes)
    if folders:
        classes, parts = _presplit(root, folders, left_out)
        _count_strangers(root, top, folders, left_out)
    else:
        classes, parts = _unsplit(root, top, left_out)
    _count_beside((top, *folders.values()), left_out)
    if left_out:
        notes.append(f"left out: {describe(left_out)}")
    return Dataset(root.absolute().name, classes, template, **parts, notes=tuple(notes))


def class_folders(
    folder: Path,
    root: Path,
    labels: dict[str, int],
    left_out: Counter[str] | None = None,
    upright: bool = False,
) -> Source:
    """The images of `folder/<class>/`.

    Args:
      folder: above the class folders.
      root: what the images are named relative to.
      labels: by the name of the class folder.
      left_out: as `files.list_images` counts.
      upright: see `pixels.to_rgb`.
    """
    names, numbers = [], []
    for name, label in labels.items():
        below = folder / name
        found = list_images(below, root, left_out) if below.is_dir() else []
        names += found
        numbers += [label] * len(found)
    return image_files(root, names, numbers, upright)


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


def part_of(name: str) -> str:
    """The part that a folder's name means, "" for none."""
    words = {w for w in re.split(r"[\W\d_]+", name.lower()) if w} - SAY_NOTHING
    found = (part for part, spellings in PARTS.items() if words & set(spellings))
    return next(found, "") if len(words) == 1 else ""


def _inside(folder: Path, notes: list[str], part: str = "") -> Path:
    """The folder behind any number of single ones, which archives wrap around a part or all."""
    while True:
        names = list_folders(folder)
        wrapper = len(names) == 1 and part_of(names[0]) in ("", part) and not count_images(folder)
        if not wrapper or not list_folders(folder / names[0]) or count_images(folder / names[0]):
            return folder
        folder = folder / names[0]
        notes.append(f"taking the folders in {folder}, the only one around them")


def _part_folders(top: Path, notes: list[str]) -> dict[str, Path]:
    """The folders of the parts, {} where the folders are classes."""
    names = {name: part for name in list_folders(top) if (part := part_of(name))}
    if "train" not in names.values() or not any(
        list_folders(top / name) for name, part in names.items() if part == "train"
    ):
        if names and len(names) == len(list_folders(top)):
            raise InputError(
                f"{top} holds {' and '.join(names)} alone, and no class folders in a train/: give "
                "the folder whose folders are the classes."
            )
        return {}
    folders = {}
    for name, part in names.items():
        if part in folders:
            raise InputError(
                f"{top} holds {folders[part].name} and {name}, which both mean {part}: leave one "
                "of them."
            )
        folders[part] = top / name
    inside = {part: _inside(folder, notes, part) for part, folder in folders.items()}
    if any(folder.name != part for part, folder in folders.items()):
        said = ", ".join(f"{folder.name} is {part}" for part, folder in folders.items())
        notes.append(f"parts by their names: {said}")
    return inside


def _presplit(
    root: Path, folders: dict[str, Path], left_out: Counter[str]
) -> tuple[tuple[str, ...], dict[str, Source]]:
    classes = _classes(folders["train"])
    labels = {name: i for i, name in enumerate(classes)}
    train = class_folders(folders["train"], root, labels, left_out, upright=True)
    parts = dict.fromkeys(("train", "val", "test"), train.take(())) | {"train": train}
    _check_none_empty(train, classes, folders["train"])
    for part in folders.keys() - {"train"}:
        if strange := sorted(set(list_folders(folders[part])) - set(classes)):
            raise InputError(
                f'{folders[part]} holds a class "{strange[0]}" that {folders["train"]} lacks: '
                "remove it or add training images."
            )
        parts[part] = class_folders(folders[part], root, labels, left_out, upright=True)
    if not len(parts["test"]):
        parts["test"], parts["val"] = parts["val"], parts["test"]
    if not len(parts["test"]):
        raise InputError(
            f"{root} has {folders['train'].name}/ but no images in class folders of a test/ or "
            "val/: add test/<class>/ folders, or give the folder "
            f"{folders['train']} to have its classes split."
        )
    return classes, parts


def _unsplit(
    root: Path, top: Path, left_out: Counter[str]
) -> tuple[tuple[str, ...], dict[str, Source]]:
    classes = _classes(top)
    labels = {name: i for i, name in enumerate(classes)}
    whole = class_folders(top, root, labels, left_out, upright=True)
    _check_none_empty(whole, classes, top)
    parts = split_by_class(whole.labels)
    return classes, dict(zip(("train", "val", "test"), map(whole.take, parts), strict=True))


def _classes(folder: Path) -> tuple[str, ...]:
    """The class folders in a folder.

    Raises:
      InputError: there are none, they seem to be parts, or a name is no UTF-8.
    """
    classes = list_folders(folder)
    if not classes:
        raise InputError(
            f"{folder} holds no class folders: expected {folder}/<class>/<image>, with images such "
            "as jpg or png."
        )
    inner = [tuple(list_folders(folder / name)) for name in classes]
    if len(classes) > 1 and len(set(inner)) == 1 and len(inner[0]) > 1:
        if not any(count_images(folder / name) for name in classes):
            raise InputError(
                f"{folder} holds {_listed(classes)}, and each of them the same folders "
                f"{_listed(inner[0])}, so they seem to be no classes: give one of them, such as "
                f"{folder / classes[0]}, or name them train and test."
            )
    for name in classes:
        if not name.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in name):
            raise InputError(
                f"the class folder {folder / name!s} has a name that is no UTF-8: rename it."
            )
    return tuple(classes)


def _check_none_empty(source: Source, classes: Sequence[str], folder: Path) -> None:
    there = set(source.labels)
    if empty := [name for label, name in enumerate(classes) if label not in there]:
        inside = Counter()
        list_images(folder / empty[0], folder, inside)
        said = f", but {describe(inside)}" if inside else ""
        raise InputError(
            f"the class folder {folder / empty[0]} holds no image that can be read{said}: add "
            "some, or remove the folder."
        )


def _count_strangers(
    root: Path, top: Path, folders: dict[str, Path], left_out: Counter[str]
) -> None:
    """Counts the images in folders beside the parts."""
    for name in list_folders(top):
        if not any(folder.is_relative_to(top / name) for folder in folders.values()):
            left_out[f"in {name}, which is no part"] += len(list_images(top / name, root))


def _count_beside(folders: Iterable[Path], left_out: Counter[str]) -> None:
    """Counts what is beside class folders: images, and what systems leave."""
    for folder in set(folders):
        count_system(folder, left_out)
        if found := count_images(folder):
            left_out["in no class folder"] += found


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = [f"{len(names) - 3} more"] if len(names) > 4 else []
    return ", ".join([*(names[:3] if more else names), *more])
