"""CoOp's split files: {"train": [[relative path, label, class name], ...], "val", "test"}."""

import codecs
import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sotglp_jax.data.folders import PARTS
from sotglp_jax.data.sources import Dataset, image_files
from sotglp_jax.errors import InputError
from sotglp_jax.paths import reason

FORM = '{"train": [[path, label, class name], ...], "val": ..., "test": ...}'


def read_split(
    path: Path,
    roots: Sequence[Path],
    template: str,
    name: str,
    rename: Mapping[str, str] | None = None,
    upright: bool = False,
) -> Dataset:
    """A data set as a split file lists it, with the file's own labels.

    Args:
      path: the split file.
      roots: folders that its paths may be relative to; the first that holds an image is taken.
      template: zero-shot sentence.
      name: what results call the data set.
      rename: class names to use instead of some of the file's.
      upright: see `pixels.to_rgb`.

    Raises:
      InputError: the file has another form, labels that are not 0..C-1, or no image is found.
    """
    split = _parse(path)
    class_names = tuple((rename or {}).get(n, n) for n in _class_names(path, split))
    root = _root_of(path, split, roots)
    parts = {
        part: image_files(root, [r[0] for r in rows], [r[1] for r in rows], upright)
        for part, rows in split.items()
    }
    return Dataset(name, class_names, template, **parts)


def _parse(path: Path) -> dict[str, list]:
    content = _content(path)
    try:
        split = {part: content.get(part, []) for part in ("train", "val", "test")}
        for part, spellings in PARTS.items():  # "valid" for "val", and the like
            others = [content[key] for key in content if key in spellings and key != part]
            split[part] = split[part] or next(iter(others), [])
        sound = split["train"] and split["test"]
        for rows in split.values():
            for image, label, name in rows:
                sound = sound and (type(image), type(label), type(name)) == (str, int, str)
    except (ValueError, AttributeError, TypeError):
        sound = False
    if not sound:
        raise InputError(f"{path} is no split file with train and test images: expected {FORM}.")
    # Windows writes back slashes, macOS a name in another of its two forms.
    return {
        part: [
            (image.replace("\\", "/"), label, unicodedata.normalize("NFC", name))
            for image, label, name in rows
        ]
        for part, rows in split.items()
    }


def _content(path: Path) -> Any:
    """What the file holds, in UTF-8, with a mark at its beginning or not, or UTF-16."""
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ""
        return json.loads(content.decode(encoding or "utf-8-sig"))
    except OSError as error:
        raise InputError(f"split file {path} cannot be read: {reason(error)}.") from None
    except UnicodeDecodeError:
        raise InputError(f"split file {path} is no UTF-8 text: save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"split file {path} is no JSON at line {error.lineno}, column {error.colno} "
            f"({error.msg}): correct it there, or copy the file again."
        ) from None


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
