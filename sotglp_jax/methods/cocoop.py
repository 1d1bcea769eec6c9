"""CoCoOp: a context that a small network moves for every image.

Source: https://arxiv.org/abs/2203.05557 and https://github.com/KaiyangZhou/CoOp.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from sotglp_jax.clip.packing import PackedClasses
from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.clip.weights import SAME
from sotglp_jax.methods import dassl, prompts, published
from sotglp_jax.methods.contract import Params, Scores
from sotglp_jax.methods.coop import CoOp
from sotglp_jax.methods.similarity import cosines, unit

NARROW = 16  # the network's hidden layer is so many times narrower than the features
TOGETHER = 512  # sequences, of images times classes, that go through the text tower at once


@dataclasses.dataclass(frozen=True)
class CoCoOp(dassl.CrossEntropy):
    """s · f · t_c(f), whose context is ctx + W₂ relu(W₁ f + b₁) + b₂.

    Attributes:
      n_ctx: M, context vectors.
      ctx_init: words that the context starts from, which then says M; "" starts from random
        numbers.
    """

    n_ctx: int = 4
    ctx_init: str = "a photo of a"

    title: ClassVar[str] = "CoCoOp"
    logits: ClassVar[Mapping[str, str]] = {"prompted": ""}
    symbols: ClassVar[Mapping[str, str]] = {"n_ctx": "M"}
    text_waits: ClassVar[bool] = True
    torch_names: ClassVar[Mapping[str, tuple]] = {
        "ctx": ("ctx", SAME),
        "linear1_weight": ("meta_net.linear1.weight", SAME),
        "linear1_bias": ("meta_net.linear1.bias", SAME),
        "linear2_weight": ("meta_net.linear2.weight", SAME),
        "linear2_bias": ("meta_net.linear2.bias", SAME),
    }
    torch_unused: ClassVar[str] = CoOp.torch_unused

    def __post_init__(self):
        _ = self._start

    @property
    def _start(self) -> CoOp:
        """CoOp, whose context ours starts like."""
        return CoOp(self.towers, n_ctx=self.n_ctx, ctx_init=self.ctx_init)

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """The authors' settings, the same for all data sets and protocols."""
        return dassl.settings(epochs=10, lr=0.002, batch_size=1)

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """Its scripts have no training on all classes of a data set but ImageNet."""
        return published.by_protocol(protocol, "base_to_new", "transfer")

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """Names with their full stop, and the ids of the words that the context starts from."""
        return self._start.tokenize(tokenizer, class_names, template)

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """ctx (M, D_t), and the network's weights and biases as PyTorch has and starts them."""
        of_ctx, *of_layers = jax.random.split(key, 3)
        width, text_width = self.towers.vision.embed_dim, self.towers.text.width
        hidden = max(width // NARROW, 1)
        sizes = (width, hidden), (hidden, text_width)
        params = self._start.init(of_ctx, frozen, names)
        for layer, of_layer, size in zip(("linear1", "linear2"), of_layers, sizes, strict=True):
            weight, bias = prompts.linear(of_layer, *size)
            params |= {f"{layer}_weight": weight, f"{layer}_bias": bias}
        return params

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> PackedClasses:
        """The names themselves: their features wait for the image."""
        return names["names"]

    def shift(self, params: Params, feature: Float[Array, "B D"]) -> Float[Array, "B Dt"]:
        """π(f), what is added to every context vector of an image."""
        hidden = jnp.matmul(feature, params["linear1_weight"].T, precision="highest")
        hidden = jax.nn.relu(hidden + params["linear1_bias"])
        out = jnp.matmul(hidden, params["linear2_weight"].T, precision="highest")
        return out + params["linear2_bias"]

    def texts(
        self, params: Params, frozen: dict, names: PackedClasses, feature: Float[Array, "B D"]
    ) -> Float[Array, "B C D"]:
        """Text features of every class for every image, not normalised.

        So many images go through the text tower at once as make about `TOGETHER` sequences; where
        there are more, the backward pass computes them again. On several devices each of them has
        all images for its classes.
        """
        contexts = params["ctx"] + self.shift(params, feature)[:, None]
        count, *size = contexts.shape
        if not isinstance(count, int):  # an export's, which any number of images may enter
            return jax.lax.map(lambda one: self._texts(frozen, names, one[None])[0], contexts)
        groups = -(-count // max(1, TOGETHER // len(names.places)))
        if groups == 1:
            return self._texts(frozen, names, contexts)
        group = -(-count // groups)
        filled = jnp.resize(contexts, (groups, group, *size))
        encode = jax.checkpoint(functools.partial(self._texts, frozen, names))
        found = jax.lax.map(encode, filled)
        return found.reshape(groups * group, *found.shape[2:])[:count]

    def _texts(
        self, frozen: dict, names: PackedClasses, contexts: Float[Array, "g M Dt"]
    ) -> Float[Array, "g C D"]:
        """Those of some images at once: contexts that all classes share."""
        return self.towers.texts(frozen, names, contexts).swapaxes(0, 1)

    def score(self, params: Params, frozen: dict, text: PackedClasses, image: dict) -> Scores:
        """Scaled cosines of an image and the texts that it gives."""
        feature = unit(self.towers.project(frozen, image["cls"]))
        texts = unit(self.texts(params, frozen, text, feature))
        sim = cosines("bd,bcd->bc", feature, texts)
        return Scores(
            {"prompted": jnp.exp(frozen["logit_scale"]) * sim}, {"global": sim[..., None]}
        )

    def contexts(self, params: Params) -> dict[str, Array]:
        """The context before an image moves it."""
        return {"context": params["ctx"][None]}
