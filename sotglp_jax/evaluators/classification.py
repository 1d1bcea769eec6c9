"""Top-1 accuracy of every classifier of a run, in one pass over the test images."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from sotglp_jax.cache import image_features
from sotglp_jax.clip import Towers


@functools.partial(jax.jit, static_argnames=("towers", "methods"))
def count_correct(
    frozen: dict, trained: dict, texts: tuple, batch: Mapping, *, towers: Towers, methods: tuple
) -> dict[str, jax.Array]:
    """Correctly classified images of a batch, by the name of the logits.

    Args:
      frozen: CLIP's weights.
      trained: the trainable tree.
      texts: what each method's `encode_classes` gave.
      batch: see `loader.Batch`.
      towers: CLIP's modules.
      methods: methods with `score`.
    """
    image = image_features(towers, frozen, batch)
    counts = {}
    for method, text in zip(methods, texts, strict=True):
        for name, logits in method.score(trained, frozen, text, image).logits.items():
            right = (jnp.argmax(logits, axis=-1) == batch["label"]) & batch["mask"]
            counts[name] = jnp.sum(right)
    return counts


def accuracies(counts: Iterable[Mapping[str, Any]], images: int) -> Iterator[tuple[str, float]]:
    """Yields (name, fraction) from the counts of all batches."""
    totals: dict[str, int] = {}
    for batch in counts:
        for name, count in batch.items():
            totals[name] = totals.get(name, 0) + int(count)
    for name, total in totals.items():
        yield name, total / images
