"""From `config.dataset` to a data set: a name, a folder, a split file, or TensorFlow Datasets."""

import dataclasses
import functools
import os
from pathlib import Path

from absl import logging

from sotglp_jax.data import drawn, layouts, names, records
from sotglp_jax.data.catalog import DEFAULT_TEMPLATE, ENTRIES, OOD, PARTS, Entry
from sotglp_jax.data.digits import digits
from sotglp_jax.data.files import describe, read_folder
from sotglp_jax.data.folders import image_folder
from sotglp_jax.data.sources import Dataset, FileReader, Source, image_files
from sotglp_jax.data.splits import read_split
from sotglp_jax.errors import InputError
from sotglp_jax.paths import AnyPath, in_bucket, listing, place


def resolve(
    dataset: str,
    root: str = "",
    template: str = "",
    allow_partial: bool = False,
    named_by: str = "",
) -> Dataset:
    """A data set by name or path.

    Args:
      dataset: "digits", a key of `ENTRIES`, a folder of class folders, a `.json` split file, or
        "tfds:" and the name of a prepared TensorFlow Datasets set.
      root: where the field's data sets lie, or the images of a split file, or TensorFlow Datasets'
        `data_dir`; "" is "data", the split file's folder or its `images`, or its default.
      template: zero-shot sentence to use instead of the data set's.
      allow_partial: go on without images that should be there.
      named_by: a file that gives classes other names, see `names.rename`; "" is `classes.json` in a
        folder of class folders, where there is one.

    Raises:
      InputError: nothing is known or found under this name, or not all of it is there.
    """
    if template.count("{}") != 1 and template:
        raise InputError(f'data.template="{template}" needs exactly one {{}} for the class name.')
    if dataset == "digits":
        found = digits()
    elif dataset.startswith("tfds:"):
        top = str(place(root, "data.root")) if root else ""
        found = records.load(dataset.removeprefix("tfds:"), top)
    elif dataset in ENTRIES:
        found = _of_the_field(dataset, root or "data", allow_partial)
    else:
        found = _own(dataset, root, allow_partial)
    known = dataset == "digits" or dataset in ENTRIES
    found = dataclasses.replace(found, template=template or found.template)
    own = "" if known or dataset.startswith("tfds:") else dataset
    if file := _names_file(own, named_by):
        found = names.rename(found, file)
    notes = (*found.notes, *names.check(found.name, found.class_names, known))
    return dataclasses.replace(found, notes=notes)


def _names_file(own: str, named_by: str) -> AnyPath | None:
    """The file that names the classes, if there is one; `own` is the path of a user's data set."""
    if named_by:
        return place(named_by, "data.names")
    beside = place(own) / names.FILE
    return beside if own and beside.is_file() else None


def unlabelled(name: str, root: str = "", allow_partial: bool = False) -> Dataset:
    """Images of any classes, to be told from a data set's: a test part without classes.

    Args:
      name: a key of `drawn.KINDS` or `OOD`, or a folder.
      root: where the field's data sets lie.
      allow_partial: go on without images that should be there.

    Raises:
      InputError: nothing is known or found under this name, or not all of it is there.
    """
    if name in drawn.KINDS:
        return _without_classes(name, drawn.drawn(name))
    if name in OOD:
        return _of_the_field(name, root or "data", allow_partial)
    folder = place(name, "ood.sets")
    found = read_folder(folder)
    images, left_out = found.list_images(folder), describe(found.count_left_out())
    if not images:
        inside = f" (it holds {left_out})" if left_out else ""
        raise InputError(
            f'"{name}" is no folder with images{inside} and no known set to be told from the data; '
            f"the names are {', '.join([*drawn.KINDS, *OOD])}."
        )
    source = image_files(folder, images, [0] * len(images), upright=True)
    return _without_classes(name, source, (f"left out: {left_out}",) if left_out else ())


def _without_classes(name: str, test: Source, notes: tuple[str, ...] = ()) -> Dataset:
    return Dataset(name, (), "", test.take(()), test.take(()), test, notes=notes)


