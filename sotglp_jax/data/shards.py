"""A set that TensorFlow Datasets prepared as array_record, read without it.

Its folder holds dataset_info.json (splits, and the numbers of records of their files),
features.json, the names of labels, and the files, whose records are `tf.train.Example`s.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence

from etils import epath

from sotglp_jax.errors import InputError

ABOUT = "dataset_info.json"
BYTES, INTEGERS = 1, 3  # kinds of values in an Example


def locate(name: str, data_dir: str = "") -> epath.Path:
    """Returns the folder of a prepared set, of its newest version unless one is named.

    Args:
      name: name, name/config, name:version or name/config:version.
      data_dir: TensorFlow Datasets' folder; "" is its default.

    Raises:
      InputError: it is not there, or in several configurations.
    """
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    top = epath.Path(data_dir or default).expanduser()
    found = []
    for pattern in ("", "*/", "*/*/"):
        folders = [path.parent for path in (top / name.replace(":", "/")).glob(f"{pattern}{ABOUT}")]
        found += [path for path in folders if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    if not found:
        raise InputError(
            f"tfds:{name} is not prepared below {top}: check the name and --config.data.root, or "
            f"run `tfds build {name} --file_format=array_record --data_dir={top}`, which "
            "`pip install 'sotglp_jax[tfds]'` brings."
        )
    if len(configs := sorted({path.parent.name for path in found})) > 1:
        raise InputError(
            f"tfds:{name} is there as {', '.join(configs)}: choose one as tfds:{name}/{configs[0]}."
        )
    return max(found, key=lambda path: [int(number) for number in path.name.split(".")])


def load(folder: epath.Path, name: str) -> dict:
    """Returns a JSON file of a prepared set."""
    return json.loads((folder / name).read_text("utf-8"))


def splits(folder: epath.Path) -> dict[str, list[str]]:
    """Returns the files of every split.

    Raises:
      InputError: they are not array_record.
    """
    about = load(folder, ABOUT)
    form = about.get("fileFormat", "tfrecord")
    if form != "array_record":
        raise InputError(
            f"{folder} was prepared as {form}: prepare it again with --file_format=array_record."
        )
    found = {}
    for split in about.get("splits", ()):
        count = len(split["shardLengths"])
        stem = f"{about['name']}-{split['name']}.{form}"
        files = [str(folder / f"{stem}-{i:05d}-of-{count:05d}") for i in range(count)]
        found[split["name"]] = files
    return found


def kinds(folder: epath.Path) -> dict[str, str]:
    """Returns every feature's class in TensorFlow Datasets, such as "Image" or "ClassLabel"."""
    features = load(folder, "features.json")["featuresDict"]["features"]
    return {key: value["pythonClassName"].rpartition(".")[2] for key, value in features.items()}


def supervised(folder: epath.Path) -> tuple[str, ...]:
    """Returns the names of the features that are input and target, where the set says so."""
    said = load(folder, ABOUT).get("supervisedKeys", {})
    items = [item.get("featureKey") for item in said.get("tuple", {}).get("items", ())]
    return tuple(items or filter(None, (said.get("input"), said.get("output"))))


def class_names(folder: epath.Path, label: str) -> tuple[str, ...]:
    """Returns the names of a label's classes; of those without names their numbers."""
    path = folder / f"{label}.labels.txt"
    if path.exists():
        return tuple(line.strip() for line in path.read_text("utf-8").split("\n") if line.strip())
    feature = load(folder, "features.json")["featuresDict"]["features"][label]
    return tuple(map(str, range(int(feature["classLabel"]["numClasses"]))))


class Records:
    """The records of a split.

    Args:
      files: of the split, in order.
    """

    def __init__(self, files: Sequence[str]):
        from grain.sources import ArrayRecordDataSource

        self._source = ArrayRecordDataSource(files)

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[dict[str, bytes | int]]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, position: int) -> dict[str, bytes | int]:
        """The first value of every feature that is of bytes or integers."""
        (_, features), *_ = _fields(memoryview(self._source[position]))
        entries = (dict(_fields(entry)) for _, entry in _fields(features))
        return {str(entry[1], "utf-8"): _first(entry[2]) for entry in entries if 2 in entry}


def _first(feature: memoryview) -> bytes | int | None:
    for kind, values in _fields(feature):
        for _, value in _fields(values):
            if kind == BYTES:
                return bytes(value)
            if kind == INTEGERS:
                number = value if isinstance(value, int) else _varint(value, 0)[0]
                return number - (number >> 63 << 64)  # two's complement
    return None


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yields numbers and values of the fields of a protocol buffer."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
        else:
            size, at = {1: (8, at), 5: (4, at)}.get(key & 7) or _varint(message, at)
            value, at = message[at : at + size], at + size
        yield key >> 3, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The integer that starts at a position, and where it ends."""
    number = shift = 0
    while message[at] & 128:
        number |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return number | message[at] << shift, at + 1
