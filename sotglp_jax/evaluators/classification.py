"""Top-1 accuracy of every classifier of a run, in one pass over the test images."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sotglp_jax.cache import image_features
from sotglp_jax.clip import Towers
from sotglp_jax.evaluators import specialisation
from sotglp_jax.methods.sotglp import Scores


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
      "accuracy": correctly classified images by the name of the logits; "specialisation": see
      there, where a method has local prompts.
    """
    image, labels, mask = image_features(towers, frozen, batch), batch["label"], batch["mask"]
    sums = {"accuracy": {}}
    for method, text in zip(methods, texts, strict=True):
        scores = method.score(trained, frozen, text, image)
        for name, logits in scores.logits.items():
            sums["accuracy"][name] = jnp.sum((jnp.argmax(logits, axis=-1) == labels) & mask)
        if isinstance(scores, Scores):
            sums["specialisation"] = specialisation.sums(scores, labels, mask)
    return sums


def means(sums: Iterable[Mapping[str, Any]], images: int) -> dict[str, dict]:
    """Means over all images from the sums of all batches, as plain numbers and lists."""
    totals = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), sums)  # waits for none
    return jax.tree.map(lambda total: (np.asarray(total) / images).tolist(), totals)
