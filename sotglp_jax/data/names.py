"""Class names that make different prompts."""

import unicodedata
from collections.abc import Sequence

from sotglp_jax.errors import InputError


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
