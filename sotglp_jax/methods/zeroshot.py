"""CLIP's zero-shot classifier: one sentence a class, nothing to learn."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.methods.contract import Method, Params, Scores, one_of, readable
from sotglp_jax.methods.similarity import classify, cosines, unit, with_patches


@dataclasses.dataclass(frozen=True)
class ZeroShot(Method):
    """s · f · t_c with one template per data set, or with a class's own sentences.

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
        sentences = [(template.replace("{}", name),) for name in names]
        return self.tokenize_sentences(tokenizer, sentences)

    def tokenize_sentences(
        self, tokenizer: Tokenizer, sentences: Sequence[Sequence[str]]
    ) -> dict[str, Any]:
        """The sentences of all classes, and where they are several, which are whose.

        Args:
          tokenizer: CLIP's.
          sentences: of every class, one or more.
        """
        names = {"names": tokenizer([x for of_class in sentences for x in of_class])}
        counts = np.array([len(of_class) for of_class in sentences])
        if (counts == 1).all():
            return names
        within = np.arange(counts.max())
        own = within < counts[:, None]
        places = np.where(own, (np.cumsum(counts) - counts)[:, None] + within, 0)
        shares = (own / counts[:, None]).astype(np.float32)
        return names | {"places": places.astype(np.int32), "shares": shares}

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """No parameters."""
        return {}

    def encode_images(
        self, params: Params, frozen: dict, pixels: UInt8[Array, "B R R 3"]
    ) -> dict[str, Array]:
        """The class token and, where asked for, patches."""
        return self.towers.images(frozen, pixels, local=self.local)

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> Float[Array, "C 1 D"]:
        """Text features of the sentences, not normalised; of several the mean, of length 1 each."""
        text = self.towers.texts(frozen, names["names"])
        if "places" not in names:
            return text
        return cosines("cm,cmnd->cnd", names["shares"], unit(text)[names["places"]])

    def score(
        self, params: Params, frozen: dict, text: Float[Array, "C 1 D"], image: dict
    ) -> Scores:
        """Scaled cosines of images and sentences, and of patches where `image` has them."""
        scores = classify(self.towers, frozen, image["cls"], text, "zero_shot")
        return with_patches(scores, self.towers, frozen, image, text)