def locate(name: str, root: Path) -> tuple[Dataset | None, Path | None]:
    """A data set of the field as its folder lists it, and that folder.

    Returns:
      (None, folder) where the folder lacks the split file or the like, (None, None) where there
      is no folder.
    """
    entry, images = ENTRIES[name], None
    for folder in (root / alias for alias in entry.folders):
        if folder.is_dir():
            images = images or folder
            if found := layouts.READERS[entry.labels](entry, name, folder, root):
                return found, folder
    return None, images


def present(dataset: Dataset) -> Dataset:
    """The data set without files that are not there."""

    @functools.cache
    def names_in(folder: str) -> set[str]:
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()

    def there(source: Source) -> Source:
        if not isinstance(source.read, FileReader):
            return source
        if in_bucket(source.read.root):
            found = listing(source.read.root)
            return source.take([i for i, name in enumerate(source.names) if name in found])
        paths = [os.path.split(f"{source.read.root}/{name}") for name in source.names]
        return source.take([i for i, (at, name) in enumerate(paths) if name in names_in(at)])

    return dataclasses.replace(
        dataset, **{part: there(source) for part, source in dataset.parts.items()}
    )


def counts(dataset: Dataset) -> tuple[int, ...]:
    """Images per part."""
    return tuple(len(source) for source in dataset.parts.values())


def _of_the_field(name: str, root: str, allow_partial: bool) -> Dataset:
    entry, folder = ENTRIES[name], place(root, "data.root")
    if prepared := records.find(name, str(folder)):
        return prepared
    listed, _ = locate(name, folder)
    if listed is None:
        raise InputError(
            f"dataset {name} is not below {folder} (looked in {looked_in(entry, folder)}): "
            f"`python -m sotglp_jax.data check {name} --root {folder}` says what is missing, "
            "--config.data.root names another folder."
        )
    return _whole(listed, entry.images, allow_partial)


def looked_in(entry: Entry, root: Path) -> str:
    """Where below the data root a data set is looked for, as text."""
    split = f", with {entry.split} beside or above it" if entry.split else ""
    return " and ".join(str(root / folder) for folder in entry.folders) + split


def _whole(listed: Dataset, expected: tuple[int, ...], allow_partial: bool) -> Dataset:
    """What is there of a data set; `InputError` or a warning where it is not all of it."""
    found = present(listed)
    if counts(found) == expected:
        return found
    numbers = ", ".join(
        f"{there} of {all_} {part}"
        for part, there, all_ in zip(PARTS, counts(found), expected, strict=True)
        if there != all_
    )
    said = f"dataset {listed.name} is not as expected: {numbers} images are there"
    if missing := _first_missing(listed, found):
        said += f", {missing} is missing"
    if not allow_partial:
        raise InputError(
            f"{said}: complete it, or set --config.data.allow_partial=True to go on with what is "
            "there."
        )
    logging.warning("%s; going on with what is there", said)
    return found


def _first_missing(listed: Dataset, found: Dataset) -> str:
    for part, source in listed.parts.items():
        there = set(found.parts[part].names)
        if missing := next((name for name in source.names if name not in there), ""):
            return str(source.read.root / missing)
    return ""


def _own(dataset: str, root: str, allow_partial: bool) -> Dataset:
    path = place(dataset, "dataset")
    if path.is_dir():
        return image_folder(path, DEFAULT_TEMPLATE)
    if path.suffix == ".json":
        roots = [place(root, "data.root")] if root else [path.parent, path.parent / "images"]
        name = path.stem.removeprefix("split_zhou_")
        listed = read_split(path, roots, DEFAULT_TEMPLATE, name, upright=True)
        return _whole(listed, counts(listed), allow_partial)
    raise InputError(
        f'dataset "{dataset}" is no folder, no split file and no known name; the names are '
        f"{', '.join(['digits', *ENTRIES, 'tfds:NAME'])}."
    )
