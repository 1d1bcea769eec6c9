"""Where the local prompts of a class look on an image (paper, figure 2)."""

import dataclasses
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from sotglp_jax import transport
from sotglp_jax.cache import image_features
from sotglp_jax.data.sources import Source
from sotglp_jax.errors import InputError
from sotglp_jax.evaluators import specialisation
from sotglp_jax.methods.sotglp import ClassFeatures, Scores, SotGlp

FILE = "maps.npz"
CLASSES = 100  # of a run that maps are kept of
SIDE = 112  # pixels of the images kept


@struct.dataclass
class Maps:
    """Of a batch of images, each seen by the local prompts of one class.

    Patches are numbered row by row, and those listed stand best first.

    Attributes:
      prompts: cosines of patches and each local prompt.
      tops: the three most similar patches of each prompt.
      combined: their mean over the prompts, the saliency that patches are kept by.
      kept: the K most salient patches.
      shares: the part of the kept patches that the plan gives mostly to each prompt. What a plan
        gives to a prompt in all is of no interest: 1 / N_l, unless it is unbalanced.
    """

    prompts: Float[Array, "B Nl h w"]
    tops: Int[Array, "B Nl 3"]
    combined: Float[Array, "B h w"]
    kept: Int[Array, "B K"]
    shares: Float[Array, "B Nl"]


def of(scores: Scores, labels: Int[Array, " B"]) -> Maps:
    """The maps of scored images.

    Args:
      scores: what `SotGlp.score` gave.
      labels: the class to look at on each image, such as the true or the predicted one.
    """
    image = jnp.arange(labels.shape[0])
    sim, plan = scores.sim_local[image, :, labels], scores.plan[image, labels]
    side = math.isqrt(sim.shape[1])
    combined = sim.mean(-1)
    return Maps(
        prompts=jnp.moveaxis(sim, -1, 1).reshape(labels.shape[0], -1, side, side),
        tops=transport.support(sim, min(specialisation.TOP, sim.shape[1])),
        combined=combined.reshape(-1, side, side),
        kept=transport.support(combined, plan.shape[1]),
        shares=specialisation.shares(plan),
    )


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images of a run with the maps of their classes.

    Attributes:
      names: of the classes.
      images: as the vision tower saw them, of at most `SIDE` pixels.
      maps: float16 maps.
    """

    names: tuple[str, ...]
    images: UInt8[Array, "n R R 3"]
    maps: Maps

    def take(self, chosen: Sequence[int]) -> "Examples":
        """Some of them, in the given order."""
        rows = list(chosen)
        maps = jax.tree.map(lambda x: x[rows], self.maps)
        return Examples(tuple(self.names[i] for i in rows), self.images[rows], maps)


def first_of_classes(source: Source) -> Source:
    """The first image of each class, by label, of at most `CLASSES`."""
    first: dict[int, int] = {}
    for index, label in enumerate(source.labels):
        first.setdefault(label, index)
    return source.take([first[label] for label in sorted(first)[:CLASSES]])


def measure(
    frozen: dict, trained: dict, text: ClassFeatures, batch: Mapping, method: SotGlp
) -> dict[str, Array]:
    """The fields of `Maps` of a batch by the prompts of its labels, and the batch.

    Args:
      frozen: CLIP's weights.
      trained: the trainable tree.
      text: class features.
      batch: see `loader.Batch`.
      method: the method; static.
    """
    image = image_features(method.towers, frozen, batch)
    found = of(method.score(trained, frozen, text, image), batch["label"])
    return vars(found) | dict(batch)


def collect(parts: Iterable[Mapping], class_names: Sequence[str]) -> Examples:
    """All images from what `measure` gave for their batches."""
    parts = list(parts)
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    whole = {name: x[whole["mask"]] for name, x in whole.items()}
    images = np.stack([_shrunk(pixels) for pixels in whole["image"]])
    maps = Maps(**{field.name: _light(whole[field.name]) for field in dataclasses.fields(Maps)})
    return Examples(tuple(class_names[label] for label in whole["label"]), images, maps)


def _shrunk(pixels: UInt8[Array, "R R 3"]) -> UInt8[Array, "r r 3"]:
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    return np.asarray(image)


def _light(x: Array) -> np.ndarray:
    return x.astype(np.float16 if np.issubdtype(x.dtype, np.floating) else np.int32)


def arrays(examples: Examples) -> dict[str, np.ndarray]:
    """What `FILE` holds."""
    found = {"names": np.array(examples.names), "images": examples.images}
    return found | vars(examples.maps)


def read(folder: Path) -> Examples | None:
    """What a run folder holds; None where it has no maps.

    Raises:
      InputError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            found = dict(np.load(file, allow_pickle=False))
        names, images = found.pop("names").tolist(), found.pop("images")
        return Examples(tuple(names), images, Maps(**found))
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, OSError, EOFError):
        raise InputError(f"{path} is damaged: evaluate the run again with --mode=eval.") from None
