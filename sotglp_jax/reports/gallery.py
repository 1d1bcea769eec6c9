"""Pictures of images beside the maps of local prompts, as in the paper's figure 2."""

import textwrap
from collections.abc import Sequence

import jax
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sotglp_jax.evaluators.maps import Maps

SIDE = 1.5  # inches of an image
LETTERS = 20  # of a line of a title
COLOURS = "magma"
MARK = {"fill": False, "edgecolor": "#00E5FF", "linewidth": 1.4}  # seen on all of those colours
INSET = 0.08  # of a patch's side, so that neighbours' marks stay apart
literal = rc_context({"text.parse_math": False})  # for what draws names: a $ is a $


@literal
def draw(images: Sequence[np.ndarray], maps: Maps, titles: Sequence[str]) -> Figure:
    """Draws a row an image: itself, a map for each prompt with its top patches, and all combined.

    Above each prompt's map stands the share of the kept patches that the plan gives mostly to it.

    Args:
      images: uint8 (R, R, 3), as the vision tower saw them, of any size.
      maps: of these images.
      titles: of the images, such as their classes.
    """
    rows, columns = len(images), maps.prompts.shape[1] + 2
    size = (SIDE * columns + 0.6, (SIDE + 0.3) * rows)
    figure = Figure(size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for i, (image, title, axes) in enumerate(zip(images, titles, grid, strict=True)):
        _row(axes, image, jax.tree.map(lambda x, i=i: np.asarray(x[i], np.float32), maps), title)
    return figure


def _row(axes: Sequence[Axes], image: np.ndarray, maps: Maps, title: str) -> None:
    sides = maps.combined.shape
    limits = {"vmin": maps.prompts.min(), "vmax": maps.prompts.max(), "cmap": COLOURS}
    for one in axes:
        one.set_axis_off()
    axes[0].imshow(image, extent=(0, sides[1], sides[0], 0))
    axes[0].set_title(textwrap.fill(title, LETTERS), fontsize=9, fontweight="bold")
    prompts = zip(maps.prompts, maps.tops, maps.shares, strict=True)
    panels = [(f"prompt {n}: {share:.0%}", *one) for n, (*one, share) in enumerate(prompts, 1)]
    kept = () if maps.kept.all() else np.flatnonzero(maps.kept)  # marks of all would hide the map
    panels.append(("combined", maps.combined, kept))
    for one, (name, values, patches) in zip(axes[1:], panels, strict=True):
        drawn = one.imshow(values, extent=(0, sides[1], sides[0], 0), **limits)
        one.set_title(name, fontsize=8)
        for patch in patches:
            row, column = divmod(int(patch), sides[1])
            corner, side = (column + INSET, row + INSET), 1 - 2 * INSET
            one.add_patch(Rectangle(corner, side, side, **MARK))
    bar = axes[0].figure.colorbar(drawn, ax=list(axes), fraction=0.01, pad=0.005, aspect=15)
    bar.ax.tick_params(labelsize=6)
