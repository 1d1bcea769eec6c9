"""Trained classes for anybody's pictures, from a run folder or from an export."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from sotglp_jax.data import pictures
from sotglp_jax.data.pictures import Picture
from sotglp_jax.data.transforms import Resize
from sotglp_jax.errors import InputError
from sotglp_jax.evaluators import detection
from sotglp_jax.evaluators.maps import Maps
from sotglp_jax.trained import exported, finished, hub, outputs
from sotglp_jax.trained.finished import Finished

MOST = 32  # images of a batch


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a classifier says of N images.

    Attributes:
      class_names: of the C classes.
      probabilities: softmax of the logits by the method's names for them, (N, C) each; the first
        decides. Calibrated where the run's `eval.calibrate` asked for it.
      ood_score: see `evaluators.ood.single`, higher in distribution; None without one.
      threshold: the `ood_score` below which an image looks out of distribution; None without one.
      maps: where the local prompts of each image's most probable class look; None if not asked for.
    """

    class_names: tuple[str, ...]
    probabilities: dict[str, Float[np.ndarray, "N C"]]
    ood_score: Float[np.ndarray, " N"] | None
    threshold: float | None
    maps: Maps | None

    @property
    def best(self) -> Float[np.ndarray, "N C"]:
        """The probabilities that decide."""
        return next(iter(self.probabilities.values()))

    @property
    def labels(self) -> Int[np.ndarray, " N"]:
        """The most probable class of each image, an index into `class_names`."""
        return self.best.argmax(-1)

    @property
    def names(self) -> list[str]:
        """The most probable class of each image by name."""
        return [self.class_names[label] for label in self.labels]

    @property
    def is_ood(self) -> Bool[np.ndarray, " N"]:
        """Whether each image looks out of distribution; without a threshold none does."""
        if self.threshold is None:
            return np.zeros(len(self.best), bool)
        return self.ood_score < self.threshold

    def record(self, image: int, topk: int) -> dict:
        """What is said of one image, as JSON can hold it.

        Args:
          image: its row.
          topk: classes to list, at most C.

        Returns:
          "class" and "probability" of the most probable class; where there is a threshold,
          "ood_score" and "out_of_distribution"; "top", pairs of both for the most probable classes.
        """
        order = (-self.best[image]).argsort(kind="stable")[:topk]
        top = [(self.class_names[label], float(self.best[image, label])) for label in order]
        record = {"class": top[0][0], "probability": top[0][1]}
        if self.threshold is not None:
            record["ood_score"] = float(self.ood_score[image])
            record["out_of_distribution"] = bool(self.is_ood[image])
        return record | {"top": top}


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Classifies pictures; made by `load`. Several threads may call it at once.

    Attributes:
      class_names: of the C classes.
      resize: how the vision tower sees images.
      logits: names of the classifiers, the one that decides first.
      threshold: see `Prediction`.
      known_scores: the `ood_score` of n images of these classes that were not trained on, sorted;
        empty where an older version wrote the run or export.
      program: gives what `outputs.compute` does of uint8 images (B, R, R, 3).
    """

    class_names: tuple[str, ...]
    resize: Resize
    logits: tuple[str, ...]
    threshold: float | None
    known_scores: Float[np.ndarray, " n"]
    program: Callable[[UInt8[np.ndarray, "B R R 3"]], dict]

    @classmethod
    def load(cls, path: str | os.PathLike, recall: float | None = None) -> "Classifier":
        """Loads a trained classifier.

        Args:
          path: the folder of a finished run, whose CLIP is loaded too, a run on the hub as
            "hf:owner/name", or a file that `python -m sotglp_jax.export` wrote, which is all that
            is needed.
          recall: share of pictures of the classes that its threshold is to let through; None takes
            the threshold that it has, of 95 % unless the run chose another way.

        Raises:
          InputError: it is neither, or cannot be used; says why.
        """
        found = cls._load(path)
        if recall is None:
            return found
        return dataclasses.replace(found, threshold=found.threshold_at(recall))

    @classmethod
    def _load(cls, path: str | os.PathLike) -> "Classifier":
        path = hub.locate(path)
        if path.is_dir():
            return cls._of_run(finished.load(path))
        about, program = exported.load(path)
        names, logits = tuple(about["class_names"]), tuple(about["logits"])
        resize = Resize(about["image_size"], **about["resize"])
        known = np.array(about.get("known_scores", []))
        return cls(names, resize, logits, about["threshold"], known, program)

    @classmethod
    def _of_run(cls, run: Finished) -> "Classifier":
        """A classifier on the first device here."""
        method = run.run.method
        program = jax.jit(functools.partial(outputs.compute, method=method))
        program = functools.partial(program, *jax.device_put(outputs.arguments(run)))
        names, resize = run.run.dataset.class_names, run.run.resize
        threshold, known = outputs.threshold(run), np.array(outputs.known_scores(run))
        return cls(names, resize, tuple(method.logits), threshold, known, program)

    def threshold_at(self, recall: float) -> float:
        """The `ood_score` that a share nearest to `recall` of the images in `known_scores` reaches.

        Raises:
          InputError: there are no such scores, or the recall is not above 0 and at most 1.
        """
        if not len(self.known_scores):
            raise InputError(
                "no scores are kept from which a threshold for a recall would follow: evaluate the "
                "run again with --mode=eval, and export it again."
            )
        return detection.threshold(self.known_scores, recall)

    def passing(self) -> tuple[float, float, float]:
        """The share of the images in `known_scores` that the threshold lets through.

        Returns:
          The share, and the ends of its 95 % interval, see `evaluators.detection.passing`.
        """
        return detection.passing(self.known_scores, self.threshold)

    def __call__(self, images: Picture | Sequence[Picture], maps: bool = False) -> Prediction:
        """Classifies one picture or several.

        Args:
          images: names of files, Pillow images or arrays of any size, see `data.pictures.load`; an
            array (n, h, w, 3) is n pictures.
          maps: whether to return the patch maps too.

        Raises:
          InputError: a picture that cannot be read, or none at all.
        """
        several = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
        images = images if several else [images]
        if not len(images):
            raise InputError("there is no picture to classify: give one or more.")
        rows, read = bucket(len(images)), pictures.ahead(images, self.resize, 2 * MOST)
        parts = [self._run(np.stack(batch), rows, maps) for batch in batches(map(_sound, read))]
        return self._predict(jax.tree.map(lambda *x: np.concatenate(x), *parts))

    def of_pixels(
        self, pixels: UInt8[np.ndarray, "n R R 3"], rows: int, maps: bool = False
    ) -> Prediction:
        """Classifies a batch of pixels.

        Args:
          pixels: of images as `data.pictures.load` gives them.
          rows: of the program, at least n; a program is compiled for each number.
          maps: whether to return the patch maps too.
        """
        return self._predict(self._run(pixels, rows, maps))

    def _run(self, pixels: UInt8[np.ndarray, "n R R 3"], rows: int, maps: bool) -> dict:
        count = len(pixels)
        found = self.program(np.pad(pixels, [(0, rows - count), (0, 0), (0, 0), (0, 0)]))
        if maps and "maps" not in found:
            raise InputError("this method has no local prompts, so there are no maps of it.")
        found = {name: x for name, x in found.items() if maps or name != "maps"}
        return jax.tree.map(lambda x: x[:count], jax.device_get(found))

    def _predict(self, found: dict) -> Prediction:
        shown, score = found.pop("maps", None), found.pop("ood_score", None)
        shown = shown and Maps(**shown)
        found = {name: found[name] for name in self.logits}
        return Prediction(self.class_names, found, score, self.threshold, shown)


def bucket(images: int) -> int:
    """Rows of the batches for so many images: 1, 2, 4, ... `MOST`, so that few are compiled."""
    return min(1 << (images - 1).bit_length(), MOST)


def batches(items: Iterator) -> Iterator[list]:
    """Lists of `MOST` items, the last one of what is left."""
    return iter(lambda: list(itertools.islice(items, MOST)), [])


def _sound(pixels: np.ndarray | InputError) -> np.ndarray:
    if isinstance(pixels, InputError):
        raise pixels
    return pixels
