"""LSN: texts that each class's images are to be unlike, beside a classifier of its own.

Source: "Learning Transferable Negative Prompts for Out-of-Distribution Detection", ICLR 2024, and
https://github.com/junz-debug/lsn.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.methods import prompts
from sotglp_jax.methods.cocoop import CoCoOp
from sotglp_jax.methods.contract import (
    Method,
    Moment,
    Params,
    Scores,
    Stage,
    accuracies,
    at_least,
    one_of,
    readable,
)
from sotglp_jax.methods.coop import CoOp
from sotglp_jax.methods.similarity import cosines, unit

OBJECTIVES = ("official", "paper")


@dataclasses.dataclass(frozen=True)
class Negatives(Method):
    """Negative texts beside a positive classifier, the class that stands behind in the bases.

    The positive is trained first and alone says the class; then the negatives are. They meet in the
    score of detection: the positive's MCM at a temperature of 1, plus the mean over the negative
    sets of the largest softmax of (1 - cosine) / `negative_temperature`.

    Attributes:
      n_negative: K, sets of negative texts, one text a class in each.
      n_ctx_negative: context vectors of each negative text.
      negative_epochs: epochs of the negatives' training, by Adam.
      negative_lr: their largest learning rate.
      objective: "official", as the authors' code has it: probabilities in place of logits in the
        cross-entropies, the sets by turns; or "paper", as the paper is reported to have it: plain
        cross-entropies, all sets at once.
      negative_scale: factor on 1 - cosine in the negatives' cross-entropy.
      orthogonality: weight of the cosines between the sets in the negatives' loss.
      negative_temperature: of the softmax in the score.
    """

    n_negative: int = 3
    n_ctx_negative: int = 16
    negative_epochs: int = 100
    negative_lr: float = 0.002
    objective: str = "official"
    negative_scale: float = 20.0
    orthogonality: float = 1.0
    negative_temperature: float = 5.0

    tiny: ClassVar[Mapping[str, Any]] = {"method.negative_epochs": 5}
    # Its authors published no file of prompts, so there are no names to follow.
    torch_names: ClassVar[Mapping[str, tuple]] = {}
    # What stands behind in the bases, and whether the authors' code doubles its softmax too.
    positive: ClassVar[type[Method]]
    doubled: ClassVar[bool]

    def __post_init__(self):
        super().__post_init__()
        at_least(1, n_negative=self.n_negative, n_ctx_negative=self.n_ctx_negative)
        at_least(1, negative_epochs=self.negative_epochs)
        at_least(0, negative_lr=self.negative_lr, orthogonality=self.orthogonality)
        at_least(1e-6, negative_temperature=self.negative_temperature)
        one_of(OBJECTIVES, objective=self.objective)

    @property
    def negative_names(self) -> tuple[str, ...]:
        """The names of the sets among the parameters."""
        return tuple(f"no{k}" for k in range(1, self.n_negative + 1))

    def stages(self, train: Mapping[str, Any]) -> tuple[Stage, ...]:
        """The positive as `config.train` says, then the negatives by Adam and a plain cosine."""
        (stage,) = super().stages(train)
        names = self.negative_names
        negative = Stage(
            self.negative_epochs,
            self.negative_lr,
            schedule="paper",
            warmup_epochs=0,
            warmup_lr=0.0,
            trained=names,
            turns=names if self.objective == "official" else (),
            optimizer="adam",
        )
        return dataclasses.replace(stage, trained=tuple(self.positive.torch_names)), negative

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """What the positive needs, and the names with their full stop for the negatives."""
        names = [f"{name}." for name in readable(class_names)]
        negative = tokenizer(names, room=self.n_ctx_negative)
        return super().tokenize(tokenizer, class_names, template) | {"negative": negative}

    def text_tokens(self, length: int) -> int:
        """Those of the positive and of every negative set."""
        return super().text_tokens(length) + self.n_negative * (length + self.n_ctx_negative)

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """The positive's, and no1, no2, ... (C, M, D_t), of each class its own."""
        of_positive, *keys = jax.random.split(key, 1 + self.n_negative)
        shape = (len(names["names"].places), self.n_ctx_negative, self.towers.text.width)
        contexts = (prompts.normal(k, shape) for k in keys)
        named = dict(zip(self.negative_names, contexts, strict=True))
        return super().init(of_positive, frozen, names) | named

    def negatives(
        self, params: Params, frozen: dict, names: dict, sets: tuple[str, ...]
    ) -> Float[Array, "C K D"]:
        """Text features of some of the sets, not normalised."""
        own = jnp.stack([params[name] for name in sets], axis=1)
        return self.towers.texts(frozen, names["negative"], None, own)

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> dict:
        """ "positive" as the positive has them, and "negative" (C, K, D), not normalised."""
        return {
            "positive": super().encode_classes(params, frozen, names),
            "negative": self.negatives(params, frozen, names, self.negative_names),
        }

    def encode_step(self, params: Params, frozen: dict, names: dict, moment: Moment) -> dict:
        """The positive's features, or those of the negatives: of the turn's set apart."""
        if moment.stage == 0:
            return {"positive": super().encode_classes(params, frozen, names)}
        moving = (moment.turn,) if moment.turn else self.negative_names
        resting = tuple(name for name in self.negative_names if name not in moving)
        found = {"negative": self.negatives(params, frozen, names, moving)}
        if resting:
            found["resting"] = self.negatives(params, frozen, names, resting)
        return found

    def score(self, params: Params, frozen: dict, text: dict, image: dict) -> Scores:
        """The positive's, and "negative" (B,), what the negatives add to the detection score."""
        scores = super().score(params, frozen, text["positive"], image)
        sim = self.similarities(frozen, text["negative"], image)
        chosen = jax.nn.softmax((1 - sim) / self.negative_temperature, axis=1).max(1)
        return scores.replace(parts=scores.parts | {"negative": chosen.mean(-1)})

    def similarities(
        self, frozen: dict, negative: Float[Array, "C K D"], image: dict
    ) -> Float[Array, "B C K"]:
        """Cosines of images and negative texts."""
        feature = unit(self.towers.project(frozen, image["cls"]))
        return cosines("bd,ckd->bck", feature, unit(negative))

    def loss(
        self,
        params: Params,
        frozen: dict,
        text: dict,
        image: dict,
        labels: Int[Array, " B"],
        moment: Moment,
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """The positive's cross-entropy; then the negatives', and how alike their sets are."""
        if moment.stage == 0:
            logits = super().score(params, frozen, text["positive"], image).logits
            doubled = self.doubled and self.objective == "official"
            return cross_entropy(*logits.values(), labels, doubled), accuracies(logits, labels)
        logits = self.negative_scale * (1 - self.similarities(frozen, text["negative"], image))
        official = self.objective == "official"
        each = jax.vmap(lambda x: cross_entropy(x, labels, official), in_axes=2)(logits).sum(0)
        alike = orthogonality(text) if official else absolute_orthogonality(text["negative"])
        found = {"loss_negative": each, "loss_orthogonality": alike}
        return each + self.orthogonality * alike, found

    def on(self, params: Params, labels: tuple[int, ...]) -> tuple[Method, Params] | None:
        """The positive is alone with classes of which one is unknown: that has no negatives."""
        found = super().on(params, labels)
        if found is None:
            return None
        kept = {name: found[1][name] for name in self.positive.torch_names}
        if labels:
            return self, kept | {k: params[k][np.array(labels)] for k in self.negative_names}
        options = {name: getattr(self, name) for name in self.positive.options()}
        return self.positive(self.towers, **options), kept

    def contexts(self, params: Params) -> dict[str, Array]:
        """The positive's, and those of the negative sets."""
        negative = jnp.stack([params[name] for name in self.negative_names], axis=1)
        return super().contexts(params) | {"negative": negative}


@dataclasses.dataclass(frozen=True)
class Lsn(Negatives, CoOp):
    """LSN on CoOp."""

    title: ClassVar[str] = "LSN + CoOp"
    recipes: ClassVar[tuple[str, ...]] = OBJECTIVES
    positive: ClassVar[type[Method]] = CoOp
    doubled: ClassVar[bool] = True

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """The authors' script; "paper" has what is reported of the paper, which is not all."""
        return settings(name, epochs=50, lr=0.001)

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """All but one script, and the paper's at second hand."""
        if name == "official":
            return "settings are published for 128 shots of 100 ImageNet classes, and stand in"
        return "settings are those that others report of the paper, and partly guesses"


@dataclasses.dataclass(frozen=True)
class LsnCoCoOp(Negatives, CoCoOp):
    """LSN on CoCoOp, whose texts wait for the image; the negatives do not."""

    title: ClassVar[str] = "LSN + CoCoOp"
    recipes: ClassVar[tuple[str, ...]] = OBJECTIVES
    positive: ClassVar[type[Method]] = CoCoOp
    doubled: ClassVar[bool] = False

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """CoCoOp's epochs and learning rate; no code and no settings of this one are published."""
        return settings(name, epochs=10, lr=0.002)

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """Its code and settings."""
        return "no code and no settings of it are published: LSN + CoOp's and CoCoOp's stand in"


def settings(objective: str, epochs: int, lr: float) -> dict[str, Any]:
    """Training settings by their keys: images as they are tested, batches of eight."""
    found = {
        "train.epochs": epochs,
        "train.batch_size": 8,
        "train.lr": lr,
        "train.weight_decay": 5e-4,
        "train.schedule": "paper",
        "data.crop_scale": (),
        "data.flip": False,
        "method.objective": objective,
    }
    of_paper = {"method.negative_lr": 0.001, "method.orthogonality": 0.1}
    return found | of_paper if objective == "paper" else found


def cross_entropy(
    logits: Float[Array, "B C"], labels: Int[Array, " B"], doubled: bool
) -> Float[Array, " B"]:
    """Cross-entropy of the logits or, doubled, of their softmax in place of logits."""
    return optax.softmax_cross_entropy_with_integer_labels(
        jax.nn.softmax(logits) if doubled else logits, labels
    )


def orthogonality(text: dict[str, Float[Array, "C K D"]]) -> Float[Array, ""]:
    """The mean cosine of the turn's texts with those of the other sets, class by class."""
    if "resting" not in text:
        return jnp.float32(0)
    moving, resting = unit(text["negative"]), unit(text["resting"])
    return cosines("cid,ckd->cik", moving, resting).mean()


def absolute_orthogonality(negative: Float[Array, "C K D"]) -> Float[Array, ""]:
    """Over classes and pairs of sets, the sum of the cosines' absolute values."""
    t = unit(negative)
    pairs = np.triu(np.ones((t.shape[1], t.shape[1]), np.float32), 1)
    return jnp.sum(pairs * jnp.abs(cosines("cid,ckd->cik", t, t)))
