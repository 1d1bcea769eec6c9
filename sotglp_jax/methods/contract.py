"""What a method is: a frozen dataclass of options whose functions are pure.

A method knows no mesh, no file, no configuration and no data set. The order of its functions is
that of a run: class names become tokens, parameters start from them, images and classes become
features, features become scores, scores become a loss, and after the last step the parameters are
finished.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from sotglp_jax.clip import Towers
from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.errors import InputError

PADDING = -1  # the label of a row that is no image

Params = dict[str, Any]
# Of "train" or "val": encoded images and their labels, batch by batch, on the host, no padding.
Images = Callable[[str], Iterator[tuple[dict[str, np.ndarray], Int[np.ndarray, " B"]]]]


@struct.dataclass
class Scores:
    """What a method makes of a batch of B images and C classes.

    Attributes:
      logits: (B, C) by the names in `Method.logits`.
      sims: cosines, float32: "global" (B, C, N) of images and N prompts, and "local" (B, P, C, N)
        of patches and prompts where a method looks at patches.
      parts: whatever else evaluators ask for by name: "plan" (B, C, K, N), the transport plan;
        "support" (B, C, K) or (B, C, K, N), the patches it is over; "phi" (B, C), what it carries;
        "negative" (B,), what negative texts add to MCM (LSN).
    """

    logits: dict[str, Float[Array, "B C"]]
    sims: dict[str, Float[Array, "B ..."]] = struct.field(default_factory=dict)
    parts: dict[str, Array] = struct.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the training with an optimizer of its own.

    Attributes:
      epochs: how often every image is shown, by every turn where there are some.
      lr: the largest learning rate.
      schedule: a key of `schedules.SCHEDULES`.
      warmup_epochs: epochs at `warmup_lr` before.
      warmup_lr: the learning rate of these.
      trained: names of the parameters that move; () is all of them.
      turns: names of those of them that move by turns: each of them, alone, for a whole pass over
        the images; an epoch is then a pass of each. () moves all at once.
      optimizer: a key of `optimizers.OPTIMIZERS`.
      updates: optimizer steps for every batch of images.
      average: for each epoch, the weight of the parameters after it in the average that the stage
        ends with; () ends with the last parameters.
    """

    epochs: int
    lr: float
    schedule: str
    warmup_epochs: int
    warmup_lr: float
    trained: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    optimizer: str = "sgd"
    updates: int = 1
    average: tuple[float, ...] = ()

    @property
    def passes(self) -> int:
        """How often every image is shown."""
        return self.epochs * max(1, len(self.turns))

    def moving(self, params: Params, turn: str) -> Params:
        """Those of the parameters that move, in a turn or without ("")."""
        names = (turn,) if turn else self.trained or self.turns or tuple(params)
        return {name: params[name] for name in names}


@struct.dataclass
class Moment:
    """When a loss is computed.

    Attributes:
      key: randomness of this update.
      step: batches of images before this one.
      update: optimizer steps on this batch before this one.
      stage: number of the stage.
      batch: randomness of this batch, the same for all updates on it.
      turn: the parameter whose turn it is, "" where there are no turns.
    """

    key: PRNGKeyArray
    step: Int[Array, ""]
    update: Int[Array, ""]
    stage: int = struct.field(pytree_node=False, default=0)
    batch: PRNGKeyArray | None = None
    turn: str = struct.field(pytree_node=False, default="")


