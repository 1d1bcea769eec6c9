"""PLOT++: prompts of both towers, matched by optimal transport, vision first and then both.

Source: https://github.com/CHENGY12/PLOT (plot-pp), https://arxiv.org/abs/2210.01253.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.errors import InputError
from sotglp_jax.methods import dassl, prompts, published, transport
from sotglp_jax.methods.contract import (
    Method,
    Moment,
    Params,
    Scores,
    Stage,
    at_least,
    readable,
)
from sotglp_jax.methods.similarity import cosines, unit

GENERAL = ("a photo of a", "this is a photo", "this is picture of", "one picture of a")
SATELLITE = "centered satellite"
# The authors' templates; of a data set that is not here, the general ones are ours to take.
TEMPLATES = {
    # Of three words against four, the third one takes the first token of every class name too.
    "imagenet": ("a photo of a", "this is a photo", "this is a", "one picture of a"),
    "dtd": (
        "a photo of a texture",
        "this is a photo texture",
        "this is a picture texture",
        "one picture of a texture",
    ),
    "eurosat": (
        f"a {SATELLITE} photo of",
        f"a {SATELLITE} picture of",
        f"this is {SATELLITE} photo of",
        f"one {SATELLITE} photo of a",
    ),
    "fgvc_aircraft": (
        "a photo of an aircraft",
        "a picture of an aircraft",
        "this is aircraft picture of",
        "one picture of an aircraft",
    ),
    "food101": (
        "a photo of a food",
        "this is a food photo",
        "this is food picture of",
        "one picture of a food",
    ),
    "flowers102": (
        "a photo of a flower",
        "one picture of a flower",
        "this is flower picture of",
        "one picture of a flower",
    ),
    "oxford_pets": (
        "a photo of a pet",
        "one picture of a pet",
        "this is pet picture of",
        "one picture of a pet",
    ),
    "ucf101": (
        "a photo of a person doing",
        "this is a photo people doing",
        "this is picture of people doing",
        "one picture of a person doing",
    ),
}


@dataclasses.dataclass(frozen=True)
class PlotPlusPlus(Method):
    """s · Σ T S over the cosines S of several image features and several text features.

    Attributes:
      templates: what the N text prompts start from; the first one's tokens, which are its words in
        OpenAI's vocabulary, are K, the learned tokens of each.
      n_vision: prompts of the vision tower, M passes through it.
      n_ctx_vision: tokens of each of these.
      epsilon: entropic regularisation of the plan, in units of 1 - cosine.
      iterations: of Sinkhorn; theirs stop by the batch's mean change, after 3 or 4.
      first_epochs: of the first stage, in which the text prompts rest.
    """

    templates: tuple[str, ...] = GENERAL
    n_vision: int = 4
    n_ctx_vision: int = 2
    epsilon: float = 0.1
    iterations: int = 20
    first_epochs: int = 50

    title: ClassVar[str] = "PLOT++"
    tiny: ClassVar[Mapping[str, Any]] = {"train.epochs": 50, "method.first_epochs": 10}
    logits: ClassVar[Mapping[str, str]] = {"transport": ""}
    symbols: ClassVar[Mapping[str, str]] = {"n_vision": "M", "epsilon": "ε"}
    frozen_images: ClassVar[bool] = False

    def __post_init__(self):
        at_least(1, n_vision=self.n_vision, n_ctx_vision=self.n_ctx_vision)
        at_least(1, iterations=self.iterations, first_epochs=self.first_epochs)
        if not self.epsilon > 0:
            raise InputError("method.epsilon must be above 0: 0.1 is the paper's.")
        if not self.templates or not all(str(t).split() for t in self.templates):
            raise InputError(
                f"method.templates={self.templates} must be sentences of a word or more each."
            )

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """The authors' scripts; the first stage has 50 epochs, as their README takes them."""
        settings = dassl.settings(dassl.epochs(dataset, shots), lr=0.002, batch_size=32)
        return settings | {"method.templates": TEMPLATES.get(dataset, GENERAL)}

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """There are scripts for few shots of the field's data sets."""
        return published.listed(
            published.by_set(dataset, "templates", "general ones"),
            published.by_shots(dataset, shots),
            published.by_protocol(protocol, "few_shot"),
        )

    def stages(self, train: Mapping[str, Any]) -> tuple[Stage, ...]:
        """The vision prompts alone, then all prompts with a new optimizer."""
        (stage,) = super().stages(train)
        warmup = min(stage.warmup_epochs, self.first_epochs - 1)
        first = dataclasses.replace(
            stage, epochs=self.first_epochs, warmup_epochs=warmup, trained=("ctx_vision",)
        )
        return first, stage

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """What stays behind the learned tokens of each template's sentences, and all starts.

        Templates that leave the same have it once, as "rest of" their numbers; it is the name alone
        where a template has no more tokens than the first one.
        """
        ids = [tokenizer.encode(template) for template in self.templates]
        k, names, groups = len(ids[0]), readable(class_names), {}
        for number, row in enumerate(ids):
            groups.setdefault((min(len(row), k), *row[k:]), []).append(number)
        padded = [np.pad(tokenizer([t]).ids[0, 1:], (0, k)) for t in self.templates]
        start = np.stack([row[:k] for row in padded])  # [EOT] behind a shorter one
        tree = {"start": start.astype(np.int32)}
        for members in groups.values():
            whole = tokenizer([f"{self.templates[members[0]]} {name}." for name in names])
            if whole.eot.min() <= k:  # nothing would be left of a sentence, not even its end
                raise InputError(
                    f'method.templates: "{self.templates[members[0]]}" is too short before '
                    f'"{names[whole.eot.argmin()]}" for the {k} learned tokens that the first '
                    "template has: write a longer one."
                )
            rest = np.concatenate([whole.ids[:, :1], whole.ids[:, 1 + k :]], axis=1)
            key = " ".join(["rest of", *map(str, members)])
            tree[key] = whole.replace(ids=rest, eot=whole.eot - k)
        return tree

    def tokenize_fixed(self, tokenizer: Tokenizer, class_names: tuple[str, ...]) -> Any:
        """The tree of `tokenize`, for the text features of the first stage."""
        return self.tokenize(tokenizer, class_names, "")

    def fixed(self, frozen: dict, names: Any) -> dict:
        """Text features (C, N, D) of the prompts' start, not normalised."""
        start = {"ctx": self.towers.embed(frozen, names["start"]).astype(jnp.float32)}
        return {"text": self.encode_classes(start, frozen, names)}

    def text_tokens(self, length: int) -> int:
        """Sentences' ends behind every prompt."""
        return len(self.templates) * length

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """ctx (N, K, D_t) and ctx_vision (M, L_v, W)."""
        shape = (self.n_vision, self.n_ctx_vision, self.towers.vision.width)
        return {
            "ctx": self.towers.embed(frozen, names["start"]).astype(jnp.float32),
            "ctx_vision": prompts.normal(key, shape),
        }

    def encode_images(
        self, params: Params, frozen: dict, pixels: UInt8[Array, "B R R 3"]
    ) -> dict[str, Array]:
        """The class token of every vision prompt's pass, (B, M, W)."""

        def encode(prompt: Float[Array, "Lv W"]) -> Float[Array, "B W"]:
            return self.towers.images(frozen, pixels, prompts=prompt[None])["cls"]

        return {"prompted": jnp.moveaxis(jax.vmap(encode)(params["ctx_vision"]), 0, 1)}

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> Float[Array, "C N D"]:
        """Text features of all prompts and names, not normalised."""
        found = {}
        for key in sorted(names.keys() - {"start"}):
            members = [int(number) for number in key.removeprefix("rest of ").split()]
            text = self.towers.texts(frozen, names[key], params["ctx"][np.array(members)])
            found |= {number: text[:, i] for i, number in enumerate(members)}
        return jnp.stack([found[i] for i in range(len(self.templates))], axis=1)

    def encode_step(
        self, params: Params, frozen: dict, names: dict, moment: Moment
    ) -> Float[Array, "C N D"]:
        """In the first stage the features made once, since the text prompts rest."""
        if moment.stage == 0:
            return frozen["fixed"]["text"]
        return self.encode_classes(params, frozen, names)

    def score(
        self, params: Params, frozen: dict, text: Float[Array, "C N D"], image: dict
    ) -> Scores:
        """Transported cosines, as in the second stage; the plan is constant for the gradient."""
        feature = unit(self.towers.project(frozen, image["prompted"]))
        sim = cosines("bmd,cnd->bcmn", feature, unit(text))
        plan = transport.plan(jax.lax.stop_gradient(sim), self.epsilon, self.iterations)
        phi = jnp.sum(plan * sim, axis=(-2, -1))
        logits = {"transport": jnp.exp(frozen["logit_scale"]) * phi}
        # Every pair of an image's and a class's features is a cosine of image and class.
        return Scores(logits, {"global": sim.reshape(*sim.shape[:2], -1)}, {"match": plan})

    def pooled(self, frozen: dict, text: Float[Array, "C N D"], image: dict) -> Float[Array, "B C"]:
        """s · cosines of the means of not normalised features, which the first stage adds."""
        feature = self.towers.project(frozen, image["prompted"]).mean(1)
        sim = cosines("bd,cd->bc", unit(feature), unit(text.mean(1)))
        return jnp.exp(frozen["logit_scale"]) * sim

    def loss(
        self,
        params: Params,
        frozen: dict,
        text: Float[Array, "C N D"],
        image: dict,
        labels: Int[Array, " B"],
        moment: Moment,
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Cross-entropy, of the logits with the pooled ones in the first stage."""
        scores = self.score(params, frozen, text, image)
        if moment.stage == 0:
            added = scores.logits["transport"] + self.pooled(frozen, text, image)
            scores = scores.replace(logits={"transport": added})
        return dassl.cross_entropy(scores, labels)

    def contexts(self, params: Params) -> dict[str, Array]:
        """The text prompts."""
        return {"text": params["ctx"]}
