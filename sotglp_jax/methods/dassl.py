"""What CoOp's code and those that are built on its framework share: settings and a loss.

Source: https://github.com/KaiyangZhou/Dassl.pytorch.
"""

import dataclasses
from typing import Any

import optax
from jaxtyping import Array, Float, Int

from sotglp_jax.methods.contract import Method, Moment, Params, Scores, accuracies

EPOCHS = {1: 50, 2: 100, 4: 100}  # by shots, 200 for all others


def epochs(dataset: str, shots: int) -> int:
    """Epochs of CoOp's few-shot scripts, which PLOT's take over."""
    return 50 if dataset == "imagenet" else EPOCHS.get(shots, 200)


def settings(epochs: int, lr: float, batch_size: int) -> dict[str, float | int | str]:
    """Training settings by their keys: the framework's schedule and weight decay, and these."""
    return {
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.lr": lr,
        "train.weight_decay": 5e-4,
        "train.schedule": "dassl",
        "train.warmup_epochs": 1,
    }


def cross_entropy(
    scores: Scores, labels: Int[Array, " B"]
) -> tuple[Float[Array, " B"], dict[str, Array]]:
    """The loss of the only logits, and their accuracy."""
    (logits,) = scores.logits.values()
    values = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return values, accuracies(scores.logits, labels)


@dataclasses.dataclass(frozen=True)
class CrossEntropy(Method):
    """A method with a single classifier, trained on nothing but its cross-entropy."""

    def loss(
        self,
        params: Params,
        frozen: dict,
        text: Any,
        image: dict,
        labels: Int[Array, " B"],
        moment: Moment,
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Cross-entropy."""
        return cross_entropy(self.score(params, frozen, text, image), labels)
