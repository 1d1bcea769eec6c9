"""What a finished run learned, as plain numbers."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from sotglp_jax.devices import sharding
from sotglp_jax.methods.similarity import unit
from sotglp_jax.trained.finished import Finished

SAMPLE = 256  # words that the yardstick is taken from


@dataclasses.dataclass(frozen=True)
class Mistake:
    """Test images of one class that were taken for another.

    Attributes:
      true: the class, by label.
      given: what it was taken for.
      count: how many were.
      of: test images of the class.
    """

    true: int
    given: int
    count: int
    of: int


def nearest_words(
    contexts: Float[Array, "n Dt"], table: Float[Array, "V Dt"]
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Of each vector the nearest row of a table of embeddings, and the Euclidean distance."""
    contexts, table = np.asarray(contexts, np.float32), np.asarray(table, np.float32)
    ids = np.concatenate([_squared(part, table).argmin(-1) for part in _parts(contexts)])
    return ids, np.linalg.norm(contexts - table[ids], axis=-1)


def yardstick(table: Float[Array, "V Dt"]) -> float:
    """The median distance of a word to the word nearest to it, of a sample of the vocabulary."""
    table = np.asarray(table, np.float32)
    sample = np.linspace(0, len(table) - 1, min(SAMPLE, len(table))).astype(int)
    squared = _squared(table[sample], table)
    squared[np.arange(len(sample)), sample] = np.inf
    return float(np.median(np.sqrt(np.maximum(squared.min(-1), 0))))


def _parts(x: np.ndarray, rows: int = 1024) -> Iterator[np.ndarray]:
    return (x[i : i + rows] for i in range(0, len(x), rows))


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a**2).sum(-1)[:, None] - 2 * a @ b.T + (b**2).sum(-1)


def similarities(found: Finished) -> Float[Array, "C N N"] | None:
    """Cosines of the text features of each class's prompts; None where classes have no several."""
    run, method = found.run, found.run.method
    names = run.names_on(sharding.make_mesh(1), method)
    text = jax.jit(method.encode_classes)(found.params, run.frozen, names)
    features = method.prompt_features(text)
    if features is None:
        return None
    features = np.asarray(unit(features))
    return features @ features.swapaxes(-1, -2)


def overlaps(similarities: Float[Array, "C N N"]) -> Float[Array, " C"]:
    """The mean cosine of two different prompts of each class; 1 where there is but one."""
    n = similarities.shape[-1]
    if n == 1:
        return np.ones(len(similarities))
    return (similarities.sum((1, 2)) - np.trace(similarities, axis1=1, axis2=2)) / (n * (n - 1))


def mistakes(counts: Int[Array, "C C"]) -> list[Mistake]:
    """All that happened, the most frequent first."""
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    pairs = zip(*np.nonzero(wrong), strict=True)
    found = [Mistake(int(t), int(g), int(counts[t, g]), int(counts[t].sum())) for t, g in pairs]
    return sorted(found, key=lambda x: (-x.count, x.true, x.given))
