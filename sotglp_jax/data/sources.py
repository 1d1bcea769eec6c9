"""Where images come from: a source is a length and [i] -> {image, label, name}.

`image` is an RGB Pillow image, `label` an int, `name` the image's name within its data set.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from sotglp_jax.data.pixels import read_image
from sotglp_jax.paths import AnyPath, absolute, in_bucket, listing, opened


@dataclasses.dataclass(frozen=True)
class Source:
    """Images with labels, known without reading an image.

    Attributes:
      read: gives the RGB image of a key; it travels to worker processes.
      keys: one per image: a file's name, or a position.
      names: what lists of images call them.
      labels: class indices.
      origin: the data set, its version and its place: where it and a key are the same, so is the
        image, as long as the `states` of the reader are.
    """

    read: Callable[[Any], Image.Image]
    keys: Sequence
    names: Sequence[str]
    labels: Sequence[int]
    origin: str

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict:
        image = self.read(self.keys[index])
        return {"image": image, "label": self.labels[index], "name": self.names[index]}

    def take(self, indices: Sequence[int]) -> "Source":
        """Some of the images, in the given order."""
        taken = (tuple(x[i] for i in indices) for x in (self.keys, self.names, self.labels))
        return Source(self.read, *taken, self.origin)

    def spread(self, most: int) -> "Source":
        """At most so many of the images, evenly spaced; all where there are fewer."""
        return self.take(range(0, len(self), max(1, -(-len(self) // most))))

    @property
    def on_disk(self) -> bool:
        """Whether files are behind the images, whose decoding is worth several processes."""
        return hasattr(self.read, "states")

    @property
    def pixels(self) -> str:
        """How images are decoded, see `pixels.to_rgb`."""
        return "upright, on white" if getattr(self.read, "upright", False) else "as stored"

    def states(self) -> list[str]:
        """What changes when files behind the images do: their sizes and times of change."""
        return self.read.states(self.keys) if self.on_disk else []


@dataclasses.dataclass(frozen=True)
class FileReader:
    """Reads image files below a folder by their relative names.

    Attributes:
      root: the folder.
      upright: see `pixels.to_rgb`.
    """

    root: AnyPath
    upright: bool = False

    def __call__(self, name: str) -> Image.Image:
        return read_image(opened(self.root / name), self.upright)

    def states(self, names: Sequence[str]) -> list[str]:
        """Size and time of change of every file; of an object the number of its version."""
        if in_bucket(self.root):
            there = listing(self.root)
            return [f"{there[name]['size']} {there[name]['generation']}" for name in names]
        found = (os.stat(self.root / name) for name in names)
        return [f"{state.st_size} {state.st_mtime_ns}" for state in found]


def image_files(
    root: AnyPath, names: Sequence[str], labels: Sequence[int], upright: bool = False
) -> Source:
    """A source of image files, named relative to `root`; `upright` as `pixels.to_rgb` has it."""
    names, how = tuple(names), " upright" * upright
    origin = f"files {absolute(root)}{how}"
    return Source(FileReader(root, upright), names, names, tuple(labels), origin)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A classification task.

    Attributes:
      name: what results call it.
      class_names: one name per label; two classes may share one.
      template: zero-shot sentence with {} for the class name.
      train: pool that the shots are drawn from.
      val: pool for validation shots, may be empty.
      test: images to be judged on.
      class_ids: what tells classes apart, within and between data sets, such as WordNet's numbers;
        the names where a data set has nothing better.
      notes: what its user should know of how it was found, a line each.
      sentences: of every class, what zero-shot CLIP reads of it; () is its name in the template.
      joint_order: names of the images of train and val in the order of a list of both, where the
        data set comes with one.
    """

    name: str
    class_names: tuple[str, ...]
    template: str
    train: Source
    val: Source
    test: Source
    class_ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sentences: tuple[tuple[str, ...], ...] = ()
    joint_order: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.class_ids:
            names = self.class_names
            if len(set(names)) < len(names):
                names = tuple(f"{label} {name}" for label, name in enumerate(names))
            object.__setattr__(self, "class_ids", names)

    @property
    def parts(self) -> dict[str, Source]:
        """The three sources by name."""
        return {"train": self.train, "val": self.val, "test": self.test}


@dataclasses.dataclass(frozen=True)
class Readers:
    """Reads for several sources: a key is the number of a reader, and a key of it.

    Attributes:
      readers: of the sources.
    """

    readers: tuple[Callable[[Any], Image.Image], ...]

    def __call__(self, key: tuple[int, Any]) -> Image.Image:
        number, own = key
        return self.readers[number](own)

    def states(self, keys: Sequence[tuple[int, Any]]) -> list[str]:
        """What changes when files behind the images do, reader by reader."""
        own = [[key for n, key in keys if n == i] for i in range(len(self.readers))]
        found = zip(self.readers, own, strict=True)
        return [state for reader, keys in found for state in reader.states(keys)]


def join(*sources: Source) -> Source:
    """The images of several sources, one source's after the other's."""
    sources = tuple(source for source in sources if len(source)) or sources[:1]
    first, *others = sources
    keys = [tuple(source.keys) for source in sources]
    read = first.read
    if any(source.read != read for source in others):
        read = Readers(tuple(source.read for source in sources))
        keys = [tuple((i, key) for key in own) for i, own in enumerate(keys)]
    names, labels = (
        itertools.chain(*(getattr(source, name) for source in sources))
        for name in ("names", "labels")
    )
    origin = " and ".join(dict.fromkeys(source.origin for source in sources))
    return Source(read, tuple(itertools.chain(*keys)), tuple(names), tuple(labels), origin)


def with_joint_train(dataset: Dataset) -> Dataset:
    """The data set whose training part has the validation images too, in the joint order if any."""
    joint = join(dataset.train, dataset.val)
    places = {name: i for i, name in enumerate(dataset.joint_order)}
    order = sorted(range(len(joint)), key=lambda i: places.get(joint.names[i], len(places)))
    return dataclasses.replace(dataset, train=joint.take(order), val=dataset.val.take(()))


def choose_classes(dataset: Dataset, labels: range) -> Dataset:
    """The task of telling apart some neighbouring classes, numbered from 0 again."""

    def choose(source: Source) -> Source:
        chosen = source.take([i for i, label in enumerate(source.labels) if label in labels])
        return dataclasses.replace(
            chosen, labels=tuple(label - labels.start for label in chosen.labels)
        )

    return dataclasses.replace(
        dataset,
        class_names=dataset.class_names[labels.start : labels.stop],
        class_ids=dataset.class_ids[labels.start : labels.stop],
        sentences=dataset.sentences[labels.start : labels.stop],
        **{part: choose(source) for part, source in dataset.parts.items()},
    )
