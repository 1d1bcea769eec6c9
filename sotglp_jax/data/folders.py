"""Folders of class folders, as people have them."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sotglp_jax.data import names
from sotglp_jax.data.files import Folder, describe, read_folder
from sotglp_jax.data.sources import Dataset, Source, image_files
from sotglp_jax.errors import InputError
from sotglp_jax.paths import AnyPath, absolute

# Spellings of the parts, in any case and beside the words that say nothing.
PARTS = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation", "valset", "dev"),
    "test": ("test", "testing", "tests", "testset"),
}
SAY_NOTHING = {"set", "sets", "images", "image", "imgs", "img", "data", "dataset", "seg", "split"}


def image_folder(root: AnyPath, template: str) -> Dataset:
    """`root/<class>/<image>`, or the same below folders for training, validation and test.

    Parts are known by the spellings of `PARTS`. A single folder around them is followed. Without
    parts every class is split 50/20/30, as CoOp splits what comes unsplit; with parts for training
    and validation alone, the latter is the test part. Images are turned upright and put on white.

    Raises:
      InputError: classes, parts or images are not to be told; says where and what to do.
    """
    notes, whole = [], read_folder(root)
    top = _inside(whole, notes)
    folders = _part_folders(top, notes)
    classes, parts = _presplit(root, folders, notes) if folders else _unsplit(root, top)
    if left_out := _count_left_out(whole, top, folders, sum(map(len, parts.values()))):
        notes.append(f"left out: {describe(left_out)}")
    return Dataset(absolute(root).name, classes, template, **parts, notes=tuple(notes))


def class_folders(
    folders: Mapping[str, Folder], root: AnyPath, labels: Mapping[str, int], upright: bool = False
) -> Source:
    """The images of class folders.

    Args:
      folders: by the name of the class; those of some classes may not be there.
      root: what the images are named relative to.
      labels: by the name of the class.
      upright: see `pixels.to_rgb`.
    """
    names, numbers = [], []
    for name, label in labels.items():
        found = folders[name].list_images(root) if name in folders else []
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


def _inside(folder: Folder, notes: list[str], part: str = "") -> Folder:
    """The folder behind any number of single ones, which archives wrap around a part or all."""
    while len(folder.folders) == 1:
        (name, inner), *_ = folder.folders.items()
        if part_of(name) not in ("", part) or not inner.folders or inner.images:
            break
        folder = inner
        notes.append(f"taking the folders in {folder.path}, the only one around them")
    return folder


def _part_folders(top: Folder, notes: list[str]) -> dict[str, Folder]:
    """The folders of the parts, {} where the folders are classes."""
    names = {name: part for name in top.folders if (part := part_of(name))}
    if not any(top.folders[name].folders for name, part in names.items() if part == "train"):
        if names and len(names) == len(top.folders):
            raise InputError(
                f"{top.path} holds {' and '.join(names)} alone, and no class folders in a train/: "
                "give the folder whose folders are the classes."
            )
        return {}
    found = {}
    for name, part in names.items():
        if part in found:
            raise InputError(
                f"{top.path} holds {found[part]} and {name}, which both mean {part}: leave one of "
                "them."
            )
        found[part] = name
    inside = {part: _inside(top.folders[name], notes, part) for part, name in found.items()}
    if said := ", ".join(f"{name} is {part}" for part, name in found.items() if name != part):
        notes.append(f"parts by their names: {said}")
    return inside


def _presplit(
    root: AnyPath, folders: dict[str, Folder], notes: list[str]
) -> tuple[tuple[str, ...], dict[str, Source]]:
    classes = _classes(folders["train"])
    by_class = {part: _by_class(folder) for part, folder in folders.items()}
    for part, found in by_class.items():
        if strange := sorted(found.keys() - set(classes)):
            raise InputError(
                f'{folders[part].path} holds a class "{strange[0]}" that {folders["train"].path} '
                "lacks: remove it or add training images."
            )
    labels = {name: i for i, name in enumerate(classes)}
    parts = {
        part: class_folders(by_class.get(part, {}), root, labels, upright=True) for part in PARTS
    }
    if not len(parts["test"]) and len(parts["val"]):
        parts["test"], parts["val"] = parts["val"], parts["test"]
        notes.append("validation images are those for testing, since there are no others")
    if not len(parts["test"]):
        raise InputError(
            f"{root} has {folders['train'].path.name}/ but no images in class folders of a test/ "
            "or val/: add test/<class>/ folders, or give the folder "
            f"{folders['train'].path} to have its classes split."
        )
    return classes, parts


def _unsplit(root: AnyPath, top: Folder) -> tuple[tuple[str, ...], dict[str, Source]]:
    classes = _classes(top)
    labels = {name: i for i, name in enumerate(classes)}
    whole = class_folders(_by_class(top), root, labels, upright=True)
    parts = split_by_class(whole.labels)
    return classes, dict(zip(PARTS, map(whole.take, parts), strict=True))


def _by_class(folder: Folder) -> dict[str, Folder]:
    """Class folders by the name of the class, of whose two forms in Unicode one is taken.

    Raises:
      InputError: two folders have one name, in its two forms, or a name is no UTF-8.
    """
    found = {}
    for written, inner in folder.folders.items():
        if not written.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in written):
            raise InputError(
                f"the class folder {inner.path!s} has a name that is no UTF-8: rename it."
            )
        name = unicodedata.normalize("NFC", written)
        if name in found:
            raise InputError(
                f'{folder.path} holds two folders "{name}", one name in the two forms that Unicode '
                "has of it: put their images into one of them."
            )
        found[name] = inner
    return dict(sorted(found.items()))


def _classes(folder: Folder) -> tuple[str, ...]:
    """The names of the class folders in a folder.

    Raises:
      InputError: there are none, they seem to be parts, or one is empty.
    """
    by_class = _by_class(folder)
    if not by_class:
        raise InputError(
            f"{folder.path} holds no class folders: expected {folder.path}/<class>/<image>, with "
            "images such as jpg or png."
        )
    _refuse_parts(folder)
    if empty := [inner for inner in by_class.values() if not inner.list_images(inner.path)]:
        inside = empty[0].count_left_out()
        said = f", but {describe(inside)}" if inside else ""
        raise InputError(
            f"the class folder {empty[0].path} holds no image that can be read{said}: add some, or "
            "remove the folder."
        )
    return tuple(by_class)


def _refuse_parts(folder: Folder) -> None:
    """Raises `InputError` where most folders hold mostly the same folders, and no images."""
    within = [_inside(inner, []) for inner in folder.folders.values() if not inner.images]
    hollow = [inner for inner in within if inner.folders and not inner.images]
    counts = Counter(name for inner in hollow for name in inner.folders)
    shared = [name for name, count in counts.items() if count > 1]
    most = 2 * len(hollow) > len(folder.folders) and 2 * len(shared) > len(counts)
    if len(shared) > 1 and most:
        raise InputError(
            f"{folder.path} holds {_listed(folder.folders)}, and these mostly the same folders "
            f"{_listed(shared)}, so they seem to be no classes: give one of them, such as "
            f"{hollow[0].path}, or name them train and test."
        )


def _count_left_out(
    whole: Folder, top: Folder, folders: Mapping[str, Folder], taken: int
) -> Counter[str]:
    """Counts all that is below a folder but the images that are taken."""
    left_out, inside = whole.count_left_out(), [folder.path for folder in folders.values()]
    for name, other in top.folders.items() if folders else ():
        if not any(path.is_relative_to(other.path) for path in inside):
            count = len(other.list_images(other.path))
            left_out[f"in {name}, which is no part"] += count
            taken += count
    left_out[".json"] -= (whole.path / names.FILE).is_file()  # which is read
    left_out["in no class folder"] = len(whole.list_images(whole.path)) - taken
    return +left_out


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = [f"{len(names) - 3} more"] if len(names) > 4 else []
    return ", ".join([*(names[:3] if more else names), *more])
