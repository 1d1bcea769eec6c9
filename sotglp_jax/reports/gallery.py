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
OPACITY = 0.6  # of a map over its image
MARK = {"fill": False, "edgecolor": "#00E5FF", "linewidth": 1.4}  # seen on all of those colours
INSET = 0.08  # of a patch's side, so that neighbours' marks stay apart
literal = rc_context({"text.parse_math": False})  # for what draws names: a $ is a $


@literal
def draw(images: Sequence[np.ndarray], maps: Maps, titles: Sequence[str]) -> Figure:
    """Draws a row an image: itself, a map for each prompt with its top patches, and all combined.

    The maps lie over the image in grey. Above each prompt's map stands the share of the kept
    patches that the plan gives mostly to it.

    Args:
      images: uint8 (R, R, 3), as the vision tower saw them, of any size.
      maps: of these images.
      titles: of the images, see `title`.
    """
    rows, columns = len(images), maps.prompts.shape[1] + 2
    size = (SIDE * columns + 0.6, (SIDE + 0.5) * rows)
    figure = Figure(size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for i, (image, title, axes) in enumerate(zip(images, titles, grid, strict=True)):
        _row(axes, image, jax.tree.map(lambda x, i=i: np.asarray(x[i], np.float32), maps), title)
    return figure


def title(name: str, probability: float, flagged: bool = False, true: str = "") -> str:
    """Writes what a classifier says of an image.

    Args:
      name: of the class that it gives.
      probability: of this class.
      flagged: whether the image looks out of distribution.
      true: the class that it is, "" if unknown.
    """
    said = f"{name} ({probability:.0%})"
    if true not in ("", name):
        said = f"{true}, taken for {said}"
    return textwrap.fill(said, LETTERS) + "\nout of distribution" * bool(flagged)


def _row(axes: Sequence[Axes], image: np.ndarray, maps: Maps, title: str) -> None:
    sides = maps.combined.shape
    place = {"extent": (0, sides[1], sides[0], 0)}
    limits = {"vmin": maps.prompts.min(), "vmax": maps.prompts.max(), "cmap": COLOURS}
    for one in axes:
        one.set_axis_off()
        one.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=255, **place)
    axes[0].imshow(image, **place)
    axes[0].set_title(title, fontsize=9, fontweight="bold")
    prompts = zip(maps.prompts, maps.tops, maps.shares, strict=True)
    panels = [(f"prompt {n}: {share:.0%}", *one) for n, (*one, share) in enumerate(prompts, 1)]
    kept = () if maps.kept.all() else np.flatnonzero(maps.kept)  # marks of all would hide the map
    panels.append(("combined", maps.combined, kept))
    for one, (name, values, patches) in zip(axes[1:], panels, strict=True):
        drawn = one.imshow(values, alpha=OPACITY, **limits, **place)
        one.set_title(name, fontsize=8)
        for patch in patches:
            row, column = divmod(int(patch), sides[1])
            corner, side = (column + INSET, row + INSET), 1 - 2 * INSET
            one.add_patch(Rectangle(corner, side, side, **MARK))
    bar = axes[0].figure.colorbar(drawn, ax=list(axes), fraction=0.01, pad=0.005, aspect=15)
    bar.ax.tick_params(labelsize=6)
