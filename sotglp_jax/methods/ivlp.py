"""Independent prompts in the layers of both towers, of the text tower, or of the vision tower.

Source: the baselines of https://github.com/muzairkhattak/multimodal-prompt-learning and
https://github.com/muzairkhattak/PromptSRC; deep vision prompts are
https://arxiv.org/abs/2203.12119.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.clip.weights import SAME
from sotglp_jax.methods import deep_prompts
from sotglp_jax.methods.contract import Method, Moment, Params, Scores, at_least, readable
from sotglp_jax.methods.similarity import classify


@dataclasses.dataclass(frozen=True)
class _Prompted(Method):
    """What the three have in common: cross-entropy of scaled cosines."""

    logits: ClassVar[Mapping[str, str]] = {"prompted": ""}
    # Of the parameters that a method has.
    torch_names: ClassVar[Mapping[str, tuple]] = {
        "text_prompts": (deep_prompts.TORCH_TEXT, SAME),
        "vision_prompts": (deep_prompts.TORCH_VISION, SAME),
    }
    torch_unused: ClassVar[str] = deep_prompts.TORCH_UNUSED

    def loss(
        self,
        params: Params,
        frozen: dict,
        text: Float[Array, "C 1 D"],
        image: dict,
        labels: Int[Array, " B"],
        moment: Moment,
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Cross-entropy."""
        return deep_prompts.cross_entropy(self.score(params, frozen, text, image), labels)


@dataclasses.dataclass(frozen=True)
class Ivlp(_Prompted):
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
    frozen_images: ClassVar[bool] = False

    def __post_init__(self):
        at_least(1, n_text=self.n_text, n_vision=self.n_vision)
        deep_prompts.check_depth(
            self.towers, text_depth=self.text_depth, vision_depth=self.vision_depth
        )

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """PromptSRC's settings for base to new, or MaPLe's."""
        if name == "official":
            return deep_prompts.family(epochs=20, lr=0.0025)
        n, depth = ("n_text", "n_vision"), ("text_depth", "vision_depth")
        options = dict.fromkeys(n, 2) | dict.fromkeys(depth, 12)
        return {f"method.{key}": value for key, value in options.items()} | deep_prompts.family(
            epochs=5, lr=0.0035
        )

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """Names with their full stop behind the words that no prompt replaces; the others' ids."""
        return deep_prompts.tokenize(tokenizer, class_names, self.n_text)

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """text_prompts (J_t, n_t, D_t) and vision_prompts (J_v, n_v, W)."""
        keys, towers = jax.random.split(key), self.towers
        sizes = self.text_depth, self.n_text
        return {
            "text_prompts": deep_prompts.init_text(keys[0], towers, frozen, names, *sizes),
            "vision_prompts": deep_prompts.init_vision(
                keys[1], towers, self.vision_depth, self.n_vision
            ),
        }

    def encode_images(
        self, params: Params, frozen: dict, pixels: UInt8[Array, "B R R 3"]
    ) -> dict[str, Array]:
        """The class token of the prompted tower."""
        prompts = params["vision_prompts"]
        return {"prompted": self.towers.images(frozen, pixels, prompts=prompts)["cls"]}

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> Float[Array, "C 1 D"]:
        """Text features of prompts and names, not normalised."""
        return deep_prompts.encode_texts(self.towers, frozen, names, params["text_prompts"])

    def score(
        self, params: Params, frozen: dict, text: Float[Array, "C 1 D"], image: dict
    ) -> Scores:
        """Scaled cosines of the prompted features."""
        return classify(self.towers, frozen, image["prompted"], text, "prompted")

    def contexts(self, params: Params) -> dict[str, Array]:
        """The prompts at the text tower's input."""
        return {"text": params["text_prompts"][:1]}


