"""Whether anybody's method keeps the contract, found out on shapes before anything runs."""

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sotglp_jax.clip.packing import pack
from sotglp_jax.clip.tokenizer import Tokens
from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import Method, Moment, Params, Scores, Stage
from sotglp_jax.optimizers import OPTIMIZERS
from sotglp_jax.schedules import SCHEDULES

IMAGES = 2  # that are checked with
AXES = {"global": 3, "local": 4}  # of `Scores.sims`


@dataclasses.dataclass(frozen=True)
class Check:
    """Makes sure that the functions of a method give what they have to.

    All its functions raise an `InputError` that names the method's function at fault and what is
    wanted of it. What the method's own code raises is left as it is.

    Attributes:
      method: the method.
      frozen: CLIP's weights.
      classes: their number.
      size: side of the images that the vision tower sees, in pixels.
    """

    method: Method
    frozen: dict
    classes: int
    size: int

    def start(self, names: Any, texts: Any, train: Mapping[str, Any]) -> None:
        """Checks what comes before and during the training.

        Args:
          names: what `tokenize` gave.
          texts: what `tokenize_fixed` gave.
          train: as `config.train`.
        """
        params, names = self.init(names), _packed(names)
        stages = self.method.stages(train)
        self._params("init", params)
        single = all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
        self._demand("init", single, "float32 arrays alone", params)
        if stages:
            if not hasattr(self.method, "loss"):
                raise self._fault("loss is missing: a method that is trained in steps needs one")
            fixed = self._shapes("fixed", self.frozen, _packed(texts))
            self._demand("fixed", isinstance(fixed, dict), "a dictionary", fixed)
            _, image = self._predicts(params, names)
            for number, stage in enumerate(stages):
                self._stage(stage, params)
                for turn in stage.turns or ("",):
                    key, zero = jax.random.key(0), np.int32(0)
                    now = Moment(key, zero, zero, number, key, turn)
                    self._loss(params, self.frozen | {"fixed": fixed}, names, image, now)

    def init(self, names: Any) -> Any:
        """Shapes of the first parameters, when options and classes go together.

        Args:
          names: what `tokenize` gave.
        """
        return self._shapes("init", jax.random.key(0), self.frozen, _packed(names))

    def finished(self, params: Any, names: Any) -> None:
        """Checks what `finish` gave, and what is predicted with it.

        Args:
          params: what `finish` gave.
          names: what `tokenize` gave, packed.
        """
        self._params("finish", params)
        self._predicts(params, names)

    def _predicts(self, params: Params, names: Any) -> tuple[Any, dict]:
        """Shapes of the features of classes and images, when they and their scores are right."""
        # A prediction has no text tower any more, unless texts wait for the image.
        kept = ("vision", "logit_scale", *["text"] * self.method.text_waits)
        shown = {name: self.frozen[name] for name in kept}
        text = self._shapes("encode_classes", params, self.frozen, names)
        if not self.method.text_waits:
            self._rows("encode_classes", text, self.classes, "classes")
        pixels = jax.ShapeDtypeStruct((IMAGES, self.size, self.size, 3), jnp.uint8)
        image = self._shapes("encode_images", params, shown, pixels)
        self._demand("encode_images", isinstance(image, dict), "a dictionary", image)
        self._rows("encode_images", image, IMAGES, "images")
        if self.method.frozen_images:
            self._needs_no_params(shown, pixels)
        self._scores(self._shapes("score", params, shown, text, image))
        self._on(params)
        return text, image

    def _params(self, name: str, params: Any) -> None:
        named = isinstance(params, dict) and all(isinstance(key, str) for key in params)
        arrays = named and all(hasattr(x, "shape") for x in jax.tree.leaves(params))
        self._demand(name, arrays, "a dictionary of arrays by name", params)

    def _needs_no_params(self, frozen: dict, pixels) -> None:
        try:
            self._shapes("encode_images", {}, frozen, pixels)
        except KeyError as error:
            raise self._fault(
                f"encode_images uses the parameter {error}, which has no gradient there: set "
                "frozen_images = False in the class"
            ) from None

    def _scores(self, scores: Any) -> None:
        self._demand("score", isinstance(scores, Scores), "Scores", scores)
        logits, wanted = scores.logits, (IMAGES, self.classes)
        named = isinstance(logits, dict) and logits.keys() == self.method.logits.keys()
        self._demand("score", named, f"logits named {_listed(self.method.logits)}", logits)
        right = all(x.shape == wanted for x in logits.values())
        self._demand("score", right, f"logits of shape {wanted}, images by classes", logits)
        known = all(x.ndim == AXES.get(name) for name, x in scores.sims.items())
        self._demand("score", known, 'sims "global" (B C N) and "local" (B P C N)', scores.sims)
        if ("local" in scores.sims) != bool(self.method.local):
            raise self._fault(
                f'score gives {"no " if self.method.local else ""}sims "local" while the class has '
                f'local = "{self.method.local}": name there which features of patches they are of'
            )

    def _stage(self, stage: Any, params: Params) -> None:
        self._demand("stages", isinstance(stage, Stage), "a tuple of Stage", stage)
        if stage.schedule not in SCHEDULES:
            raise self._fault(
                f'stages names the schedule "{stage.schedule}": take one of {_listed(SCHEDULES)}'
            )
        if stage.optimizer not in OPTIMIZERS:
            raise self._fault(
                f'stages names the optimizer "{stage.optimizer}": take one of {_listed(OPTIMIZERS)}'
            )
        if unknown := {*stage.trained, *stage.turns} - params.keys():
            raise self._fault(
                f"stages trains {_listed(unknown)}, but init gives {_listed(params)} alone"
            )
        if stage.average and len(stage.average) != stage.epochs:
            raise self._fault(
                f"stages gives {len(stage.average)} weights of an average over {stage.epochs} "
                "epochs: give one for each"
            )

    def _loss(self, params: Params, frozen: dict, names: Any, image: dict, moment: Moment) -> None:
        labels = jax.ShapeDtypeStruct((IMAGES,), jnp.int32)
        text = self._shapes("encode_step", params, frozen, names, moment)
        found = self._shapes("loss", params, frozen, text, image, labels, moment)
        pair = isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict)
        self._demand("loss", pair, "the values of all images and a dictionary of metrics", found)
        values, metrics = found
        wanted = f"values of shape {(IMAGES,)}, one for each image"
        self._demand("loss", getattr(values, "shape", None) == (IMAGES,), wanted, values)
        right = all(x.shape in ((IMAGES,), ()) for x in metrics.values())
        self._demand("loss", right, f"metrics of shape {(IMAGES,)} or ()", metrics)

    def _on(self, params: Params) -> None:
        """Of all classes as they are, and of unknown ones."""
        for labels in (tuple(range(self.classes)), ()):
            found = []
            jax.eval_shape(lambda x, n=labels, out=found: out.append(self.method.on(x, n)), params)
            (other,) = found
            pair = isinstance(other, tuple) and len(other) == 2 and isinstance(other[0], Method)
            self._demand("on", other is None or pair, "a method and its parameters, or None", other)

    def _shapes(self, name: str, *arguments) -> Any:
        """What a function gives, as shapes."""
        function = getattr(self.method, name)
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError as error:
            raise self._fault(
                f"{name}{inspect.signature(function)} cannot be called with the contract's "
                f"arguments ({error})"
            ) from None
        return jax.eval_shape(function, *arguments)

    def _rows(self, name: str, tree: Any, rows: int, of: str) -> None:
        right = all(x.ndim and x.shape[0] == rows for x in jax.tree.leaves(tree))
        self._demand(name, right, f"arrays whose first axis is that of the {rows} {of}", tree)

    def _demand(self, name: str, right: bool, wanted: str, found: Any) -> None:
        if not right:
            raise self._fault(f"{name} must give {wanted}, but gives {_said(found)}")

    def _fault(self, said: str) -> InputError:
        return InputError(f"{type(self.method).__name__}.{said}.")


def _packed(tokens: Any) -> Any:
    return jax.tree.map(
        lambda x: pack(x) if isinstance(x, Tokens) else x,
        tokens,
        is_leaf=lambda x: isinstance(x, Tokens),
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in sorted(names)) or "nothing"


def _said(found: Any) -> str:
    """What was given, in few words: shapes by name, or the kind of it."""
    if hasattr(found, "shape"):
        return f"{found.dtype} {found.shape}"
    if isinstance(found, dict):
        return "{" + ", ".join(f"{name}: {_said(x)}" for name, x in found.items()) + "}"
    return "None" if found is None else type(found).__name__
