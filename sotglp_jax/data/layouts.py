"""How the field's data sets lie on disk: one reader per label rule.

A reader takes an entry of the catalogue, its name, and the folder that holds its images, and
returns the data set as the folder has it, whole or not; None where what it needs is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sotglp_jax.data import imagenet
from sotglp_jax.data.files import read_folder
from sotglp_jax.data.sources import Dataset, Source, image_files
from sotglp_jax.data.splits import read_split
from sotglp_jax.errors import InputError

if TYPE_CHECKING:
    from sotglp_jax.data.catalog import Entry


def split_file(entry: Entry, name: str, folder: Path, root: Path) -> Dataset | None:
    """Images in any order, and CoOp's split file beside or above them, up to the data root."""
    for place in (folder, *folder.parents[: len(folder.relative_to(root).parts)]):
        if (place / entry.split).is_file():
            path = place / entry.split
            return read_split(path, [folder], entry.template, name, entry.rename)
    return None


def imagenet_folders(entry: Entry, name: str, folder: Path, root: Path) -> Dataset | None:
    """`train/<wnid>/` and `val/<wnid>/`, or a flat `val/` with its label file."""
    if not (folder / "val").is_dir():
        return None
    return _of_imagenet(entry, name, imagenet.train_and_val(folder))


def numeric_folders(entry: Entry, name: str, folder: Path, root: Path) -> Dataset | None:
    """Folders "0" to "999", named by ImageNet's labels."""
    return _of_imagenet(entry, name, {"test": imagenet.numeric_folders(read_folder(folder))})


def wnid_folders(entry: Entry, name: str, folder: Path, root: Path) -> Dataset | None:
    """Folders named by WordNet number, of all or of the entry's variant of ImageNet's classes."""
    found = imagenet.wnid_folders(read_folder(folder), folder, entry.variant)
    return _of_imagenet(entry, name, {"test": found})


def _of_imagenet(entry: Entry, name: str, parts: dict[str, Source]) -> Dataset:
    wnids, names = zip(*imagenet.classes(entry.variant).items(), strict=True)
    parts = dict.fromkeys(("train", "val"), parts["test"].take(())) | parts
    return Dataset(name, names, entry.template, **parts, class_ids=wnids)


def aircraft(entry: Entry, name: str, folder: Path, root: Path) -> Dataset | None:
    """`images/<number>.jpg`, with the lists of FGVC-Aircraft beside that folder."""
    if not (folder.parent / "variants.txt").is_file():
        return None
    names = tuple((folder.parent / "variants.txt").read_text("utf-8").splitlines())
    parts = {
        part: _variants(folder, folder.parent / f"images_variant_{part}.txt", names)
        for part in ("train", "val", "test")
    }
    both = folder.parent / "images_variant_trainval.txt"
    order = _variants(folder, both, names).names if both.is_file() else ()
    return Dataset(name, names, entry.template, **parts, joint_order=order)


def _variants(folder: Path, path: Path, names: tuple[str, ...]) -> Source:
    """Lines of "<number> <variant>"."""
    try:
        rows = [line.split(" ", 1) for line in path.read_text("utf-8").splitlines()]
        labels = [names.index(variant) for _, variant in rows]
    except (OSError, ValueError):
        raise InputError(
            f"{path} is missing or does not list an image and one of variants.txt a line: extract "
            "FGVC-Aircraft's archive again."
        ) from None
    return image_files(folder, [f"{number}.jpg" for number, _ in rows], labels)


def unlabelled(entry: Entry, name: str, folder: Path, root: Path) -> Dataset | None:
    """Images in any folders, without classes: a set to be told from all others."""
    names = read_folder(folder).list_images(folder)
    test = image_files(folder, names, [-1] * len(names))
    return Dataset(name, (), "", test.take(()), test.take(()), test)


READERS: dict[str, Callable[[Entry, str, Path, Path], Dataset | None]] = {
    "split": split_file,
    "imagenet": imagenet_folders,
    "numeric": numeric_folders,
    "wnid": wnid_folders,
    "aircraft": aircraft,
    "unlabelled": unlabelled,
}
