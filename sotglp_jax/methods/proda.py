"""ProDA: a distribution of prompts, of which every step sees a few.

Source: https://arxiv.org/abs/2205.03340. Its official code is not public any more; the formulas are
those of public copies of it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.errors import InputError
from sotglp_jax.methods import prompts
from sotglp_jax.methods.contract import (
    Method,
    Moment,
    Params,
    Scores,
    Stage,
    accuracies,
    at_least,
    readable,
)
from sotglp_jax.methods.similarity import classify, cosines, unit


@struct.dataclass
class StepTexts:
    """What a step's loss takes, not normalised.

    Attributes:
      block: features of the n prompts of this step.
      no_class: features of all prompts without a class name.
    """

    block: Float[Array, "C n D"]
    no_class: Float[Array, "K D"]


@dataclasses.dataclass(frozen=True)
class ProDA(Method):
    """s · f · the mean of the K prompts' unit features.

    A quarter of the prompts has the name in front, a quarter in the middle, the rest at the end.

    Attributes:
      n_prompts: K, shared by the classes.
      n_ctx: M, context vectors of each.
      block: n, prompts of an update; K / n updates are made for every batch of images.
      weight: λ of the prompts' likeness without class names.
    """

    n_prompts: int = 32
    n_ctx: int = 16
    block: int = 4
    weight: float = 0.1

    title: ClassVar[str] = "ProDA"
    logits: ClassVar[Mapping[str, str]] = {"prompted": ""}
    symbols: ClassVar[Mapping[str, str]] = {"n_prompts": "K", "weight": "λ"}

    def __post_init__(self):
        at_least(1, n_prompts=self.n_prompts, n_ctx=self.n_ctx, block=self.block)
        at_least(0, weight=self.weight)
        if self.n_prompts % self.block:
            raise InputError(
                f"method.block={self.block} does not divide the {self.n_prompts} prompts: set "
                "--config.method.block to a number that does."
            )

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """What public copies of the authors' code agree on, and guesses where they do not."""
        return {
            "train.epochs": 100,
            "train.batch_size": 20,
            "train.lr": 0.002,
            "train.momentum": 0.0,
            "train.weight_decay": 0.0,
            "train.schedule": "steps",
        }

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """Nearly all, since its code is not public any more."""
        return (
            "the authors' code is not public: settings are those of public copies, and λ, the "
            "schedule and the numbers of epochs and updates partly guesses"
        )

    def stages(self, train: Mapping[str, Any]) -> tuple[Stage, ...]:
        """One stage with an update for every block of prompts."""
        (stage,) = super().stages(train)
        return (dataclasses.replace(stage, updates=self.n_prompts // self.block),)

    @property
    def before(self) -> Int[np.ndarray, " K"]:
        """Context vectors before the name, by prompt."""
        quarter = self.n_prompts // 4
        places = np.full(self.n_prompts, self.n_ctx)
        places[:quarter], places[quarter : 2 * quarter] = 0, self.n_ctx // 2
        return places

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """Names with their full stop, and a full stop without a name."""
        names = readable(class_names)
        tokens = tokenizer([f"{name}." for name in names], room=self.n_ctx)
        split = np.array([len(tokenizer.encode(name)) for name in names], np.int32)
        empty = tokenizer(["."], room=self.n_ctx)
        return {"names": tokens.replace(split=split), "empty": empty}

    def text_tokens(self, length: int) -> int:
        """Names and contexts of a step's prompts; those of all go through the tower once."""
        return self.block * (length + self.n_ctx)

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """ctx (K, M, D_t)."""
        shape = (self.n_prompts, self.n_ctx, self.towers.text.width)
        return {"ctx": prompts.normal(key, shape)}

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> Float[Array, "C K D"]:
        """Text features of all prompts and names, not normalised."""
        cuts = np.flatnonzero(np.diff(self.before)) + 1
        groups = np.split(np.arange(self.n_prompts), cuts)
        found = [
            self.towers.texts(
                frozen, names["names"], params["ctx"][group], before=int(self.before[group[0]])
            )
            for group in groups
        ]
        return jnp.concatenate(found, axis=1)

    def encode_step(self, params: Params, frozen: dict, names: dict, moment: Moment) -> StepTexts:
        """Those of this update's block, by a new order of the prompts for every batch."""
        order = jax.random.permutation(moment.batch, self.n_prompts)
        chosen = jax.lax.dynamic_slice_in_dim(order, moment.update * self.block, self.block)
        return self.texts_of(params, frozen, names, chosen)

    def texts_of(
        self, params: Params, frozen: dict, names: dict, chosen: Int[Array, " n"]
    ) -> StepTexts:
        """Text features of some prompts with names, and of all prompts without."""
        before = jnp.asarray(self.before)[chosen]
        block = self.towers.texts(frozen, names["names"], params["ctx"][chosen], before=before)
        (no_class,) = self.towers.texts(frozen, names["empty"], params["ctx"])
        return StepTexts(block, no_class)

    def score(
        self, params: Params, frozen: dict, text: Float[Array, "C K D"], image: dict
    ) -> Scores:
        """Scaled cosines, averaged over all prompts."""
        return classify(self.towers, frozen, image["cls"], text, "prompted")

    def loss(
        self,
        params: Params,
        frozen: dict,
        text: StepTexts,
        image: dict,
        labels: Int[Array, " B"],
        moment: Moment,
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """An upper bound of the expected cross-entropy, and the prompts' likeness."""
        feature, scale = unit(self.towers.project(frozen, image["cls"])), frozen["logit_scale"]
        prompts, scale = unit(text.block), jnp.exp(scale)
        means = scale * cosines("bd,cd->bc", feature, prompts.mean(1))
        logits = means + 0.5 * scale**2 * variance(feature, prompts, labels)
        upper = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        alike = likeness(text.no_class)
        metrics = {"loss_upper": upper, "loss_ortho": alike}
        return upper + self.weight * alike, metrics | accuracies({"prompted": means}, labels)

    def contexts(self, params: Params) -> dict[str, Array]:
        """The prompts."""
        return {"context": params["ctx"]}


def variance(
    feature: Float[Array, "B D"], prompts: Float[Array, "C n D"], labels: Int[Array, " B"]
) -> Float[Array, "B C"]:
    """The variance of f · (t_c - t_y) over the prompts, its dimensions taken as independent.

    It is made of products of matrices, without the covariances (D, C, C) of the copies.

    Args:
      feature: unit image features.
      prompts: unit text features of n prompts.
      labels: y.
    """
    spread = prompts - prompts.mean(1, keepdims=True)
    squares, own = feature**2, spread[labels]
    of_all = cosines("bd,cd->bc", squares, jnp.sum(spread**2, axis=1))
    of_own = jnp.sum(squares[:, None] * own**2, axis=(1, 2))
    both = cosines("bnd,cnd->bc", squares[:, None] * own, spread)
    return (of_own[:, None] + of_all - 2 * both) / (prompts.shape[1] + 1)


def likeness(features: Float[Array, "K D"]) -> Float[Array, ""]:
    """The mean of |cos| over all pairs of different prompts; 0 of a single one."""
    k = len(features)
    sim = jnp.abs(cosines("id,jd->ij", unit(features), unit(features)))
    return jnp.sum(sim * (1 - jnp.eye(k))) / max(k * (k - 1), 1)