@dataclasses.dataclass(frozen=True)
class Language(_Prompted):
    """s · f · t_c with prompts in the text tower's layers, and plain image features.

    Attributes:
      n_text: prompt tokens, which start as words up to four.
      text_depth: layers whose prompts are learned; 1 is the input alone.
    """

    n_text: int = 4
    text_depth: int = 12

    title: ClassVar[str] = "deep text prompting"

    def __post_init__(self):
        at_least(1, n_text=self.n_text)
        deep_prompts.check_depth(self.towers, text_depth=self.text_depth)

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """The authors' settings for base to new."""
        return deep_prompts.family(epochs=5, lr=0.0025)

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """Names with their full stop behind the words that no prompt replaces; the others' ids."""
        return deep_prompts.tokenize(tokenizer, class_names, self.n_text)

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """text_prompts (J, n, D_t)."""
        sizes = self.text_depth, self.n_text
        return {"text_prompts": deep_prompts.init_text(key, self.towers, frozen, names, *sizes)}

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> Float[Array, "C 1 D"]:
        """Text features of prompts and names, not normalised."""
        return deep_prompts.encode_texts(self.towers, frozen, names, params["text_prompts"])

    def score(
        self, params: Params, frozen: dict, text: Float[Array, "C 1 D"], image: dict
    ) -> Scores:
        """Scaled cosines."""
        return classify(self.towers, frozen, image["cls"], text, "prompted")

    def contexts(self, params: Params) -> dict[str, Array]:
        """The prompts at the text tower's input."""
        return {"text": params["text_prompts"][:1]}


@dataclasses.dataclass(frozen=True)
class Vpt(_Prompted):
    """s · f · t_c with prompts in the vision tower's layers, and the text "a photo of a {}.".

    Attributes:
      n_vision: prompt tokens.
      vision_depth: layers whose prompts are learned; 1 is the input alone.
    """

    n_vision: int = 8
    vision_depth: int = 12

    title: ClassVar[str] = "VPT"
    frozen_images: ClassVar[bool] = False

    def __post_init__(self):
        at_least(1, n_vision=self.n_vision)
        deep_prompts.check_depth(self.towers, vision_depth=self.vision_depth)

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """The authors' settings for base to new."""
        return deep_prompts.family(epochs=5, lr=0.0025)

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """Whole sentences."""
        words = " ".join(deep_prompts.WORDS)
        return {"names": tokenizer([f"{words} {name}." for name in readable(class_names)])}

    def tokenize_fixed(self, tokenizer: Tokenizer, class_names: tuple[str, ...]) -> Any:
        """The same sentences, which are encoded once for the whole training."""
        return self.tokenize(tokenizer, class_names, "")["names"]

    def fixed(self, frozen: dict, names: Any) -> dict:
        """Text features (C, 1, D), not normalised."""
        return {"text": self.towers.texts(frozen, names)}

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """vision_prompts (J, n, W)."""
        sizes = self.vision_depth, self.n_vision
        return {"vision_prompts": deep_prompts.init_vision(key, self.towers, *sizes)}

    def encode_images(
        self, params: Params, frozen: dict, pixels: UInt8[Array, "B R R 3"]
    ) -> dict[str, Array]:
        """The class token of the prompted tower."""
        prompts = params["vision_prompts"]
        return {"prompted": self.towers.images(frozen, pixels, prompts=prompts)["cls"]}

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> Float[Array, "C 1 D"]:
        """Text features of the sentences, not normalised."""
        return self.towers.texts(frozen, names["names"])

    def encode_step(
        self, params: Params, frozen: dict, names: dict, moment: Moment
    ) -> Float[Array, "C 1 D"]:
        """Text features of the sentences, which are made once for the whole training."""
        return frozen["fixed"]["text"]

    def score(
        self, params: Params, frozen: dict, text: Float[Array, "C 1 D"], image: dict
    ) -> Scores:
        """Scaled cosines of the prompted features."""
        return classify(self.towers, frozen, image["prompted"], text, "prompted")
