"""Top-1 accuracy of every classifier of a run, in one pass over the test images."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sotglp_jax.cache import image_features
from sotglp_jax.clip import Towers
from sotglp_jax.evaluators import specialisation
from sotglp_jax.methods.sotglp import Scores

CONFUSION = "confusion.npz"  # in a run folder


@functools.partial(jax.jit, static_argnames=("towers", "methods"))
def judge(
    frozen: dict, trained: dict, texts: tuple, batch: Mapping, *, towers: Towers, methods: tuple
) -> dict[str, dict[str, jax.Array]]:
    """Sums over the images of a batch.

    Args:
      frozen: CLIP's weights.
      trained: the trainable tree.
      texts: what each method's `encode_classes` gave.
      batch: see `loader.Batch`.
      towers: CLIP's modules.
      methods: methods with `score`.

    Returns:
      "accuracy": correctly classified images by the name of the logits; where a method has local
      prompts, "specialisation": see there, and "confusion": images (C, C) by true and fused label.
    """
    image, labels, mask = image_features(towers, frozen, batch), batch["label"], batch["mask"]
    sums = {"accuracy": {}}
    for method, text in zip(methods, texts, strict=True):
        scores = method.score(trained, frozen, text, image)
        for name, logits in scores.logits.items():
            sums["accuracy"][name] = jnp.sum((jnp.argmax(logits, axis=-1) == labels) & mask)
        if isinstance(scores, Scores):
            sums["specialisation"] = specialisation.sums(scores, labels, mask)
            sums["confusion"] = _confusion(scores.logits["fused"], labels, mask)
    return sums


def _confusion(
    logits: Float[Array, "B C"], labels: Int[Array, " B"], mask: Bool[Array, " B"]
) -> Float[Array, "C C"]:
    classes = logits.shape[-1]
    true = jax.nn.one_hot(labels, classes) * mask[:, None]
    given = jax.nn.one_hot(logits.argmax(-1), classes)
    return jnp.einsum("bt,bg->tg", true, given, precision="highest")


def means(sums: Iterable[Mapping[str, Any]], images: int) -> dict[str, dict]:
    """Means over all images from the sums of all batches, as plain numbers and lists.

    "confusion" stays a sum, an int32 array.
    """
    totals = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), sums)  # waits for none
    confusion = {k: np.asarray(totals.pop(k), np.int32) for k in ("confusion",) if k in totals}
    return jax.tree.map(lambda x: (np.asarray(x) / images).tolist(), totals) | confusion
