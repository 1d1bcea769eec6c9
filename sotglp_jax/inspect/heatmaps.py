"""Draws how alike a class's prompts are, and which classes are taken for which."""

from collections.abc import Sequence

from jaxtyping import Array, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sotglp_jax.reports import grids
from sotglp_jax.reports.gallery import literal


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
    side = grids.side(0 if counts is None else len(counts))
    widths = [3.2] * (similarities is not None) + [side] * (counts is not None)
    figure = Figure((sum(widths) + 1.8, side + 0.8), layout="constrained")
    panels = list(figure.subplots(1, len(widths), width_ratios=widths, squeeze=False).flat)
    if similarities is not None:
        _draw_similarities(panels[0], similarities.mean(0))
    if counts is not None:
        grids.confusion(panels[-1], counts, names)
        title = "test images of the classes with\nmost mistakes, which are coloured"
        panels[-1].set_title(title)
    return figure


def _draw_similarities(axes: Axes, mean: Float[Array, "N N"]) -> None:
    prompts = [str(i + 1) for i in range(len(mean))]
    grids.draw(axes, mean, [f"{x:.3f}" for x in mean.flat], (0, 1))
    axes.set_xticks(range(len(mean)), prompts)
    axes.set_yticks(range(len(mean)), prompts)
    axes.set(title="cosines of a class's prompts,\nmean over the classes")
    axes.set(xlabel="prompt", ylabel="prompt")
