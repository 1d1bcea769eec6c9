"""Draws how alike a class's prompts are, and which classes are taken for which."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sotglp_jax.reports.gallery import literal

CLASSES = 12  # of those with the most mistakes
COLOURS = "Blues"
LETTERS = 18  # of a class name


@literal
def draw(
    similarities: Float[Array, "C N N"] | None,
    counts: Int[Array, "C C"] | None,
    names: Sequence[str],
) -> Figure:
    """Draws mean cosines of the prompts, and the confusion of the worst classes.

    Args:
      similarities: see `learned.similarities`; None leaves that panel out.
      counts: test images by true and given class; None leaves that panel out.
      names: of the classes.
    """
    worst = () if counts is None else _worst(counts)
    side = max(3.2, 0.5 * len(worst))
    widths = [3.2] * (similarities is not None) + [side] * (counts is not None)
    figure = Figure((sum(widths) + 1.8, side + 0.8), layout="constrained")
    panels = list(figure.subplots(1, len(widths), width_ratios=widths, squeeze=False).flat)
    if similarities is not None:
        _draw_similarities(panels[0], similarities.mean(0))
    if counts is not None:
        _draw_confusion(panels[-1], counts[np.ix_(worst, worst)], [names[i] for i in worst])
    return figure


def _draw_similarities(axes: Axes, mean: Float[Array, "N N"]) -> None:
    prompts = [str(i + 1) for i in range(len(mean))]
    _grid(axes, mean, [f"{x:.3f}" for x in mean.flat], (0, 1))
    axes.set_xticks(range(len(mean)), prompts)
    axes.set_yticks(range(len(mean)), prompts)
    axes.set(title="cosines of a class's prompts,\nmean over the classes")
    axes.set(xlabel="prompt", ylabel="prompt")


def _draw_confusion(axes: Axes, counts: Int[Array, "n n"], names: Sequence[str]) -> None:
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    _grid(axes, wrong, [f"{x}" if x else "" for x in counts.flat], (0, max(wrong.max(), 1)))
    titles = [_short(name) for name in names]
    axes.set_xticks(range(len(titles)), titles, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(titles)), titles)
    axes.set(title="test images of the classes with\nmost mistakes, which are coloured")
    axes.set(xlabel="taken for", ylabel="class")


def _worst(counts: Int[Array, "C C"]) -> Int[Array, " n"]:
    """Returns the classes, by label, with most images mistaken or most others taken for them."""
    mistakes = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    return np.sort(np.argsort(-mistakes, kind="stable")[:CLASSES])


def _grid(
    axes: Axes, values: np.ndarray, texts: Sequence[str], limits: tuple[float, float]
) -> None:
    axes.imshow(values, cmap=COLOURS, vmin=limits[0], vmax=limits[1])
    dark = (values - limits[0]) / (limits[1] - limits[0]) > 0.6
    for (row, column), text in zip(np.ndindex(values.shape), texts, strict=True):
        colour = "white" if dark[row, column] else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
