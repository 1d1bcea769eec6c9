"""A classifier that several requests ask at a time."""

import asyncio
import base64
import concurrent.futures
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sotglp_jax.data import loader
from sotglp_jax.errors import InputError
from sotglp_jax.evaluators import detection
from sotglp_jax.evaluators.maps import Maps
from sotglp_jax.serve import decode
from sotglp_jax.serve.batching import Batcher
from sotglp_jax.serve.limits import Limits
from sotglp_jax.serve.uploads import Options
from sotglp_jax.trained.classifier import Classifier, Prediction

ROWS = 8  # of the batch that requests share
RECALLS = [percent / 100 for percent in range(50, 101)]  # that the page offers

Pixels = UInt8[np.ndarray, "R R 3"]


class Service:
    """Answers with what a classifier says; `batches` has to be running meanwhile."""

    def __init__(self, classifier: Classifier, title: str, limits: Limits):
        """Compiles the two programs that it runs: for one picture and for a batch.

        Args:
          classifier: what answers.
          title: its name on the page.
          limits: of requests.
        """
        self.limits, self._title = limits, title
        self._classifier, self._maps = classifier, False
        blank = np.zeros((classifier.resize.size,) * 2 + (3,), np.uint8)
        for count in (1, ROWS):
            self._classify([blank] * count)
        self._maps = self._has_maps(blank)
        self._recalls = self._offered()
        self.bodies = asyncio.Semaphore(limits.bodies)  # what reads a request holds it
        self._pool = concurrent.futures.ThreadPoolExecutor(loader.cores())
        self._batcher = Batcher(self._classify, ROWS)
        self.batches = self._batcher.run

    def _has_maps(self, blank: Pixels) -> bool:
        try:
            self._classifier.of_pixels(blank[None], 1, maps=True)
        except InputError:  # says that its method has none
            return False
        return True

    def _classify(self, pixels: list[Pixels]) -> list[tuple[Prediction, int]]:
        """Of each picture, the prediction of its batch and its row there."""
        rows = 1 if len(pixels) == 1 else ROWS
        found = self._classifier.of_pixels(np.stack(pixels), rows, self._maps)
        return [(found, row) for row in range(len(pixels))]

    def _offered(self) -> list[dict]:
        """Thresholds by recall, the classifier's own among them; none without known scores."""
        classifier = self._classifier
        if not len(classifier.known_scores):
            return []
        offered = [(recall, classifier.threshold_at(recall)) for recall in RECALLS]
        if classifier.threshold not in dict(offered).values():
            own = detection.passing(classifier.known_scores, classifier.threshold)[0]
            offered.append((own, classifier.threshold))
        return [self._at(*one) for one in sorted(offered)]

    def _at(self, recall: float, threshold: float) -> dict:
        """A threshold, and what share of pictures of the classes it lets through."""
        share, low, high = detection.passing(self._classifier.known_scores, threshold)
        return {"recall": recall, "threshold": threshold, "share": share, "interval": [low, high]}

    def about(self) -> dict:
        """What the page has to know."""
        limits = dataclasses.asdict(self.limits)
        return {
            "title": self._title,
            "class_names": self._classifier.class_names,
            "threshold": self._classifier.threshold,
            "recalls": self._recalls,
            "known_images": len(self._classifier.known_scores),
            "maps": self._maps,
            "limits": {name: limits[name] for name in ("bytes", "pictures", "pixels")},
        }

    def threshold(self, options: Options) -> float | None:
        """The threshold that is asked for.

        Raises:
          InputError: the options are such as this classifier cannot serve.
        """
        if options.maps and not self._maps:
            raise InputError("this method has no local prompts, so there are no maps of it.")
        if options.recall is None:
            return self._classifier.threshold
        return self._classifier.threshold_at(options.recall)

    async def decode(self, contents: Sequence[bytes]) -> list[Pixels | InputError]:
        """The pixels of each file, or why there are none."""
        run = asyncio.get_running_loop().run_in_executor
        size = self._classifier.resize
        parts = (run(self._pool, _try, content, size, self.limits) for content in contents)
        return await asyncio.gather(*parts)

    async def record(self, pixels: Pixels, options: Options, threshold: float | None) -> dict:
        """What is said of a picture, with what the options ask for."""
        prediction, row = await self._batcher(pixels)
        judged = dataclasses.replace(prediction, threshold=threshold)
        record = judged.record(row, min(options.top, len(judged.class_names)))
        if options.maps:
            record["maps"] = _plain(prediction.maps, row)
        if options.seen:
            record["seen"] = _address(pixels)
        return record


def _try(content: bytes, resize, limits: Limits) -> Pixels | InputError:
    try:
        return decode.load(content, resize, limits)
    except InputError as error:
        return error


def _plain(maps: Maps, row: int) -> dict[str, list]:
    values = {name: np.asarray(x)[row] for name, x in vars(maps).items()}
    floats = {name: x for name, x in values.items() if np.issubdtype(x.dtype, np.floating)}
    values |= {name: x.astype(np.float64).round(4) for name, x in floats.items()}
    return {name: x.tolist() for name, x in values.items()}


def _address(pixels: Pixels) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
