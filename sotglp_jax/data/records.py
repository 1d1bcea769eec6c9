"""TensorFlow Datasets both ways: any prepared set as a source, and our sets as array_record.

A set that `prepare` wrote is one of TensorFlow Datasets with a file `sotglp.json` beside its
shards: the class names, which TensorFlow Datasets would want to be different from each other, the
zero-shot sentence, whether images are turned upright, and the labels and names of all images, so
that they need not be read for it.
"""

import dataclasses
import functools
import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath
from PIL import Image
from tqdm import tqdm

from sotglp_jax.data import imagenet, shards
from sotglp_jax.data.catalog import DEFAULT_TEMPLATE
from sotglp_jax.data.folders import split_by_class
from sotglp_jax.data.pixels import read_image
from sotglp_jax.data.sources import Dataset, FileReader, Source
from sotglp_jax.errors import InputError

OURS, VERSION = "sotglp.json", "1.0.0"


@dataclasses.dataclass(frozen=True)
class RecordReader:
    """Reads the images of a split by their position.

    Attributes:
      directory: of the prepared set.
      split: its split.
      key: its image feature.
      upright: see `pixels.to_rgb`.
    """

    directory: str
    split: str
    key: str
    upright: bool = False

    def __call__(self, position: int) -> Image.Image:
        encoded = _open(self.directory, self.split)[position][self.key]
        return read_image(io.BytesIO(encoded), self.upright)

    def states(self, _positions: Sequence[int]) -> list[str]:
        """Name, size and time of change of every file of the prepared set."""
        files = sorted(epath.Path(self.directory).iterdir())
        found = ((file.name, file.stat()) for file in files)
        return [f"{name} {state.length} {state.mtime}" for name, state in found]

    def source(self, names: Sequence[str], labels: Sequence[int]) -> Source:
        """The whole split; names and labels by position."""
        origin = f"tfds {self.directory} {self.split}" + " upright" * self.upright
        return Source(self, range(len(names)), tuple(names), tuple(labels), origin)


@functools.cache
def _open(directory: str, split: str) -> shards.Records:
    """The records of a split; once per process."""
    return shards.Records(shards.splits(epath.Path(directory))[split])


def slug(name: str) -> str:
    """What TensorFlow Datasets calls a set of ours."""
    return "sotglp_" + re.sub(r"\W+", "_", name.lower()).strip("_")


def find(name: str, data_dir: str) -> Dataset | None:
    """Our set of this name, if it was prepared below `data_dir`."""
    return _ours(epath.Path(data_dir).expanduser() / slug(name) / VERSION)


def load(name: str, data_dir: str = "") -> Dataset:
    """A prepared set of TensorFlow Datasets for image classification.

    Its train split is the pool for shots, its test split (or else validation) the test images. A
    set with a single split is split 50/20/30 class by class.

    Args:
      name: see `shards.locate`.
      data_dir: TensorFlow Datasets' folder; "" is its default.

    Raises:
      InputError: no such set, not prepared as array_record, or not one of images with class labels.
    """
    folder = shards.locate(name, data_dir)
    return _ours(folder) or _of_others(name, folder)


def _of_others(name: str, folder: epath.Path) -> Dataset:
    image, label = _features(name, folder)
    there = shards.splits(folder)
    splits = [split for split in ("train", "validation", "test") if split in there]
    sources = [_source(folder, split, image, label) for split in splits]
    sources = [source for source in sources if min(source.labels, default=-1) >= 0]
    if not sources or splits[0] != "train":
        raise InputError(f"tfds:{name} has no labelled split called train.")
    empty = sources[0].take(())
    parts = {
        1: [sources[0].take(part) for part in split_by_class(sources[0].labels)],
        2: [sources[0], empty, sources[-1]],
        3: sources,
    }[len(sources)]
    ids = shards.class_names(folder, label)
    names = tuple(imagenet.classes().get(i, i) for i in ids)
    return Dataset(name, names, DEFAULT_TEMPLATE, *parts, class_ids=ids)


