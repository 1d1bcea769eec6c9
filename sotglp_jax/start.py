"""Where a training starts: the prompts of another run, for the classes that are in both."""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sotglp_jax import methods, workdir
from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import Method, Params
from sotglp_jax.paths import AnyPath, place
from sotglp_jax.settings import defaults, differing, unflatten

SHOWN = 20  # names of classes in a line


@dataclasses.dataclass(frozen=True)
class Start:
    """The finished parameters of another run.

    Attributes:
      folder: the run, as the setting names it.
      sha256: of its file of parameters.
      params: the parameters, for the classes of that run.
      labels: for each class of this run its label in that one, None for a new class.
      classes: names of the classes that are "kept", "new" and "left" out.
    """

    folder: str
    sha256: str
    params: Params
    labels: tuple[int | None, ...]
    classes: dict[str, list[str]]

    def begin(self, method: Method, params: Params) -> Params:
        """The parameters to start from: theirs, and of new classes those of `Method.init`.

        Args:
          method: what is trained.
          params: what its `init` gave.

        Raises:
          InputError: the method has no parameters of some of its classes, see `Method.on`.
        """
        known = [i for i, label in enumerate(self.labels) if label is not None]
        # Without a class in common only the number of rows matters, and none of them is taken.
        rows = tuple(self.labels[i] for i in known) or (0,) * (len(self.labels) + 1)
        found = method.on(jax.tree.map(jnp.asarray, self.params), rows)
        fault = InputError(
            f"{method.title} does not give the parameters of some of the classes that "
            f"{self.folder} was trained on: let its `on` give them, or leave out --from."
        )
        if found is None:
            raise fault

        def merge(new: Float[Array, "..."], old: Float[Array, "..."]) -> Float[Array, "..."]:
            if new.shape == old.shape:  # it knows no classes, or all of them go on
                return old
            axis = next(i for i, size in enumerate(old.shape) if size != new.shape[i])
            if old.shape[axis] != len(rows):
                raise fault
            places = (*[slice(None)] * axis, np.array(known, int))
            return jnp.asarray(new).at[places].set(jnp.take(old, np.arange(len(known)), axis))

        return jax.tree.map(merge, params, {name: found[1][name] for name in params})

    def about(self) -> dict[str, Any]:
        """What results.json says of it."""
        return {"run": self.folder, "sha256": self.sha256, **self.classes}

    def describe(self) -> str:
        """A line on which classes go on and which are new."""
        listed = [
            f"{len(names)} {what}"
            + f" ({', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)})"
            for what, names in zip(("go on", "new", "left out"), self.classes.values(), strict=True)
            if names
        ]
        return f"from {self.folder}, classes: {'; '.join(listed)}"


def load(
    name: str,
    method: Method,
    settings: Mapping[str, Any],
    class_names: Sequence[str],
    shapes: Callable[[Method], Params],
) -> Start:
    """Loads what another run ended with.

    Classes are those of the same name; two of one name in the same run cannot be told apart, and
    count as new ones.

    Args:
      name: of its folder.
      method: of this run.
      settings: of this run, flat, with CLIP's fingerprint.
      class_names: of this run, by label.
      shapes: gives the shapes of a method's first parameters for the classes of this run.

    Raises:
      InputError: it is no finished run, or has other parameters than this one; says why.
    """
    folder = place(name, "--from")
    theirs, names = _load(folder, workdir.CONFIG), _load(folder, workdir.CLASSES)
    _check_same(folder, theirs, settings)
    stated = {key: x for key, x in theirs.items() if key != "clip.sha256"}
    other = methods.make(unflatten(defaults(stated) | stated).method, method.towers)
    if jax.tree.map(jnp.shape, shapes(other)) != jax.tree.map(jnp.shape, shapes(method)):
        differ = differing(_of_method(theirs), _of_method(settings))
        raise InputError(
            f"{folder} has parameters of other shapes than this run, for it differs in "
            f"{', '.join(differ)}: choose the same, or leave out --from."
        )
    path = folder / workdir.PARAMS
    if not path.is_file():
        raise InputError(
            f"{folder} holds a run that is not finished: finish it, or leave out --from."
        )
    params, content = workdir.load_tensors(path), path.read_bytes()
    labels = _labels(names, class_names)
    kept = set(labels)
    classes = {
        "kept": [x for x, label in zip(class_names, labels, strict=True) if label is not None],
        "new": [x for x, label in zip(class_names, labels, strict=True) if label is None],
        "left": [x for label, x in enumerate(names) if label not in kept],
    }
    return Start(name, hashlib.sha256(content).hexdigest(), params, labels, classes)


def check(start: Start, workdir_: AnyPath) -> None:
    """Raises `InputError` where a run folder is of one that started from other parameters."""
    path = workdir_ / workdir.START
    if path.exists() and _load(workdir_, workdir.START)["sha256"] != start.sha256:
        raise InputError(
            f"{start.folder} has other parameters than when {workdir_} started from it: restore "
            "it, or choose another --workdir."
        )


def _labels(theirs: Sequence[str], ours: Sequence[str]) -> tuple[int | None, ...]:
    there, here = collections.Counter(theirs), collections.Counter(ours)
    found = {name: label for label, name in enumerate(theirs) if there[name] == 1}
    return tuple(found.get(name) if here[name] == 1 else None for name in ours)


def _load(folder: AnyPath, name: str) -> Any:
    try:
        return json.loads((folder / name).read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"--from={folder} is no run folder: it has no {name}.") from None
    except ValueError:
        raise InputError(f"{folder / name} is damaged: leave out --from.") from None


def _check_same(folder: AnyPath, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuses a run of another method or CLIP."""
    for key, called in (("method.name", "method"), ("clip.sha256", "CLIP")):
        if theirs.get(key) != ours[key]:
            shown = "clip.name" if key == "clip.sha256" else key
            raise InputError(
                f"{folder} was trained with another {called}, {theirs.get(shown)}, than this run's "
                f"{ours[shown]}: choose the same, or leave out --from."
            )


def _of_method(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: x for key, x in settings.items() if key.startswith("method.")}