@dataclasses.dataclass(frozen=True)
class Variant:
    """An ablation: its title in tables, and what it changes of a method's options."""

    title: str
    changes: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Method:
    """The base of all methods; what stands here holds for those that say nothing else.

    Its fields but `towers` are the options, in `config.method`. `__post_init__` checks them; the
    towers may be None there, when options are checked before CLIP is loaded.

    A method adds `init`, `encode_classes`, `score` and, where it has stages, `loss`:
      init(key, frozen, names) -> params: a dictionary of float32 arrays or trees of them.
      encode_classes(params, frozen, names) -> text: a tree of arrays with C rows.
      score(params, frozen, text, image) -> Scores.
      loss(params, frozen, text, image, labels, moment) -> (B,) values to be minimised in the mean,
        and metrics by name, (B,) or (). Rows labelled `PADDING` are left out of all means.
    `frozen` holds CLIP's weights, "vision", "text" and "logit_scale"; `names` what `tokenize` gave,
    every `Tokens` in it packed (`clip.packing`).

    Attributes:
      towers: CLIP's modules.
      title: what tables call it.
      logits: what the classifiers are called behind the title, by the names of their logits; the
        first one decides.
      recipes: names of the settings that `recipe` knows, the usual one first.
      tiny: what the recipe "tiny", the usual one for the tiny CLIP, changes of the first recipe,
        which is made for towers of twelve layers; chosen on validation shots.
      variants: ablations by name.
      symbols: the paper's symbols of options that are swept.
      detection_only: options that change no logits, so that runs with other values are alike.
      learns: whether there is anything to train.
      frozen_images: whether `encode_images` leaves the parameters alone, so that features may come
        from a cache.
      local: which features of patches `score` compares with the texts, a kind of `Towers.images`;
        "" is none. An option of a method that has a choice.
      keep_underscores: whether `_` in class names stays as it is, in zero-shot CLIP's sentences
        beside the method too. An option of a method that has a choice.
      text_waits: whether `score` runs the text tower, since texts depend on the image;
        `encode_classes` may then give anything that `score` needs of the classes.
      decay: factors on the weight decay of parameters by name, 1 for all others.
      torch_names: for each parameter its name in the authors' code, or a function that names each
        of its rows where these are tensors of their own; and a pair of functions that bring an
        array, and a shape, into their layout and back (`clip.weights.SAME`, `TRANSPOSE`).
      torch_unused: regular expression of tensors there, but CLIP's own, that no score depends on.
      note: what a table says of results that this method stands in for another one with.
    """

    towers: Towers

    title: ClassVar[str]
    logits: ClassVar[Mapping[str, str]]
    recipes: ClassVar[tuple[str, ...]] = ("official",)
    tiny: ClassVar[Mapping[str, Any]] = {}
    variants: ClassVar[Mapping[str, Variant]] = {}
    symbols: ClassVar[Mapping[str, str]] = {}
    detection_only: ClassVar[tuple[str, ...]] = ()
    learns: ClassVar[bool] = True
    frozen_images: ClassVar[bool] = True
    local: ClassVar[str] = ""
    keep_underscores: ClassVar[bool] = False
    text_waits: ClassVar[bool] = False
    decay: ClassVar[Mapping[str, float]] = {}
    torch_names: ClassVar[Mapping[str, tuple]] = {}
    torch_unused: ClassVar[str] = ""
    note: ClassVar[str] = ""

    @classmethod
    def options(cls) -> dict[str, Any]:
        """The options with their defaults."""
        fields = dataclasses.fields(cls)
        return {field.name: field.default for field in fields if field.name != "towers"}

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """The settings of a recipe, such as {"train.lr": 0.002}.

        Args:
          name: one of `recipes`.
          dataset: the data set, as `config.dataset` has it.
          shots: images per class.
          protocol: "few_shot", "base_to_new" or "transfer".
        """
        return {}

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """What of such a recipe its authors have not published, and what stands in for it.

        Arguments are those of `recipe`; "" where all of it is published.
        """
        return ""

    @property
    def validation(self) -> str:
        """The setting for which `finish` needs validation images, "" where it needs none."""
        return ""

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> Any:
        """A tree with the class names as `Tokens`, on the host; see `encode_classes`.

        A method that wants what zero-shot CLIP reads has that at "zero_shot": the data set may know
        better sentences.

        Args:
          tokenizer: CLIP's.
          class_names: as the data set has them.
          template: the data set's sentence with {} for the name.

        Raises:
          InputError: a name does not fit into the text tower's context.
        """
        return {"names": tokenizer(readable(class_names))}

    def text_tokens(self, length: int) -> int:
        """Tokens in the text tower for a class whose name has so many, for estimates of memory."""
        return length

    def tokenize_fixed(self, tokenizer: Tokenizer, class_names: tuple[str, ...]) -> Any:
        """A tree with the texts that `fixed` needs as `Tokens`, on the host."""
        return {}

    def fixed(self, frozen: dict, names: Any) -> dict:
        """What training compares with, made once and neither learned nor saved: frozen["fixed"].

        Args:
          frozen: CLIP's weights.
          names: what `tokenize_fixed` gave, packed.
        """
        return {}

    def stages(self, train: Mapping[str, Any]) -> tuple[Stage, ...]:
        """The stages of the training by `config.train`; one that does as it says.

        () trains nothing step by step: `finish` makes the parameters of those of `init`.
        """
        names = ("epochs", "lr", "schedule", "warmup_epochs", "warmup_lr")
        return (Stage(**{name: train[name] for name in names}),)

    def encode_images(
        self, params: Params, frozen: dict, pixels: UInt8[Array, "B R R 3"]
    ) -> dict[str, Float[Array, "B ..."]]:
        """Features of a batch; "cls" is plain CLIP's class token before its projection."""
        return self.towers.images(frozen, pixels)

    def encode_step(self, params: Params, frozen: dict, names: Any, moment: Moment) -> Any:
        """The text features that `loss` takes: those of `encode_classes`, or a part of them.

        Args:
          params: the parameters.
          frozen: CLIP's weights, and what `fixed` made.
          names: what `tokenize` gave, packed.
          moment: of the step.
        """
        return self.encode_classes(params, frozen, names)

    def finish(self, params: Params, frozen: dict, text: Any, images: Images) -> Params:
        """The parameters to evaluate and keep, of those that training ended with.

        Args:
          params: the parameters.
          frozen: CLIP's weights.
          text: what `encode_classes` gives of them.
          images: see `Images`; without augmentation.
        """
        return params

    def on(self, params: Params, labels: tuple[int, ...]) -> "tuple[Method, Params] | None":
        """The method and its parameters for other classes, None where it has nothing for them.

        Args:
          params: of the classes of the training.
          labels: the label that each class had in training; () if one had none.
        """
        return self, params

    def summary(self, params: Params, classes: int) -> dict[str, dict[str, float]]:
        """Numbers worth knowing of a finished training by topic and name, for results.json.

        Args:
          params: the finished parameters.
          classes: number of those trained on.
        """
        return {}

    def contexts(self, params: Params) -> dict[str, Float[Array, "... M Dt"]]:
        """Context vectors in the space of token embeddings, whose nearest words can be named."""
        return {}

    def prompt_features(self, text: Any) -> Float[Array, "C N D"] | None:
        """Text features of the N prompts of each class that ought to differ; None without."""
        return None


