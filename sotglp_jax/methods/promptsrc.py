"""PromptSRC: deep prompts in both towers, regulated by plain CLIP as a teacher.

Source: https://arxiv.org/abs/2307.06948 and https://github.com/muzairkhattak/PromptSRC.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt8

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.errors import InputError
from sotglp_jax.methods import averaging, dassl, published
from sotglp_jax.methods.contract import (
    Moment,
    Params,
    Stage,
    accuracies,
    at_least,
    readable,
)
from sotglp_jax.methods.ivlp import Ivlp
from sotglp_jax.methods.similarity import cosines, unit

# The first 60 of OpenAI's 80 sentences for ImageNet, one a line; the teacher's, for all data sets.
TEMPLATES = Path(__file__).parent.parent / "assets" / "imagenet_templates.txt"
# Few-shot runs of these data sets average over the last epochs, all others over most of them.
LATE = ("stanford_cars", "flowers102", "fgvc_aircraft", "dtd", "eurosat")


@dataclasses.dataclass(frozen=True)
class PromptSrc(Ivlp):
    """s · f · t_c with the prompts of `Ivlp` and its options, averaged over the epochs.

    Attributes:
      text_weight: weight of the text features' distance from the teacher's.
      image_weight: weight of the image features' distance from the teacher's.
      kl_weight: weight of the divergence from the teacher's predictions.
      average_mean: μ, the epoch (from 1) of the largest weight in the average of the parameters.
      average_std: σ of these weights, in epochs.
    """

    text_weight: float = 25.0
    image_weight: float = 10.0
    kl_weight: float = 1.0
    average_mean: float = 30.0
    average_std: float = 30.0

    title: ClassVar[str] = "PromptSRC"
    recipes: ClassVar[tuple[str, ...]] = ("official",)
    # The teacher's sentences are those of photographs, which drawn digits are not.
    tiny: ClassVar[Mapping[str, Any]] = {
        "method.text_depth": 2,
        "method.vision_depth": 3,
        "method.text_weight": 5.0,
        "train.lr": 0.001,
    }

    def __post_init__(self):
        super().__post_init__()
        at_least(0, text_weight=self.text_weight, image_weight=self.image_weight)
        at_least(0, kl_weight=self.kl_weight)
        if not self.average_std > 0:
            raise InputError("method.average_std must be above 0.")

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """The authors' configurations, which differ by protocol and, few-shot, by data set."""
        mean, std = (45.0, 5.0) if dataset in LATE else (30.0, 30.0)
        epochs, depth = 50, 9
        if protocol == "base_to_new":
            epochs, mean, std = 20, 15.0, 1.0
        if protocol == "transfer":
            epochs, mean, std, depth = 20, 6.0, 10.0, 3
        return {
            "method.average_mean": mean,
            "method.average_std": std,
            "method.text_depth": depth,
            "method.vision_depth": depth,
            **dassl.settings(epochs, lr=0.0025, batch_size=4),
        }

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """Few-shot settings of other data sets, since they differ between those that have some."""
        if protocol != "few_shot":
            return ""
        return published.by_set(dataset, "few-shot settings", "those of most of them")

    def stages(self, train: Mapping[str, Any]) -> tuple[Stage, ...]:
        """One stage whose parameters are averaged, weighted by a Gaussian over its epochs."""
        weights = averaging.gaussian(train["epochs"], self.average_mean, self.average_std)
        (stage,) = super().stages(train)
        return (dataclasses.replace(stage, average=weights),)

    def tokenize_fixed(self, tokenizer: Tokenizer, class_names: tuple[str, ...]) -> Any:
        """The teacher's sentences, class by class."""
        templates = TEMPLATES.read_text("utf-8").splitlines()
        names = readable(class_names)
        return tokenizer([t.replace("{}", name) for name in names for t in templates])

    def fixed(self, frozen: dict, names: Any) -> dict:
        """The teacher's text features (C, D): unit means over its sentences' plain features."""
        sentences = self.towers.texts(frozen, names)[:, 0]
        of_class = sentences.reshape(
            -1, len(TEMPLATES.read_text("utf-8").splitlines()), sentences.shape[-1]
        )
        return {"text": unit(of_class.mean(1))}

    def encode_images(
        self, params: Params, frozen: dict, pixels: UInt8[Array, "B R R 3"]
    ) -> dict[str, Array]:
        """The class token without prompts, which is the teacher's, and with them."""
        plain = self.towers.images(frozen, pixels)["cls"]
        prompted = self.towers.images(frozen, pixels, prompts=params["vision_prompts"])["cls"]
        return {"cls": plain, "prompted": prompted}

    def loss(
        self,
        params: Params,
        frozen: dict,
        text: Float[Array, "C 1 D"],
        image: dict,
        labels: Int[Array, " B"],
        moment: Moment,
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Cross-entropy, and three distances from the teacher, as the code has them.

        The distances are means over the features' entries, and the divergence one over the
        classes; the paper prints sums.
        """
        logits = self.score(params, frozen, text, image).logits
        feature, teacher = (
            unit(self.towers.project(frozen, image[name])) for name in ("prompted", "cls")
        )
        of_teacher = cosines("bd,cd->bc", teacher, frozen["fixed"]["text"])
        of_teacher = jnp.exp(frozen["logit_scale"]) * of_teacher
        parts = {
            "ce": optax.softmax_cross_entropy_with_integer_labels(logits["prompted"], labels),
            "text": self.text_weight * jnp.abs(unit(text)[:, 0] - frozen["fixed"]["text"]).mean(),
            "image": self.image_weight * jnp.abs(feature - teacher).mean(-1),
            "kl": self.kl_weight * _divergence(of_teacher, logits["prompted"]),
        }
        metrics = {f"loss_{name}": value for name, value in parts.items()}
        return sum(parts.values()), metrics | accuracies(logits, labels)


def _divergence(teacher: Float[Array, "B C"], student: Float[Array, "B C"]) -> Float[Array, " B"]:
    """KL(teacher ‖ student) of the softmaxes, divided by the number of classes."""
    a, b = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    return jnp.sum(jnp.exp(a) * (a - b), axis=-1) / a.shape[-1]
