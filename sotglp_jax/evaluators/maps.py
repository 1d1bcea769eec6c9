"""Maps of where the local prompts of a class look on an image (paper, figure 2)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8
from PIL import Image

from sotglp_jax import workdir
from sotglp_jax.data import transforms
from sotglp_jax.data.sources import Dataset, Source
from sotglp_jax.evaluators import specialisation
from sotglp_jax.methods import transport

if TYPE_CHECKING:
    from sotglp_jax.methods.contract import Scores

FILE = "maps.npz"
CLASSES = 100  # whose maps a run keeps, at most
SIDE = 112  # pixels of the images kept


@struct.dataclass
class Maps:
    """Where the local prompts of one class look on each image of a batch.

    Patches are numbered row by row.

    Attributes:
      prompts: cosines of patches and each local prompt.
      tops: the three most similar patches of each prompt, best first.
      combined: mean of the cosines over the prompts.
      kept: whether a patch counts in the logits, for one of the prompts at least.
      shares: the part of the kept patches that the plan gives mostly to each prompt. What a plan
        gives to a prompt in all is of no interest: 1 / N, unless it is unbalanced.
    """

    prompts: Float[Array, "B N h w"]
    tops: Int[Array, "B N 3"]
    combined: Float[Array, "B h w"]
    kept: Bool[Array, "B h w"]
    shares: Float[Array, "B N"]


def compute(scores: "Scores", labels: Int[Array, " B"]) -> Maps | None:
    """Computes the maps of scored images.

    Args:
      scores: what the method's `score` gave: `sims["local"]` (B P C N), and of `parts` the "plan"
        (B C K N) and the "support" (B C K), or (B C K N) where each prompt keeps its own patches.
      labels: the class to look at on each image, such as the true or the predicted one.

    Returns:
      The maps; None where the method has no such cosines or parts.
    """
    if "local" not in scores.sims or not {"plan", "support"} <= scores.parts.keys():
        return None
    image = jnp.arange(labels.shape[0])  # len() fails where an export leaves it open
    sim = scores.sims["local"][image, :, labels]
    plan, support = (scores.parts[name][image, labels] for name in ("plan", "support"))
    n, patches, prompts = sim.shape
    side = math.isqrt(patches)
    kept = jnp.zeros((n, patches), bool).at[image[:, None], support.reshape(n, -1)].set(True)
    return Maps(
        prompts=jnp.moveaxis(sim, -1, 1).reshape(n, prompts, side, side),
        tops=transport.support(sim, min(specialisation.TOP, patches)),
        combined=sim.mean(-1).reshape(n, side, side),
        kept=kept.reshape(n, side, side),
        shares=specialisation.shares(plan),
    )


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a run says of images.

    Attributes:
      given: names of the most probable classes.
      probability: of these.
      flagged: whether the image looks out of distribution.
    """

    given: Shaped[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]
    flagged: Bool[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images of a run with the maps of their classes.

    Attributes:
      names: of the classes.
      images: as the vision tower saw them, of at most `SIDE` pixels.
      maps: their maps, in float16.
      answers: what the run says of them; None in the files of older versions.
    """

    names: tuple[str, ...]
    images: UInt8[Array, "n R R 3"]
    maps: Maps
    answers: Answers | None

    def take(self, chosen: Sequence[int]) -> "Examples":
        """Returns some of the examples, in the given order."""
        rows = list(chosen)
        maps = jax.tree.map(lambda x: x[rows], self.maps)
        answers = self.answers and _rows(self.answers, rows)
        return Examples(tuple(self.names[i] for i in rows), self.images[rows], maps, answers)


def _rows(answers: Answers, rows: Sequence[int]) -> Answers:
    return Answers(**{name: x[rows] for name, x in vars(answers).items()})


def first_of_classes(labels: Sequence[int]) -> list[int]:
    """Positions of the first image of each class, ascending, of at most `CLASSES` classes."""
    first: dict[int, int] = {}
    for index, label in enumerate(labels):
        first.setdefault(label, index)
    return sorted(first[label] for label in sorted(first)[:CLASSES])


def examples(
    dataset: Dataset,
    positions: Sequence[int],
    found: Mapping,
    answers: Answers,
    resize: transforms.Resize,
) -> Examples:
    """Test images of a data set with their maps, by label.

    Args:
      dataset: the data set.
      positions: of the images among the test images.
      found: the fields of `Maps` of these images.
      answers: of these images.
      resize: how the vision tower sees the images.
    """
    source = dataset.test.take(positions)
    order = np.argsort(source.labels, kind="stable")
    maps = Maps(**{name: light(np.asarray(x)[order]) for name, x in found.items()})
    names = tuple(dataset.class_names[source.labels[i]] for i in order)
    return Examples(names, shown(source.take(order), resize), maps, _rows(answers, order))


def shown(source: Source, resize: transforms.Resize) -> UInt8[np.ndarray, "n r r 3"]:
    """The images as the vision tower sees them, of at most `SIDE` pixels."""
    small = np.zeros((len(source), *[min(resize.size, SIDE)] * 2, 3), np.uint8)
    for i in range(len(source)):
        image = Image.fromarray(transforms.resize_and_crop(source[i]["image"], resize))
        image.thumbnail((SIDE, SIDE))
        small[i] = np.asarray(image)
    return small


def light(x: Array) -> np.ndarray:
    """Half as much of an array of floats; any other array as it is."""
    return x.astype(np.float16) if np.issubdtype(x.dtype, np.floating) else x


def arrays(examples: Examples) -> dict[str, np.ndarray]:
    """Returns the arrays that `FILE` holds, by name."""
    found = {"names": np.array(examples.names), "images": examples.images}
    return found | vars(examples.maps) | vars(examples.answers)


def load(folder: Path) -> Examples | None:
    """Loads the examples of a run folder; None where it holds no maps.

    Raises:
      InputError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    with workdir.read_arrays(path) as found:
        names, images = found.pop("names").tolist(), found.pop("images")
        said = {x.name: found.pop(x.name, None) for x in dataclasses.fields(Answers)}
        answers = Answers(**said) if said["given"] is not None else None
        return Examples(tuple(names), images, Maps(**found), answers)