def readable(names: tuple[str, ...]) -> list[str]:
    """Class names as they are put into sentences."""
    return [name.replace("_", " ") for name in names]


def at_least(least: float, **options: float) -> None:
    """Raises `InputError` for an option below `least`."""
    for name, value in options.items():
        if not value >= least:
            raise InputError(
                f"method.{name}={value} is too small: set --config.method.{name} to {least} or "
                "more."
            )


def one_of(choices: tuple[str, ...], **options: str) -> None:
    """Raises `InputError` for an option that is none of `choices`."""
    for name, value in options.items():
        if value not in choices:
            listed = ", ".join(repr(choice) for choice in choices)
            raise InputError(
                f'method.{name}="{value}" is unknown: set --config.method.{name} to {listed}.'
            )


def accuracies(
    logits: Mapping[str, Float[Array, "B C"]], labels: Int[Array, " B"]
) -> dict[str, Float[Array, " B"]]:
    """Metrics accuracy_NAME, 1 where the first of the largest logits is the label's."""
    return {
        f"accuracy_{name}": (x.argmax(-1) == labels).astype("float32") for name, x in logits.items()
    }


def masked_mean(x: Float[Array, "*B"], labels: Int[Array, " B"]) -> Float[Array, ""]:
    """The mean over the images of a value of each, or a value that is none's as it is."""
    if not x.ndim:
        return x
    real = labels != PADDING
    return jax.numpy.sum(jax.numpy.where(real, x, 0.0)) / jax.numpy.maximum(real.sum(), 1)
