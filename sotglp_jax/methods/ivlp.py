"""Independent prompts in the layers of both towers, of the text tower, or of the vision tower.

Source: the baselines of https://github.com/muzairkhattak/multimodal-prompt-learning and
https://github.com/muzairkhattak/PromptSRC; deep vision prompts are
https://arxiv.org/abs/2203.12119.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.methods import dassl, deep_prompts, prompts, published
from sotglp_jax.methods.contract import Moment, Params, at_least, readable


@dataclasses.dataclass(frozen=True)
class Ivlp(deep_prompts.Prompted):
    """s · f · t_c with prompts in both towers, each learned on its own.

    Attributes:
      n_text: prompt tokens of the text tower, which start as words up to four.
      n_vision: prompt tokens of the vision tower.
      text_depth: layers of the text tower whose prompts are learned; 1 is its input alone.
      vision_depth: layers of the vision tower whose prompts are learned; 1 is its input alone.
    """

    n_text: int = 4
    n_vision: int = 4
    text_depth: int = 9
    vision_depth: int = 9

    title: ClassVar[str] = "IVLP"
    recipes: ClassVar[tuple[str, ...]] = ("official", "maple")
    tiny: ClassVar[Mapping[str, Any]] = {
        "method.text_depth": 2,
        "method.vision_depth": 3,
        "train.lr": 1e-4,
    }

    def __post_init__(self):
        at_least(1, n_text=self.n_text, n_vision=self.n_vision)
        deep_prompts.check_depth(
            self.towers, text_depth=self.text_depth, vision_depth=self.vision_depth
        )

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """PromptSRC's settings for base to new, or MaPLe's."""
        if name == "official":
            return dassl.settings(epochs=20, lr=0.0025, batch_size=4)
        n, depth = ("n_text", "n_vision"), ("text_depth", "vision_depth")
        options = dict.fromkeys(n, 2) | dict.fromkeys(depth, 12)
        settings = dassl.settings(epochs=5, lr=0.0035, batch_size=4)
        return settings | {f"method.{key}": value for key, value in options.items()}

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """All but those for base to new."""
        return published.by_protocol(protocol, "base_to_new")

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """text_prompts (J_t, n_t, D_t) and vision_prompts (J_v, n_v, W)."""
        keys, towers = jax.random.split(key), self.towers
        of_text = self.text_depth, self.n_text
        of_vision = self.vision_depth, self.n_vision, towers.vision.width
        return {
            "text_prompts": deep_prompts.init_text(keys[0], towers, frozen, names, *of_text),
            "vision_prompts": prompts.normal(keys[1], of_vision),
        }


@dataclasses.dataclass(frozen=True)
class Language(deep_prompts.Prompted):
    """s · f · t_c with prompts in the text tower's layers, and plain image features.

    Attributes:
      n_text: prompt tokens, which start as words up to four.
      text_depth: layers whose prompts are learned; 1 is the input alone.
    """

    n_text: int = 4
    text_depth: int = 12

    title: ClassVar[str] = "deep text prompting"
    tiny: ClassVar[Mapping[str, Any]] = {"method.text_depth": 2, "train.lr": 3e-4}
    frozen_images: ClassVar[bool] = True
    seen: ClassVar[str] = "cls"

    def __post_init__(self):
        at_least(1, n_text=self.n_text)
        deep_prompts.check_depth(self.towers, text_depth=self.text_depth)

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """The authors' settings for base to new."""
        return dassl.settings(epochs=5, lr=0.0025, batch_size=4)

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """All but those for base to new."""
        return published.by_protocol(protocol, "base_to_new")

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """text_prompts (J, n, D_t)."""
        sizes = self.text_depth, self.n_text
        return {"text_prompts": deep_prompts.init_text(key, self.towers, frozen, names, *sizes)}

    def encode_images(
        self, params: Params, frozen: dict, pixels: UInt8[Array, "B R R 3"]
    ) -> dict[str, Array]:
        """The class token of the plain tower."""
        return self.towers.images(frozen, pixels)


@dataclasses.dataclass(frozen=True)
class Vpt(deep_prompts.Prompted):
    """s · f · t_c with prompts in the vision tower's layers, and the text "a photo of a {}.".

    Attributes:
      n_vision: prompt tokens.
      vision_depth: layers whose prompts are learned; 1 is the input alone.
    """

    n_vision: int = 8
    vision_depth: int = 12

    title: ClassVar[str] = "VPT"
    tiny: ClassVar[Mapping[str, Any]] = {"method.vision_depth": 3}

    def __post_init__(self):
        at_least(1, n_vision=self.n_vision)
        deep_prompts.check_depth(self.towers, vision_depth=self.vision_depth)

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """The authors' settings for base to new."""
        return dassl.settings(epochs=5, lr=0.0025, batch_size=4)

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """All but those for base to new."""
        return published.by_protocol(protocol, "base_to_new")

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """Whole sentences."""
        words = " ".join(deep_prompts.WORDS)
        return {"names": tokenizer([f"{words} {name}." for name in readable(class_names)])}

    def tokenize_fixed(self, tokenizer: Tokenizer, class_names: tuple[str, ...]) -> Any:
        """The sentences of `tokenize`, which are encoded once for the whole training."""
        return self.tokenize(tokenizer, class_names, "")["names"]

    def fixed(self, frozen: dict, names: Any) -> dict:
        """Text features (C, 1, D), not normalised."""
        return {"text": self.towers.texts(frozen, names)}

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """vision_prompts (J, n, W)."""
        shape = self.vision_depth, self.n_vision, self.towers.vision.width
        return {"vision_prompts": prompts.normal(key, shape)}

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> Float[Array, "C 1 D"]:
        """Text features of the sentences, not normalised."""
        return self.towers.texts(frozen, names["names"])

    def encode_step(
        self, params: Params, frozen: dict, names: dict, moment: Moment
    ) -> Float[Array, "C 1 D"]:
        """Text features of the sentences, which are made once for the whole training."""
        return frozen["fixed"]["text"]

    def contexts(self, params: Params) -> dict[str, Array]:
        """There are none in the text tower."""
        return {}
