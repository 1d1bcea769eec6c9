"""MaPLe: deep text prompts, and vision prompts that are projections of them.

Source: https://arxiv.org/abs/2210.03117 and
https://github.com/muzairkhattak/multimodal-prompt-learning.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.clip.weights import SAME
from sotglp_jax.methods import deep_prompts
from sotglp_jax.methods.contract import Method, Moment, Params, Scores, at_least
from sotglp_jax.methods.similarity import classify


def _torch(first: str, others: str) -> tuple:
    """Names and layout of a parameter in the authors' module."""
    module = "prompt_learner."
    return deep_prompts.torch_rows(module + first, module + others, start=0), SAME


@dataclasses.dataclass(frozen=True)
class MaPLe(Method):
    """s · f · t_c with prompts of the text tower that give the vision tower's by a linear layer.

    Attributes:
      n_ctx: n, prompt tokens of both towers, which start as words up to four.
      depth: J, layers of both towers whose prompts are learned; 1 is the input alone.
    """

    n_ctx: int = 2
    depth: int = 9

    title: ClassVar[str] = "MaPLe"
    logits: ClassVar[Mapping[str, str]] = {"prompted": ""}
    symbols: ClassVar[Mapping[str, str]] = {"depth": "J"}
    frozen_images: ClassVar[bool] = False
    torch_names: ClassVar[Mapping[str, tuple]] = {
        "text_prompts": _torch("ctx", "compound_prompts_text.{}"),
        "proj_w": _torch("proj.weight", "compound_prompt_projections.{}.weight"),
        "proj_b": _torch("proj.bias", "compound_prompt_projections.{}.bias"),
    }
    torch_unused: ClassVar[str] = deep_prompts.TORCH_UNUSED

    def __post_init__(self):
        at_least(1, n_ctx=self.n_ctx, depth=self.depth)
        if self.towers:
            layers = min(self.towers.text.layers, self.towers.vision.layers)
            if self.depth > layers:
                raise deep_prompts.too_deep("depth", self.depth, layers, "smaller")

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """The authors' settings; for few shots of all classes none are published.

        Those of base to new stand in for them.
        """
        if protocol == "transfer":
            return {"method.depth": 3} | deep_prompts.family(epochs=2, lr=0.0026)
        return deep_prompts.family(epochs=5, lr=0.0035)

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """Names with their full stop behind the words that no prompt replaces; the others' ids."""
        return deep_prompts.tokenize(tokenizer, class_names, self.n_ctx)

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """text_prompts (J, n, D_t), proj_w (J, W, D_t) and proj_b (J, W).

        All projections but the first start alike, as copies of one in the authors' code.
        """
        of_text, *of_layers = jax.random.split(key, 3)
        drawn = [self._linear(key) for key in of_layers]
        rows = jnp.minimum(jnp.arange(self.depth), 1)
        weight, bias = (jnp.stack(x)[rows] for x in zip(*drawn, strict=True))
        sizes = self.depth, self.n_ctx
        prompts = deep_prompts.init_text(of_text, self.towers, frozen, names, *sizes)
        return {"text_prompts": prompts, "proj_w": weight, "proj_b": bias}

    def _linear(self, key: PRNGKeyArray) -> tuple[Float[Array, "W Dt"], Float[Array, " W"]]:
        """A linear layer as PyTorch starts it."""
        width, text_width = self.towers.vision.width, self.towers.text.width
        bound, keys = 1 / math.sqrt(text_width), jax.random.split(key)
        shapes = (width, text_width), (width,)
        weight, bias = (
            jax.random.uniform(k, shape, minval=-bound, maxval=bound)
            for k, shape in zip(keys, shapes, strict=True)
        )
        return weight, bias

    def vision_prompts(self, params: Params) -> Float[Array, "J n W"]:
        """The vision tower's prompts: W_j p_j + b_j."""
        product = jnp.einsum(
            "jnd,jwd->jnw", params["text_prompts"], params["proj_w"], precision="highest"
        )
        return product + params["proj_b"][:, None]

    def encode_images(
        self, params: Params, frozen: dict, pixels: UInt8[Array, "B R R 3"]
    ) -> dict[str, Array]:
        """The class token of the prompted tower."""
        prompts = self.vision_prompts(params)
        return {"prompted": self.towers.images(frozen, pixels, prompts=prompts)["cls"]}

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> Float[Array, "C 1 D"]:
        """Text features of prompts and names, not normalised."""
        return deep_prompts.encode_texts(self.towers, frozen, names, params["text_prompts"])

    def score(
        self, params: Params, frozen: dict, text: Float[Array, "C 1 D"], image: dict
    ) -> Scores:
        """Scaled cosines of the prompted features."""
        return classify(self.towers, frozen, image["prompted"], text, "prompted")

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

    def contexts(self, params: Params) -> dict[str, Array]:
        """The prompts at the text tower's input."""
        return {"text": params["text_prompts"][:1]}
