"""Grids of numbers on colours, such as which classes are taken for which."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Int
from matplotlib.axes import Axes

CLASSES = 12  # of those with the most mistakes
COLOURS = "Blues"
LETTERS = 18  # of a class name


def draw(axes: Axes, values: np.ndarray, texts: Sequence[str], limits: tuple[float, float]) -> None:
    """Draws a text on each cell of a grid, on a colour by its value between the limits."""
    axes.imshow(values, cmap=COLOURS, vmin=limits[0], vmax=limits[1])
    dark = (values - limits[0]) / (limits[1] - limits[0]) > 0.6
    for (row, column), text in zip(np.ndindex(values.shape), texts, strict=True):
        colour = "white" if dark[row, column] else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)


def confusion(axes: Axes, counts: Int[Array, "C C"], names: Sequence[str]) -> None:
    """Draws the confusion of the `CLASSES` worst classes, with mistakes in colour.

    Args:
      axes: to be drawn on.
      counts: test images by true and given class.
      names: of the classes.
    """
    worst = hardest(counts)
    counts = counts[np.ix_(worst, worst)]
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    draw(axes, wrong, [f"{x}" if x else "" for x in counts.flat], (0, max(wrong.max(), 1)))
    titles = [short(names[i]) for i in worst]
    axes.set_xticks(range(len(titles)), titles, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(titles)), titles)
    axes.set(xlabel="taken for", ylabel="class")


def side(classes: int) -> float:
    """The width and height, in inches, that the confusion of so many classes takes."""
    return max(3.2, 0.5 * min(classes, CLASSES))


def hardest(counts: Int[Array, "C C"]) -> Int[Array, " n"]:
    """Returns the classes, by label, with most images mistaken or most others taken for them."""
    mistakes = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    return np.sort(np.argsort(-mistakes, kind="stable")[:CLASSES])


def short(name: str) -> str:
    """A name of at most `LETTERS` letters."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
