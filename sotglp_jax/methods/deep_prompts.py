"""Prompts at the input and in the deeper layers of the towers, which several methods share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from sotglp_jax.clip import Towers
from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.clip.weights import SAME
from sotglp_jax.errors import InputError
from sotglp_jax.methods import dassl, prompts
from sotglp_jax.methods.contract import Params, Scores, at_least, readable
from sotglp_jax.methods.similarity import classify

WORDS = ("a", "photo", "of", "a")
# The frozen start, name and end of every class's sentence.
TORCH_UNUSED = r"prompt_learner\.token_(prefix|suffix)"


def torch_rows(first: str, others: str, start: int = 1) -> Callable[[int], str]:
    """Names of a parameter's rows in PyTorch: the first one's, and a pattern of all others.

    Args:
      first: of row 0.
      others: with {} for a number.
      start: the number of row 1.
    """
    return lambda row: others.format(row - 1 + start) if row else first


TORCH_TEXT = torch_rows("prompt_learner.ctx", "text_encoder.transformer.resblocks.{}.VPT_shallow")
TORCH_VISION = torch_rows("image_encoder.VPT", "image_encoder.transformer.resblocks.{}.VPT_shallow")


def check_depth(towers: Towers | None, **depths: int) -> None:
    """Raises `InputError` for prompts of no layer, or of more layers than a tower has.

    Args:
      towers: CLIP's modules, None where they are not known yet.
      depths: layers with prompts, by names such as text_depth, where the tower's comes first.
    """
    at_least(1, **depths)
    for name, depth in depths.items() if towers else ():
        tower = name.partition("_")[0]
        layers = getattr(towers, tower).layers
        if depth > layers:
            raise too_deep(name, depth, layers, tower)


def too_deep(name: str, depth: int, layers: int, tower: str) -> InputError:
    """The error of an option that names more layers than a tower has."""
    return InputError(
        f"method.{name}={depth} is more than the {layers} layers of this CLIP's {tower} tower: "
        f"set --config.method.{name} to {layers} or less."
    )


def tokenize(tokenizer: Tokenizer, class_names: tuple[str, ...], n: int) -> dict:
    """Sentences without what n prompts replace, and the ids of that.

    Prompts replace the first tokens of "a photo of a NAME."; what is left of the words stays
    between prompts and name. Above four prompts the sentence is the name alone, and there are no
    words to start from.
    """
    words = " ".join(WORDS) if n <= len(WORDS) else ""
    sentences = [f"{words} {name}.".strip() for name in readable(class_names)]
    context = tokenizer.encode(words)[:n]
    tokens = tokenizer(sentences, room=n - len(context))
    ids = np.delete(tokens.ids, np.arange(len(context)) + 1, axis=1)
    names = tokens.replace(ids=ids, eot=tokens.eot - len(context))
    return {"names": names, "context": np.array(context, np.int32)}


def init_text(
    key: PRNGKeyArray, towers: Towers, frozen: dict, names: dict, depth: int, n: int
) -> Float[Array, "J n Dt"]:
    """Random prompts for the text tower, the first ones embeddings of words where these suffice."""
    drawn = prompts.normal(key, (depth, n, towers.text.width))
    if n > len(WORDS):
        return drawn
    return drawn.at[0].set(towers.embed(frozen, names["context"]))


@dataclasses.dataclass(frozen=True)
class Prompted(dassl.CrossEntropy):
    """s · f · t_c with prompts in the layers of one or both towers, as most of them have it.

    The option `n_text` and the parameters "text_prompts" (J, n, D_t) and "vision_prompts"
    (J, n, W) are a method's own.

    Attributes:
      seen: what of an image's features is compared with the texts.
    """

    logits: ClassVar[Mapping[str, str]] = {"prompted": ""}
    frozen_images: ClassVar[bool] = False
    seen: ClassVar[str] = "prompted"
    # Of the parameters that a method has.
    torch_names: ClassVar[Mapping[str, tuple]] = {
        "text_prompts": (TORCH_TEXT, SAME),
        "vision_prompts": (TORCH_VISION, SAME),
    }
    torch_unused: ClassVar[str] = TORCH_UNUSED

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """Names with their full stop behind the words that no prompt replaces; the others' ids."""
        return tokenize(tokenizer, class_names, self.n_text)

    def vision_prompts(self, params: Params) -> Float[Array, "J n W"]:
        """The prompts of the vision tower."""
        return params["vision_prompts"]

    def encode_images(
        self, params: Params, frozen: dict, pixels: UInt8[Array, "B R R 3"]
    ) -> dict[str, Array]:
        """The class token of the prompted tower."""
        prompts = self.vision_prompts(params)
        return {"prompted": self.towers.images(frozen, pixels, prompts=prompts)["cls"]}

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> Float[Array, "C 1 D"]:
        """Text features of prompts and names, not normalised."""
        prompts = params["text_prompts"]
        return self.towers.texts(frozen, names["names"], prompts[:1], deep=prompts[1:])

    def score(
        self, params: Params, frozen: dict, text: Float[Array, "C 1 D"], image: dict
    ) -> Scores:
        """Scaled cosines."""
        return classify(self.towers, frozen, image[self.seen], text, "prompted")

    def contexts(self, params: Params) -> dict[str, Array]:
        """The prompts at the text tower's input."""
        return {"text": params["text_prompts"][:1]}
