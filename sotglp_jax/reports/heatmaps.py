"""How alike a class's local prompts are, and which classes are taken for which."""

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
    similarities: Float[Array, "C Nl Nl"], counts: Int[Array, "C C"], names: Sequence[str]
) -> Figure:
    """Two panels: mean cosines of the prompts, and the confusion of the worst classes.

    Args:
      similarities: see `learned.similarities`.
      counts: test images by true and given class.
      names: of the classes.
    """
    worst = _worst(counts)
    side = max(3.2, 0.5 * len(worst))
    figure = Figure((5 + side, side + 0.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3.2, side))
    mean = similarities.mean(0)
    prompts = [str(i + 1) for i in range(len(mean))]
    _grid(left, mean, [f"{x:.3f}" for x in mean.flat], (0, 1))
    left.set_xticks(range(len(mean)), prompts)
    left.set_yticks(range(len(mean)), prompts)
    left.set(
        title="cosines of local prompts,\nmean over the classes", xlabel="prompt", ylabel="prompt"
    )
    chosen = counts[np.ix_(worst, worst)]
    wrong = chosen * ~np.eye(len(worst), dtype=bool)
    _grid(right, wrong, [f"{x}" if x else "" for x in chosen.flat], (0, max(wrong.max(), 1)))
    titles = [_short(names[i]) for i in worst]
    right.set_xticks(range(len(worst)), titles, rotation=45, ha="right", rotation_mode="anchor")
    right.set_yticks(range(len(worst)), titles)
    right.set(title="test images of the classes with\nmost mistakes, which are coloured")
    right.set(xlabel="taken for", ylabel="class")
    return figure


def _worst(counts: Int[Array, "C C"]) -> Int[Array, " n"]:
    """Classes by label, of which most images were mistaken or which most were taken for."""
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
