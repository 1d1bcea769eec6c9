"""Writes what a finished run learned, as text."""

from collections.abc import Iterator, Mapping, Sequence

from clu import parameter_overview
from jaxtyping import Array, Float, Int

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.inspect import learned

MOST = 10  # lines of mistakes

Contexts = Mapping[str, Float[Array, "*leading M Dt"]]


def lines(
    names: Sequence[str],
    params: Mapping,
    frozen: Mapping,
    tokenizer: Tokenizer,
    contexts: Contexts,
    alike: Float[Array, "C N N"] | None = None,
    counts: Int[Array, "C C"] | None = None,
) -> Iterator[str]:
    """Yields parameters, nearest words, how alike prompts are, and the most confused classes.

    Args:
      names: of the classes, by label.
      params: the trained tree.
      frozen: CLIP's weights.
      tokenizer: of CLIP.
      contexts: vectors in the space of token embeddings by title: (M, Dt), of each prompt
        (N, M, Dt), or of each prompt of each class (C, N, M, Dt); {} leaves words out.
      alike: see `learned.similarities`; None leaves them out.
      counts: see `classification.confusion`; None leaves them out.
    """
    yield from _parameters(params, frozen)
    if contexts:
        yield ""
        yield from _words(contexts, frozen["text"]["token_embedding"], tokenizer, names)
    if alike is not None:
        yield ""
        yield from _alike(alike, names)
    if counts is not None:
        yield ""
        yield from _confused(counts, names)


def _parameters(params: Mapping, frozen: Mapping) -> Iterator[str]:
    yield "learned"
    yield parameter_overview.get_parameter_overview(params, include_stats=False)
    yield f"frozen: {parameter_overview.count_parameters(frozen):,.0f}"


def _words(
    contexts: Contexts, table: Float[Array, "V Dt"], tokenizer: Tokenizer, names: Sequence[str]
) -> Iterator[str]:
    """Yields a line a prompt: for each of its vectors the nearest word and the distance."""
    table = table[: tokenizer.vocab_size]
    yield (
        "nearest words of the context vectors, and their Euclidean distance (a word's own nearest "
        f"neighbour is at {learned.yardstick(table):.2f} in the median)"
    )
    for group, vectors in contexts.items():
        *leading, m, width = vectors.shape
        ids, distances = learned.nearest_words(vectors.reshape(-1, width), table)
        for i, title in enumerate(_titles(group, leading, names)):
            row = slice(i * m, (i + 1) * m)
            words = zip(ids[row], distances[row], strict=True)
            yield f"  {title:<24}" + "  ".join(f"{tokenizer.word(w)} {d:.2f}" for w, d in words)


def _titles(group: str, leading: Sequence[int], names: Sequence[str]) -> list[str]:
    """Returns the titles of prompts, by the axes that stand before their vectors."""
    if not leading:
        return [group]
    owners = [group] if len(leading) == 1 else names
    return [f"{owner} {n}" for owner in owners for n in range(1, leading[-1] + 1)]


def _alike(alike: Float[Array, "C N N"], names: Sequence[str]) -> Iterator[str]:
    """Yields the mean over the classes, and the classes at both ends."""
    yield "cosines of a class's prompts as text features, mean over the classes"
    n = alike.shape[-1]
    yield " " * 12 + "".join(f"{i:>8}" for i in range(1, n + 1))
    for i, row in enumerate(alike.mean(0), start=1):
        yield f"  prompt {i:<3}" + "".join(f"{x:>8.3f}" for x in row)
    if n > 1:
        by_class = learned.overlaps(alike)
        order = by_class.argsort()
        for said, label in (("least", order[0]), ("most", order[-1])):
            yield f"  {said} alike: {names[label]}, {by_class[label]:.3f} between two prompts"


def _confused(counts: Int[Array, "C C"], names: Sequence[str]) -> Iterator[str]:
    found = learned.mistakes(counts)
    wrong = sum(x.count for x in found)
    yield f"most confused classes ({wrong} of {counts.sum()} test images are taken for another)"
    for x in found[:MOST]:
        share = x.count / x.of
        yield f"  {names[x.true]} for {names[x.given]}: {x.count} of {x.of} ({share:.1%})"
