"""LoCoOp: CoOp whose patches that do not look like the image's class are told from all classes.

Source: https://arxiv.org/abs/2306.01293 and https://github.com/AtsuMiyai/LoCoOp.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import PADDING, Moment, Params, accuracies, at_least
from sotglp_jax.methods.coop import CoOp

SHARE = 0.2  # of the classes: K = 200 of ImageNet's 1000
TINY = 1e-5  # keeps the logarithm finite, as in the code


@dataclasses.dataclass(frozen=True)
class LoCoOp(CoOp):
    """s · f · t_c with learned context, and an entropy of patches as regularisation.

    Attributes:
      topk: K: a patch belongs to the background where the image's class is not among its K most
        similar ones; 0 is a fifth of the classes.
      weight: λ of the entropy.
    """

    topk: int = 0
    weight: float = 0.25
    local: str = "value"

    title: ClassVar[str] = "LoCoOp"
    symbols: ClassVar[Mapping[str, str]] = {"n_ctx": "M", "topk": "K", "weight": "λ"}
    tiny: ClassVar[Mapping[str, Any]] = {"method.weight": 0.05, "train.epochs": 200}
    detection_only: ClassVar[tuple[str, ...]] = ()  # patches are trained on

    def __post_init__(self):
        super().__post_init__()
        at_least(0, topk=self.topk, weight=self.weight)
        if not self.local:
            raise InputError('method.local="" leaves LoCoOp without patches: leave it out.')

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """CoOp's few-shot settings, 50 epochs for every number of shots."""
        return super().recipe(name, dataset, shots, "few_shot") | {"train.epochs": 50}

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """K and λ of all data sets but ImageNet, which the authors ask to choose."""
        if dataset == "imagenet":
            return ""
        return "K and λ are published for ImageNet alone: its share of the classes and λ stand in"

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """See `CoOp.init`."""
        self.nearest(len(names["names"].places))  # refuses what no step can do
        return super().init(key, frozen, names)

    def nearest(self, classes: int) -> int:
        """K for so many classes.

        Raises:
          InputError: there are fewer classes.
        """
        if self.topk > classes:
            raise InputError(
                f"method.topk={self.topk} asks for more than the {classes} classes: set "
                "--config.method.topk to less, or to 0 for a fifth of them."
            )
        return self.topk or max(1, round(SHARE * classes))

    def loss(
        self,
        params: Params,
        frozen: dict,
        text: Float[Array, "C 1 D"],
        image: dict,
        labels: Int[Array, " B"],
        moment: Moment,
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Cross-entropy, less λ times the mean entropy of the background's patches.

        That mean is one over all such patches of the batch, so an image with more of them weighs
        more.
        """
        scores = self.score(params, frozen, text, image)
        local = jnp.exp(frozen["logit_scale"]) * scores.sims["local"][..., 0]
        k = self.nearest(local.shape[-1])
        outside = background(local, labels, k) & (labels != PADDING)[:, None]
        chances = jax.nn.softmax(local)
        entropy = -jnp.sum(chances * jnp.log(chances + TINY), axis=-1)
        # The mean over the images of these is the mean over the patches.
        images = jnp.sum(labels != PADDING)
        of_image = jnp.sum(entropy * outside, axis=-1) * images / jnp.maximum(outside.sum(), 1)
        values = optax.softmax_cross_entropy_with_integer_labels(scores.logits["prompted"], labels)
        metrics = {"loss_id": values, "loss_en": -of_image}
        return values - self.weight * of_image, metrics | accuracies(scores.logits, labels)

    def summary(self, params: Params, classes: int) -> dict[str, dict[str, float]]:
        """The K of the training."""
        return {"background": {"K": self.nearest(classes)}}


def background(
    local: Float[Array, "B P C"], labels: Int[Array, " B"], k: int
) -> Bool[Array, "B P"]:
    """Where the image's class is not among the k largest logits of a patch."""
    own = jnp.take_along_axis(local, labels[:, None, None], axis=-1)
    return jnp.sum(local > own, axis=-1) >= k
