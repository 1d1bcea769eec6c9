"""PLOT: the patches of an image, shared out among prompts by optimal transport.

Source: https://arxiv.org/abs/2210.01253 and https://github.com/CHENGY12/PLOT (plot-coop), read for
a vision transformer, for which its authors released PLOT++ instead.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.errors import InputError
from sotglp_jax.methods import dassl, prompts, published, transport
from sotglp_jax.methods.contract import Params, Scores, at_least, readable
from sotglp_jax.methods.similarity import cosines, unit

SMALL = ("flowers102", "fgvc_aircraft", "stanford_cars")  # trained in batches of 32


@dataclasses.dataclass(frozen=True)
class Plot(dassl.CrossEntropy):
    """s · Σ T S over the cosines S of patches and prompts, with their transport plan T.

    Attributes:
      n_prompts: N, prompts, shared by the classes.
      n_ctx: M, context vectors of each.
      epsilon: entropic regularisation of the plan, in units of 1 - cosine.
      iterations: of Sinkhorn; theirs stop by the batch's mean change, after 3 or 4.
      add_pooled: adds s · f · t̄_c of the class token and the prompts' mean, as theirs on ImageNet.
    """

    n_prompts: int = 4
    n_ctx: int = 16
    epsilon: float = 0.1
    iterations: int = 20
    add_pooled: bool = False

    title: ClassVar[str] = "PLOT"
    logits: ClassVar[Mapping[str, str]] = {"transport": ""}
    symbols: ClassVar[Mapping[str, str]] = {"n_prompts": "N", "epsilon": "ε"}
    local: ClassVar[str] = "tokens"

    def __post_init__(self):
        at_least(1, n_prompts=self.n_prompts, n_ctx=self.n_ctx, iterations=self.iterations)
        if not self.epsilon > 0:
            raise InputError("method.epsilon must be above 0: 0.1 is the paper's.")

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """The authors' scripts."""
        batch_size = 32 if dataset in SMALL else 128
        settings = dassl.settings(dassl.epochs(dataset, shots), lr=0.002, batch_size=batch_size)
        return settings | {"method.add_pooled": dataset == "imagenet"}

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """There are scripts for few shots, and for a ResNet."""
        return published.listed(
            "settings are published for a ResNet alone, which stand in",
            published.by_shots(dataset, shots),
            published.by_protocol(protocol, "few_shot"),
        )

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """Names with their full stop."""
        sentences = [f"{name}." for name in readable(class_names)]
        return {"names": tokenizer(sentences, room=self.n_ctx)}

    def text_tokens(self, length: int) -> int:
        """Names behind every shared context."""
        return self.n_prompts * length

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """ctx (N, M, D_t)."""
        shape = (self.n_prompts, self.n_ctx, self.towers.text.width)
        return {"ctx": prompts.normal(key, shape)}

    def encode_images(
        self, params: Params, frozen: dict, pixels: UInt8[Array, "B R R 3"]
    ) -> dict[str, Array]:
        """The class token and the last layer's patches."""
        return self.towers.images(frozen, pixels, local=self.local)

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> Float[Array, "C N D"]:
        """Text features of all prompts and names, not normalised."""
        return self.towers.texts(frozen, names["names"], params["ctx"])

    def score(
        self, params: Params, frozen: dict, text: Float[Array, "C N D"], image: dict
    ) -> Scores:
        """Transported cosines; the plan over all patches is constant for the gradient."""
        project, scale = self.towers.project, jnp.exp(frozen["logit_scale"])
        feature, patches = (unit(project(frozen, image[key])) for key in ("cls", "patches"))
        local = cosines("bpd,cnd->bpcn", patches, unit(text))
        sim = local.transpose(0, 2, 1, 3)
        plan = self.plan(jax.lax.stop_gradient(sim))
        phi = jnp.sum(plan * sim, axis=(-2, -1))
        logits = scale * phi
        if self.add_pooled:
            logits += scale * cosines("bd,cd->bc", feature, unit(text.mean(1)))
        support = jnp.broadcast_to(jnp.arange(sim.shape[2]), sim.shape[:3])
        sims = {"global": cosines("bd,cnd->bcn", feature, unit(text)), "local": local}
        return Scores({"transport": logits}, sims, {"support": support, "plan": plan, "phi": phi})

    def plan(self, sim: Float[Array, "B C P N"]) -> Float[Array, "B C P N"]:
        """The plan of every image and class."""
        return transport.plan(sim, self.epsilon, self.iterations)

    def contexts(self, params: Params) -> dict[str, Array]:
        """The prompts."""
        return {"context": params["ctx"]}

    def prompt_features(self, text: Float[Array, "C N D"]) -> Float[Array, "C N D"]:
        """All of them."""
        return text
