"""GalLoP: shared global and local prompts, each of the latter with a number of patches of its own.

Source: https://arxiv.org/abs/2407.01400 and https://github.com/MarcLafon/gallop.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.clip.weights import SAME, TRANSPOSE
from sotglp_jax.devices.images import image_by_image
from sotglp_jax.errors import InputError
from sotglp_jax.methods import published
from sotglp_jax.methods.contract import (
    Method,
    Moment,
    Params,
    Scores,
    accuracies,
    at_least,
    readable,
)
from sotglp_jax.methods.prompts import ClassFeatures, keep_prompts
from sotglp_jax.methods.similarity import cosines, unit

WORDS = "A photo of a"
# Epochs and images a batch of the authors' scripts, which are for 16 shots.
TRAINED = {"imagenet": (50, 128), "sun397": (200, 128), "eurosat": (200, 10)}
OTHERS = (200, 32)


@dataclasses.dataclass(frozen=True)
class GalLoP(Method):
    """The mean of global cosines and of local ones over the most similar patches of each prompt.

    Attributes:
      n_global: N_g, prompts compared with the class token.
      topk: k, the patches of each local prompt, or one number for all; more than there are in an
        image means all of them.
      n_local: N_l, prompts compared with patches.
      global_dropout: share of the global prompts left out for an image in training, see
        `keep_prompts`.
    """

    n_global: int = 4
    topk: tuple[int, ...] = (5, 10, 15, 20)
    n_local: int = 4
    global_dropout: float = 0.75

    title: ClassVar[str] = "GalLoP"
    logits: ClassVar[Mapping[str, str]] = {
        "fused": "",
        "global": "global only",
        "local": "local only",
    }
    symbols: ClassVar[Mapping[str, str]] = {"topk": "k"}
    local: ClassVar[str] = "value"
    torch_names: ClassVar[Mapping[str, tuple]] = {
        "global_prompts": ("global_prompt", SAME),
        "local_prompts": ("local_prompts", SAME),
        "local_projection": ("local_proj.linear.weight", TRANSPOSE),
    }

    def __post_init__(self):
        at_least(1, n_global=self.n_global, n_local=self.n_local)
        at_least(0, global_dropout=self.global_dropout)
        if self.global_dropout >= 1:
            raise InputError(
                f"method.global_dropout={self.global_dropout} leaves no prompt: set it below 1."
            )
        if not all(isinstance(k, int) and k > 0 for k in self.topk):
            raise InputError(
                f"method.topk={self.topk} must be whole numbers of patches from 1 on, such as "
                '--config.method.topk="(5, 10, 15, 20)".'
            )
        if len(self.topk) not in (1, self.n_local):
            raise InputError(
                f"method.topk={self.topk} must be one number of patches for each of the "
                f"{self.n_local} local prompts of method.n_local, or a single one for all: set one "
                "of the two."
            )

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """The authors' scripts for 16 shots, for any number of them."""
        epochs, batch_size = TRAINED.get(dataset, OTHERS)
        return {
            "train.epochs": epochs,
            "train.batch_size": batch_size,
            "train.lr": 0.002,
            "train.weight_decay": 0.01,
        }

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """There are scripts for 16 shots of the field's data sets."""
        return published.listed(
            "" if shots == 16 else "settings are published for 16 shots alone, which stand in",
            published.by_set(dataset, "epochs and batches", "those of most of them"),
            "" if protocol == "transfer" else published.by_protocol(protocol, "few_shot"),
        )

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """The bare class names, without a full stop, and the ids of the words at the start."""
        context = tokenizer.encode(WORDS)
        names = tokenizer(readable(class_names), room=len(context))
        return {"names": names, "context": np.array(context, np.int32)}

    def text_tokens(self, length: int) -> int:
        """Names behind all prompts, which the classes share."""
        return (self.n_global + self.n_local) * length

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """The parameters before the first step: all prompts alike, and no projection.

        Returns:
          global_prompts (N_g, M, D_t), local_prompts (N_l, M, D_t), and local_projection (W, W),
          applied as patches @ local_projection.
        """
        words = self.towers.embed(frozen, names["context"]).astype(jnp.float32)
        return {
            "global_prompts": jnp.tile(words, (self.n_global, 1, 1)),
            "local_prompts": jnp.tile(words, (self.n_local, 1, 1)),
            "local_projection": jnp.eye(self.towers.vision.width),
        }

    def encode_images(
        self, params: Params, frozen: dict, pixels: UInt8[Array, "B R R 3"]
    ) -> dict[str, Array]:
        """The class token, and patches of the last layer's values."""
        return self.towers.images(frozen, pixels, local=self.local)

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> ClassFeatures:
        """Text features of all prompts before every class name."""
        prompts = jnp.concatenate([params["global_prompts"], params["local_prompts"]])
        text = self.towers.texts(frozen, names["names"], prompts)
        return ClassFeatures(text[:, : self.n_global], text[:, self.n_global :])

    def score(self, params: Params, frozen: dict, text: ClassFeatures, image: dict) -> Scores:
        """Scaled means of the cosines, of each branch and of both."""
        sim_global, sims = self._similarities(params, frozen, text, image)
        logits = self._logits(frozen, sim_global, self._nearest(sims))
        local = jnp.stack(sims, axis=-1).swapaxes(1, 2)
        return Scores(logits, {"global": sim_global, "local": local})

    def kept(self, images: int, key: PRNGKeyArray) -> Float[Array, "B Ng"]:
        """Weights of the global prompts of each training image."""
        return keep_prompts(images, self.n_global, self.global_dropout, key)

    def loss(
        self,
        params: Params,
        frozen: dict,
        text: ClassFeatures,
        image: dict,
        labels: Int[Array, " B"],
        moment: Moment,
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Cross-entropy of the global branch with dropout, and of every local prompt."""
        sim_global, sims = self._similarities(params, frozen, text, image)
        nearest, scale = self._nearest(sims), jnp.exp(frozen["logit_scale"])
        kept = self.kept(len(labels), moment.key)
        dropped = scale * jnp.einsum("bcn,bn->bc", sim_global, kept, precision="highest")
        entropy = optax.softmax_cross_entropy_with_integer_labels
        of_global = entropy(dropped, labels)
        of_local = entropy(scale * jnp.moveaxis(nearest, -1, 0), labels[None]).mean(0)
        metrics = {"loss_global": of_global, "loss_local": of_local}
        metrics |= accuracies(self._logits(frozen, sim_global, nearest), labels)
        return of_global + of_local, metrics

    def contexts(self, params: Params) -> dict[str, Array]:
        """Global and local prompts."""
        return {"global": params["global_prompts"], "local": params["local_prompts"]}

    def prompt_features(self, text: ClassFeatures) -> Float[Array, "C Nl D"]:
        """The local prompts'."""
        return text.local

    def _similarities(
        self, params: Params, frozen: dict, text: ClassFeatures, image: dict
    ) -> tuple[Float[Array, "B C Ng"], list[Float[Array, "B C P"]]]:
        """Cosines of the class token and the global prompts, and of patches and each local one.

        The latter are apart, so that training never has them all at once.
        """
        feature = unit(self.towers.project(frozen, image["cls"]))
        # Of the weights and not of the patches, which are more.
        projection = self.towers.project(frozen, params["local_projection"])
        patches = unit(jnp.matmul(image["patches"], projection, precision="highest"))
        sims = [cosines("bpd,cd->bcp", patches, t) for t in jnp.moveaxis(unit(text.local), 1, 0)]
        return cosines("bd,cnd->bcn", feature, unit(text.global_)), sims

    def _nearest(self, sims: list[Float[Array, "B C P"]]) -> Float[Array, "B C Nl"]:
        """The mean over the patches of each local prompt."""
        topk = self.topk * self.n_local if len(self.topk) == 1 else self.topk
        pairs = zip(sims, topk, strict=True)
        return jnp.stack([largest_mean(sim, k) for sim, k in pairs], axis=-1)

    def _logits(
        self, frozen: dict, sim_global: Float[Array, "B C Ng"], nearest: Float[Array, "B C Nl"]
    ) -> dict[str, Float[Array, "B C"]]:
        scale = jnp.exp(frozen["logit_scale"])
        of_global, of_local = scale * sim_global.mean(-1), scale * nearest.mean(-1)
        return {"fused": (of_global + of_local) / 2, "global": of_global, "local": of_local}


def largest_mean(sim: Float[Array, "B C P"], k: int) -> Float[Array, "B C"]:
    """The mean of the k largest cosines, of all where there are fewer; their gradient is 1 / k."""
    k = min(k, sim.shape[-1])
    return image_by_image(lambda x: jax.lax.top_k(x, k)[0], sim).mean(-1)
