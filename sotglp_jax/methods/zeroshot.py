"""CLIP's zero-shot classifier: one sentence a class, nothing to learn."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.methods.contract import Method, Params, Scores, one_of, readable
from sotglp_jax.methods.similarity import classify, with_patches


@dataclasses.dataclass(frozen=True)
class ZeroShot(Method):
    """s · f · t_c with one template per data set.

    Attributes:
      local: which patch features are compared with the sentences too, through CLIP's own
        projection: "value", as in the published rows of GL-MCM, "vv", "tokens" (see
        `Towers.images`), or "" for none.
    """

    local: str = "value"

    title: ClassVar[str] = "zero-shot CLIP"
    logits: ClassVar[Mapping[str, str]] = {"zero_shot": ""}
    recipes: ClassVar[tuple[str, ...]] = ("paper", "official")
    detection_only: ClassVar[tuple[str, ...]] = ("local",)
    learns: ClassVar[bool] = False

    def __post_init__(self):
        one_of(("vv", "tokens", "value", ""), local=self.local)

    def stages(self, train: Mapping) -> tuple:
        """There is nothing to train."""
        return ()

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """The template with every class name in it."""
        return {"names": tokenizer([template.replace("{}", n) for n in readable(class_names)])}

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
