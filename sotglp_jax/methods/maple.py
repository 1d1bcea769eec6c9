"""MaPLe: deep text prompts, and vision prompts that are projections of them.

Source: https://arxiv.org/abs/2210.03117 and
https://github.com/muzairkhattak/multimodal-prompt-learning.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from sotglp_jax.clip.weights import SAME
from sotglp_jax.methods import dassl, deep_prompts, prompts, published
from sotglp_jax.methods.contract import Params, at_least


def _torch(first: str, others: str) -> tuple:
    """Names and layout of a parameter in the authors' module."""
    module = "prompt_learner."
    return deep_prompts.torch_rows(module + first, module + others, start=0), SAME


@dataclasses.dataclass(frozen=True)
class MaPLe(deep_prompts.Prompted):
    """s · f · t_c with prompts of the text tower that give the vision tower's by a linear layer.

    Attributes:
      n_ctx: n, prompt tokens of both towers, which start as words up to four.
      depth: J, layers of both towers whose prompts are learned; 1 is the input alone.
    """

    n_ctx: int = 2
    depth: int = 9

    title: ClassVar[str] = "MaPLe"
    symbols: ClassVar[Mapping[str, str]] = {"depth": "J"}
    tiny: ClassVar[Mapping[str, Any]] = {"method.depth": 2}
    torch_names: ClassVar[Mapping[str, tuple]] = {
        "text_prompts": _torch("ctx", "compound_prompts_text.{}"),
        "proj_w": _torch("proj.weight", "compound_prompt_projections.{}.weight"),
        "proj_b": _torch("proj.bias", "compound_prompt_projections.{}.bias"),
    }

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
            return {"method.depth": 3} | dassl.settings(epochs=2, lr=0.0026, batch_size=4)
        return dassl.settings(epochs=5, lr=0.0035, batch_size=4)

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """Settings for few shots of all classes."""
        return published.by_protocol(protocol, "base_to_new", "transfer")

    @property
    def n_text(self) -> int:
        """Prompt tokens of the text tower."""
        return self.n_ctx

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """text_prompts (J, n, D_t), proj_w (J, W, D_t) and proj_b (J, W).

        All projections but the first start alike, as copies of one in the authors' code.
        """
        of_text, *of_layers = jax.random.split(key, 3)
        widths = self.towers.text.width, self.towers.vision.width
        drawn = [prompts.linear(of_layer, *widths) for of_layer in of_layers]
        rows = jnp.minimum(jnp.arange(self.depth), 1)
        weight, bias = (jnp.stack(x)[rows] for x in zip(*drawn, strict=True))
        sizes = self.depth, self.n_ctx
        first = deep_prompts.init_text(of_text, self.towers, frozen, names, *sizes)
        return {"text_prompts": first, "proj_w": weight, "proj_b": bias}

    def vision_prompts(self, params: Params) -> Float[Array, "J n W"]:
        """The vision tower's prompts: W_j p_j + b_j."""
        product = jnp.einsum(
            "jnd,jwd->jnw", params["text_prompts"], params["proj_w"], precision="highest"
        )
        return product + params["proj_b"][:, None]
