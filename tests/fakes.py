"""Small methods, whose training is a matter of seconds."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from sotglp_jax.methods.contract import Method, Scores, Stage, accuracies


@dataclasses.dataclass(frozen=True)
class Linear(Method):
    """A linear classifier of the class token."""

    title = "linear"
    logits = {"linear": ""}

    def init(self, key, frozen, names):
        """weight (W, C) and bias (C,)."""
        classes = len(names["names"].places)
        shape = self.towers.vision.width, classes
        keys = jax.random.split(key)
        return {
            "weight": 0.1 * jax.random.normal(keys[0], shape),
            "bias": jax.random.normal(keys[1], (classes,)),
        }

    def encode_classes(self, params, frozen, names):
        """Nothing of the names but their number."""
        return jnp.zeros((len(names["names"].places), 1))

    def score(self, params, frozen, text, image):
        """The class token by the weights."""
        return Scores({"linear": image["cls"] @ params["weight"] + params["bias"]})

    def loss(self, params, frozen, text, image, labels, moment):
        """Cross-entropy."""
        logits = self.score(params, frozen, text, image).logits
        values = optax.softmax_cross_entropy_with_integer_labels(logits["linear"], labels)
        return values, accuracies(logits, labels)

    def on(self, params, labels):
        """The columns of known classes."""
        return (self, {k: x[..., jnp.array(labels)] for k, x in params.items()}) if labels else None


@dataclasses.dataclass(frozen=True)
class Staged(Linear):
    """A linear map, its weights first and its bias later, averaged over epochs; then by turns."""

    average = ((0.5, 0.5), (0.5, 0.25, 0.25))  # powers of two: products are exact
    decay = {"bias": 0.5}

    def stages(self, train):
        """Two epochs of two steps a batch, three epochs of one, and two of two passes each."""
        rates = {"schedule": "dassl", "warmup_epochs": 1, "warmup_lr": 0.01, "lr": 0.1}
        first = Stage(epochs=2, trained=("weight",), updates=2, average=self.average[0], **rates)
        second = Stage(epochs=3, trained=("bias",), average=self.average[1], **rates)
        turns = {"turns": ("bias", "weight"), "optimizer": "adam"}
        return first, second, Stage(2, 0.1, "paper", warmup_epochs=0, warmup_lr=0.0, **turns)
