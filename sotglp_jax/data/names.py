"""Class names that make different prompts, and the file that gives classes others."""

import dataclasses
import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sotglp_jax.data.sources import Dataset
from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import readable

FILE = "classes.json"  # beside class folders
FORMS = '"dog", ["dog", "hound"] or {"name": "dog", "sentences": ["a photo of a hound."]}'


def check(name: str, class_names: Sequence[str], known: bool) -> list[str]:
    """Makes sure that every class has a prompt of its own.

    Args:
      name: of the data set.
      class_names: as the data set has them.
      known: whether the data set is one of the field's, which may call two classes alike.

    Returns:
      Sentences on what is as it should not be.

    Raises:
      InputError: a name is empty, or CLIP reads two of them alike, as it reads case, spaces,
        underscores and the two forms of a letter in Unicode.
    """
    first, notes = {}, []
    for label, class_name in enumerate(class_names):
        form = unicodedata.normalize("NFC", class_name)
        read = " ".join(form.replace("_", " ").lower().split())
        if not read:
            raise InputError(
                f'class {label} of {name} has the name "{class_name}", of which no word is left in '
                "a prompt: give it another."
            )
        other = class_names[first.setdefault(read, label)]
        if first[read] == label:
            continue
        said = f'classes {first[read]} and {label} of {name}, "{other}" and "{class_name}"'
        if not known:
            raise InputError(
                f"{said}, make the same prompt, so they are not to be told apart: give one of them "
                "another name."
            )
        notes.append(f"{said}, make the same prompt, as the field has them")
    return notes


def rename(dataset: Dataset, path: Path) -> Dataset:
    """The data set with the names and sentences that a file gives to its classes.

    The file is a JSON object of classes, by the names of their folders (by `class_ids` of other
    data sets), with a value in one of `FORMS`: a name; several names, of which prompts that are
    learned take the first one; or a name for those, and whole sentences. A class that is not in it
    keeps its name.

    Args:
      dataset: with the template that it is to have.
      path: of the file.

    Raises:
      InputError: it cannot be read, or names a class that is not there, or none of the `FORMS`.
    """
    given, ids = _read(path), dataset.class_ids
    if unknown := [name for name in given if name not in ids]:
        raise InputError(
            f'{path} names a class "{unknown[0]}" that {dataset.name} lacks: its classes are '
            f"{', '.join(ids[:20])}{', ...' * (len(ids) > 20)}."
        )
    values = {name: _named(path, name, value, dataset.template) for name, value in given.items()}
    usual = zip(ids, dataset.class_names, strict=True)
    found = [values.get(i) or (x, _filled((x,), dataset.template)) for i, x in usual]
    names, sentences = zip(*found, strict=True)
    several = sum(len(of_class) > 1 for of_class in sentences)
    written = any(isinstance(value, dict) for value in given.values())
    if several or written:
        _refuse_shared(path, sentences)
    renamed = sum(a != b for a, b in zip(names, dataset.class_names, strict=True))
    note = f"{path}: {renamed} of {len(ids)} classes renamed"
    if several:
        note += f", {several} with several sentences, whose features zero-shot CLIP averages"
    return dataclasses.replace(
        dataset,
        class_names=names,
        sentences=sentences if several or written else (),
        notes=(*dataset.notes, note),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        given = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        raise InputError(f"{path}, which names classes, cannot be read: {reason}.") from None
    except ValueError as error:
        raise InputError(f"{path}, which names classes, is no JSON: {error}.") from None
    if not isinstance(given, dict):
        raise InputError(
            f"{path} must be a JSON object with the classes to be named, such as "
            '{"n02085620": "chihuahua"}.'
        )
    return {unicodedata.normalize("NFC", name): value for name, value in given.items()}


def _named(path: Path, of: str, value: Any, template: str) -> tuple[str, tuple[str, ...]]:
    """The name of a class, and its sentences."""
    names = [value] if isinstance(value, str) else value
    sentences = None
    if isinstance(value, Mapping) and value.keys() == {"name", "sentences"}:
        names, sentences = [value["name"]], value["sentences"]
    for texts in (names, names if sentences is None else sentences):
        sound = isinstance(texts, list) and texts
        if not sound or not all(isinstance(x, str) and x.strip() for x in texts):
            raise InputError(f'{path} has no sound value for the class "{of}": give it as {FORMS}.')
    return names[0], _filled(names, template) if sentences is None else tuple(sentences)


def _filled(names: Sequence[str], template: str) -> tuple[str, ...]:
    return tuple(template.replace("{}", name) for name in readable(tuple(names)))


def _refuse_shared(path: Path, sentences: Sequence[Sequence[str]]) -> None:
    """Raises `InputError` for a sentence that stands twice, as CLIP reads it."""
    seen = set()
    for sentence in (x for of_class in sentences for x in of_class):
        read = " ".join(sentence.lower().split())
        if read in seen:
            raise InputError(f'{path} gives "{sentence}" twice: give it once, to one class.')
        seen.add(read)
