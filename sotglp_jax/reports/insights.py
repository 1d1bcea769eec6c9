"""What a finished run learned, as text."""

from collections.abc import Iterator, Sequence

from jaxtyping import Array, Float, Int

from sotglp_jax import learned
from sotglp_jax.finished import Finished

MOST = 10  # lines of mistakes


def lines(
    found: Finished, alike: Float[Array, "C Nl Nl"], counts: Int[Array, "C C"]
) -> Iterator[str]:
    """Parameters by group, nearest words, how alike prompts are, and the most confused classes.

    Args:
      found: the run.
      alike: see `learned.similarities`.
      counts: see `learned.confusion`.
    """
    names = found.run.dataset.class_names
    yield from _parameters(found.trained, found.run.frozen)
    yield ""
    yield from _words(found)
    yield ""
    yield from _alike(alike, names)
    yield ""
    yield from _confused(counts, names)


def _parameters(trained: dict, frozen: dict) -> Iterator[str]:
    yield "parameters"
    for state, params in (("learned", trained), ("frozen", frozen)):
        found = learned.sizes(params)
        for name, (shape, count) in found.items():
            yield f"  {name:<18}{' x '.join(map(str, shape)):<20}{count:>14,}"
        yield f"  {state + ' in all':<38}{sum(count for _, count in found.values()):>14,}"


def _words(found: Finished) -> Iterator[str]:
    """A line a prompt: for each of its vectors the nearest word and the distance."""
    tokens, names = learned.tokenizer(found), found.run.dataset.class_names
    table = found.run.frozen["text"]["token_embedding"][: tokens.vocab_size]
    yield (
        "nearest words of the context vectors, and their Euclidean distance (a word's own nearest "
        f"neighbour is at {learned.yardstick(table):.2f} in the median)"
    )
    for group in ("global_prompts", "local_prompts"):
        prompts = found.trained[group]
        *leading, m, width = prompts.shape
        ids, distances = learned.nearest_words(prompts.reshape(-1, width), table)
        for i, title in enumerate(_titles(group, leading, names)):
            row = slice(i * m, (i + 1) * m)
            words = zip(ids[row], distances[row], strict=True)
            yield f"  {title:<24}" + "  ".join(f"{tokens.word(w)} {d:.2f}" for w, d in words)


def _titles(group: str, leading: Sequence[int], names: Sequence[str]) -> list[str]:
    numbers = range(1, leading[-1] + 1)
    if len(leading) == 1:
        return [f"{group.partition('_')[0]} {n}" for n in numbers]
    return [f"{name} {n}" for name in names for n in numbers]


def _alike(alike: Float[Array, "C Nl Nl"], names: Sequence[str]) -> Iterator[str]:
    """The mean over the classes, and the classes at both ends."""
    yield "cosines of a class's local prompts as text features, mean over the classes"
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
