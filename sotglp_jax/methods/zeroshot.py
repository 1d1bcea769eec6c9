"""CLIP's zero-shot classifier: one sentence a class, nothing to learn."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.methods.contract import Method, Params, Scores, one_of, readable
from sotglp_jax.methods.similarity import classify, with_patches


@dataclasses.dataclass(frozen=True)
class ZeroShot(Method):
    """s · f · t_c with one template per data set.

    Recipe official is what the authors of SOT-GLP compare it with.

    Attributes:
      keep_underscores: leave `_` in class names as it is (recipe official).
      local: which patch features are compared with the sentences too, through CLIP's own
        projection: "value", as in the published rows of GL-MCM, "vv", "tokens" (see
        `Towers.images`), or "" for none.
    """

    keep_underscores: bool = False
    local: str = "value"

    title: ClassVar[str] = "zero-shot CLIP"
    logits: ClassVar[Mapping[str, str]] = {"zero_shot": ""}
    recipes: ClassVar[tuple[str, ...]] = ("paper", "official")
    detection_only: ClassVar[tuple[str, ...]] = ("local",)
    learns: ClassVar[bool] = False

    def __post_init__(self):
        one_of(("vv", "tokens", "value", ""), local=self.local)

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """The sentence of CLIP's authors, or that of SOT-GLP's code."""
        if name == "paper":
            return {}
        return {"data.full_stop": False, "method.keep_underscores": True}

    def stages(self, train: Mapping) -> tuple:
        """There is nothing to train."""
        return ()

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """The template with every class name in it."""
        names = class_names if self.keep_underscores else readable(class_names)
        return {"names": tokenizer([template.replace("{}", name) for name in names])}

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """No parameters."""
        return {}

    def encode_images(
        self, params: Params, frozen: dict, pixels: UInt8[Array, "B R R 3"]
    ) -> dict[str, Array]:
        """The class token and, where asked for, patches."""
        return self.towers.images(frozen, pixels, local=self.local)

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> Float[Array, "C 1 D"]:
        """Text features of the sentences, not normalised."""
        return self.towers.texts(frozen, names["names"])

    def score(
        self, params: Params, frozen: dict, text: Float[Array, "C 1 D"], image: dict
    ) -> Scores:
        """Scaled cosines of images and sentences, and of patches where `image` has them."""
        scores = classify(self.towers, frozen, image["cls"], text, "zero_shot")
        return with_patches(scores, self.towers, frozen, image, text)