def _features(name: str, folder: epath.Path) -> tuple[str, str]:
    """The names of the features that are image and label."""
    keys, kinds = shards.supervised(folder) or ("image", "label"), shards.kinds(folder)
    if [kinds.get(key) for key in keys] != ["Image", "ClassLabel"]:
        raise InputError(
            f"tfds:{name} is no image classification set: it needs an image and a class label, and "
            f"has {', '.join(kinds)}."
        )
    return keys


def _source(folder: epath.Path, split: str, image: str, label: str) -> Source:
    """A split; reads all records once, for their labels."""
    reader = RecordReader(str(folder), split, image)
    progress = tqdm(_open(reader.directory, split), f"labels of {split}", disable=None, leave=False)
    labels = tuple(record[label] for record in progress)
    return reader.source([f"{split}/{i:07d}" for i in range(len(labels))], labels)


def prepare(dataset: Dataset, out: str) -> str:
    """Writes a data set of image files as array_record shards; the files' bytes are kept.

    Args:
      dataset: its images must be files.
      out: TensorFlow Datasets' folder to write to.

    Returns:
      The folder of the shards.

    Raises:
      InputError: the data set is no files, or prepared already; TensorFlow is not installed.
    """
    if not isinstance(dataset.train.read, FileReader):
        raise InputError(
            f"{dataset.name} is not a set of image files: there is nothing to prepare."
        )
    try:
        import tensorflow  # noqa: F401 (what TensorFlow Datasets writes with)
        import tensorflow_datasets as tfds
    except ModuleNotFoundError:
        raise InputError(
            "writing shards, not reading them, needs TensorFlow: pip install 'sotglp_jax[tfds]'."
        ) from None
    parts = {part: source for part, source in dataset.parts.items() if len(source)}
    builder = tfds.dataset_builders.AdhocBuilder(
        name=slug(dataset.name),
        version=VERSION,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=list(dataset.class_ids)),
                "file_name": tfds.features.Text(),
            }
        ),
        split_datasets={part: list(_examples(source)) for part, source in parts.items()},
        data_dir=out,
        description=f"{dataset.name} with its train, val and test images.",
        disable_shuffling=True,  # a record's position is its place in the list
    )
    if builder.data_path.exists():
        raise InputError(f"{builder.data_path} is there already: remove it to prepare it again.")
    builder.download_and_prepare(file_format="array_record")
    _write_ours(builder.data_path, dataset, parts)
    return str(builder.data_path)


def _examples(source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, (name, label) in enumerate(zip(source.names, source.labels, strict=True)):
        path = str(source.read.root / name)
        yield i, {"image": path, "label": label, "file_name": name}


def _write_ours(directory, dataset: Dataset, parts: dict[str, Source]) -> None:
    ours = {
        "name": dataset.name,
        "class_names": dataset.class_names,
        "class_ids": dataset.class_ids,
        "template": dataset.template,
        "upright": dataset.test.read.upright,
        "joint_order": dataset.joint_order,
        "parts": {p: {"names": s.names, "labels": s.labels} for p, s in parts.items()},
    }
    (directory / OURS).write_text(json.dumps(ours), "utf-8")


def _ours(directory) -> Dataset | None:
    """The set that `prepare` wrote there, if it did."""
    if not (directory / OURS).exists():
        return None
    ours = json.loads((directory / OURS).read_text("utf-8"))
    upright = ours.get("upright", False)  # shards of an earlier version do not say
    sources = {
        part: RecordReader(str(directory), part, "image", upright).source(**content)
        for part, content in ours["parts"].items()
    }
    empty = next(iter(sources.values())).take(())
    parts = {"train": empty, "val": empty} | sources
    names, ids = tuple(ours["class_names"]), tuple(ours["class_ids"])
    # Shards of an earlier version do not say the order.
    order = {"joint_order": tuple(ours.get("joint_order", ()))}
    return Dataset(ours["name"], names, ours["template"], **parts, class_ids=ids, **order)
