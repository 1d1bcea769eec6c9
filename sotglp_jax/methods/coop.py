"""CoOp: context vectors in place of the words before a class name.

Source: https://arxiv.org/abs/2109.01134 and https://github.com/KaiyangZhou/CoOp.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.clip.weights import SAME
from sotglp_jax.errors import InputError
from sotglp_jax.methods import dassl, prompts, published
from sotglp_jax.methods.contract import (
    Method,
    Params,
    Scores,
    at_least,
    one_of,
    readable,
)
from sotglp_jax.methods.similarity import classify, with_patches


@dataclasses.dataclass(frozen=True)
class CoOp(dassl.CrossEntropy):
    """s · f · t_c with learned context.

    Attributes:
      n_ctx: M, context vectors.
      ctx_init: words that the context starts from, which then says M and is shared by the classes;
        "" starts from random numbers.
      class_specific: a context for every class (the paper's CSC).
      position: where the name is: "end", "middle" or "front".
      local: which patch features the texts are compared with for GL-MCM: "value", as published,
        "vv" or "tokens" (see `Towers.images`); "" compares none.
    """

    n_ctx: int = 16
    ctx_init: str = ""
    class_specific: bool = False
    position: str = "end"
    local: str = ""

    title: ClassVar[str] = "CoOp"
    logits: ClassVar[Mapping[str, str]] = {"prompted": ""}
    symbols: ClassVar[Mapping[str, str]] = {"n_ctx": "M"}
    detection_only: ClassVar[tuple[str, ...]] = ("local",)
    torch_names: ClassVar[Mapping[str, tuple]] = {"ctx": ("ctx", SAME)}
    # The frozen start, name and end of every class's sentence.
    torch_unused: ClassVar[str] = r"token_(prefix|suffix)"

    def __post_init__(self):
        at_least(1, n_ctx=self.n_ctx)
        one_of(("end", "middle", "front"), position=self.position)
        one_of(("", "value", "vv", "tokens"), local=self.local)
        if self.ctx_init and self.class_specific:
            raise InputError(
                "method.ctx_init gives all classes one context: leave it out, or "
                "method.class_specific."
            )

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """The authors' scripts; of the protocols with new classes, those of CoCoOp's paper."""
        words = {"method.ctx_init": "a photo of a"} if protocol != "few_shot" else {}
        return words | dassl.settings(dassl.epochs(dataset, shots), lr=0.002, batch_size=32)

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """Epochs for other numbers of shots."""
        return published.by_shots(dataset, shots)

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """Names with their full stop, and the ids of the words that the context starts from."""
        names, words = readable(class_names), self.ctx_init.replace("_", " ")
        context = tokenizer.encode(words)
        if len(context) != len(words.split()):
            raise InputError(
                f'method.ctx_init="{self.ctx_init}" has {len(words.split())} words but '
                f"{len(context)} tokens, so some of them would be cut: choose words of one token."
            )
        tokens = tokenizer([f"{name}." for name in names], room=len(context) or self.n_ctx)
        # The bare name's tokens: where it ends in punctuation, its last one is the full stop's too.
        split = np.array([len(tokenizer.encode(name)) for name in names], np.int32)
        return {
            "names": tokens.replace(split=split),
            "context": np.array(context, np.int32),
        }

    def text_tokens(self, length: int) -> int:
        """The context counts for every class where it has its own, or is behind the name."""
        own = self.class_specific or self.position != "end"
        return length + self.n_ctx * own

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """ctx (M, D_t), or (C, M, D_t)."""
        if self.ctx_init:
            return {"ctx": self.towers.embed(frozen, names["context"]).astype(jnp.float32)}
        classes = (len(names["names"].places),) * self.class_specific
        shape = (*classes, self.n_ctx, self.towers.text.width)
        return {"ctx": prompts.normal(key, shape)}

    def encode_images(
        self, params: Params, frozen: dict, pixels: UInt8[Array, "B R R 3"]
    ) -> dict[str, Array]:
        """The class token and, where asked for, patches."""
        return self.towers.images(frozen, pixels, local=self.local)

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> Float[Array, "C 1 D"]:
        """Text features of context and name, not normalised."""
        m = params["ctx"].shape[-2]
        before = {"end": m, "middle": m // 2, "front": 0}[self.position]
        shared, own = params["ctx"][None], None
        if self.class_specific:
            shared, own = None, params["ctx"][:, None]
        return self.towers.texts(frozen, names["names"], shared, own, before=before)

    def score(
        self, params: Params, frozen: dict, text: Float[Array, "C 1 D"], image: dict
    ) -> Scores:
        """Scaled cosines of class token and texts, and of patches where `image` has them."""
        scores = classify(self.towers, frozen, image["cls"], text, "prompted")
        return with_patches(scores, self.towers, frozen, image, text)

    def on(self, params: Params, labels: tuple[int, ...]) -> tuple[Method, Params] | None:
        """A shared context is for all names; a class's own for that class alone."""
        if not self.class_specific:
            return self, params
        return (self, {"ctx": params["ctx"][np.array(labels)]}) if labels else None

    def contexts(self, params: Params) -> dict[str, Array]:
        """The context, as the one prompt there is."""
        return {"context": params["ctx"][..., None, :, :]}
