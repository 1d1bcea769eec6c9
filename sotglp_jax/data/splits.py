"""CoOp's split files: {"train": [[relative path, label, class name], ...], "val", "test"}."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sotglp_jax.data.sources import Dataset, image_files
from sotglp_jax.errors import InputError

FORM = '{"train": [[path, label, class name], ...], "val": ..., "test": ...}'


def read_split(
    path: Path,
    roots: Sequence[Path],
    template: str,
    name: str,
    rename: Mapping[str, str] | None = None,
) -> Dataset:
    """A data set as a split file lists it, with the file's own labels.

    Args:
      path: the split file.
      roots: folders that its paths may be relative to; the first that holds an image is taken.
      template: zero-shot sentence.
      name: what results call the data set.
      rename: class names to use instead of some of the file's.

    Raises:
      InputError: the file has another form, labels that are not 0..C-1, or no image is found.
    """
    split = _parse(path)
    class_names = tuple((rename or {}).get(n, n) for n in _class_names(path, split))
    root = _root_of(path, split, roots)
    parts = {
        part: image_files(root, [r[0] for r in rows], [r[1] for r in rows])
        for part, rows in split.items()
    }
    return Dataset(name, class_names, template, **parts)


def _parse(path: Path) -> dict[str, list]:
    try:
        content = json.loads(path.read_text())
        split = {part: content.get(part, []) for part in ("train", "val", "test")}
        sound = split["train"] and split["test"]
        for rows in split.values():
            for image, label, name in rows:
                sound = sound and (type(image), type(label), type(name)) == (str, int, str)
    except OSError as error:
        raise InputError(f"split file {path} cannot be read: {error.strerror}.") from None
    except (ValueError, AttributeError, TypeError):
        sound = False
    if not sound:
        raise InputError(f"{path} is no split file with train and test images: expected {FORM}.")
    return split


def _class_names(path: Path, split: dict[str, list]) -> tuple[str, ...]:
    names: dict[int, str] = {}
    for row in (row for rows in split.values() for row in rows):
        if names.setdefault(row[1], row[2]) != row[2]:
            raise InputError(
                f'{path} calls label {row[1]} both "{names[row[1]]}" and "{row[2]}": one label, '
                "one name."
            )
    if sorted(names) != list(range(len(names))):
        gap = next(i for i in range(len(names)) if i not in names)
        raise InputError(f"{path} has {len(names)} classes but none labelled {gap}: number 0..C-1.")
    return tuple(names[i] for i in range(len(names)))


def _root_of(path: Path, split: dict[str, list], roots: Sequence[Path]) -> Path:
    listed = [row[0] for rows in split.values() for row in rows]
    if outside := next((p for p in listed if Path(p).is_absolute() or ".." in Path(p).parts), None):
        raise InputError(f"{path} lists {outside}, outside its image folder: use relative paths.")
    for root in roots:
        if any((root / name).is_file() for name in listed):
            return root
    looked = " and ".join(map(str, roots))
    raise InputError(
        f"none of the {len(listed)} images of {path} is there, {listed[0]} for one; looked in "
        f"{looked}: put them there or set --config.data.root."
    )
