"""The test images that a run is most wrong about, with the maps of what it took them for."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from sotglp_jax import workdir
from sotglp_jax.data.sources import Source
from sotglp_jax.data.transforms import Resize
from sotglp_jax.evaluators import maps
from sotglp_jax.evaluators.maps import Maps

FILE = "mistakes.npz"  # in a run folder
MOST = 6  # images


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """Images with a wrong class, the most confident first.

    Attributes:
      images: as the vision tower saw them, of at most `maps.SIDE` pixels.
      label: true classes.
      predicted: classes that were given.
      probability: of these.
      maps: of these, in float16; None where the method has none.
    """

    images: UInt8[Array, "n r r 3"]
    label: Int[Array, " n"]
    predicted: Int[Array, " n"]
    probability: Float[Array, " n"]
    maps: Maps | None = None


def make(
    source: Source,
    predicted: Int[Array, " n"],
    probability: Float[Array, " n"],
    found: Maps | None,
    resize: Resize,
) -> Mistakes:
    """The mistakes with their images, which are read.

    Args:
      source: the images with their true classes.
      predicted: see `Mistakes`.
      probability: see `Mistakes`.
      found: maps of the predicted classes.
      resize: how the vision tower sees the images.
    """
    light = found and jax.tree.map(maps.light, found)
    label = np.array(source.labels, np.int32)
    return Mistakes(maps.shown(source, resize), label, predicted, probability, light)


def arrays(mistakes: Mistakes) -> dict[str, np.ndarray]:
    """Returns the arrays that `FILE` holds, by name."""
    found = vars(mistakes) | (vars(mistakes.maps) if mistakes.maps else {})
    return {name: x for name, x in found.items() if name != "maps"}


def load(folder: Path) -> Mistakes | None:
    """Loads the mistakes of a run folder; None where it holds none.

    Raises:
      InputError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    with workdir.read_arrays(path) as found:
        own = {name: found.pop(name) for name in ("images", "label", "predicted", "probability")}
        return Mistakes(**own, maps=Maps(**found) if found else None)
