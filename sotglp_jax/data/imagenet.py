"""ImageNet's classes, and how ImageNet and its shifted test sets lay out their labels."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from sotglp_jax.data.files import Folder, read_folder
from sotglp_jax.data.folders import class_folders
from sotglp_jax.data.sources import Source, image_files
from sotglp_jax.errors import InputError

# One line a class, in the order of its label: WordNet number, the name that CLIP's authors
# published (https://github.com/openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb), and
# which of ImageNet-A and -R hold the class.
_CLASSES = Path(__file__).parent.parent / "assets" / "imagenet_classes.tsv"
# Label files of a flat validation folder: Kaggle's, TensorFlow's, PyTorch's, Caffe's.
_VAL_LABELS = (
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    "val_map.txt",
    "val.txt",
)


@functools.cache
def _table() -> tuple[tuple[str, str, str], ...]:
    return tuple(tuple(line.split("\t")) for line in _CLASSES.read_text("utf-8").splitlines())


def classes(variant: str = "") -> dict[str, str]:
    """Names by WordNet number, ordered by label.

    Args:
      variant: "A" or "R" for their 200 classes; "" for all 1000.
    """
    return {wnid: name for wnid, name, variants in _table() if variant in variants}


def train_and_val(folder: Path) -> dict[str, Source]:
    """`train/<wnid>/` and `val/<wnid>/`, or a flat `val/` with a label file in or beside it.

    Raises:
      InputError: a folder that is no class, or a flat val/ without labels.
    """
    train, val = (read_folder(folder / part) for part in ("train", "val"))
    by_class = not val.images or val.folders
    return {
        "train": wnid_folders(train, folder),
        "test": wnid_folders(val, folder) if by_class else _flat_val(val, folder),
    }


def wnid_folders(folder: Folder, root: Path, variant: str = "") -> Source:
    """`<wnid>/`, labels by the order of the list; raises `InputError` for any other folder."""
    labels = {wnid: label for label, wnid in enumerate(classes(variant))}
    _check_known(folder, labels)
    return class_folders(folder.folders, root, labels)


def numeric_folders(folder: Folder) -> Source:
    """ImageNet-V2's folders "0" to "999", which are labels; raises `InputError` for any other."""
    labels = {str(label): label for label in range(len(classes()))}
    _check_known(folder, labels)
    return class_folders(folder.folders, folder.path, labels)


def _check_known(folder: Folder, known: dict[str, int]) -> None:
    if strange := next((name for name in folder.folders if name not in known), None):
        raise InputError(
            f'{folder.path} holds a folder "{strange}" that is none of its {len(known)} classes: '
            "remove it, or point --config.data.root to another copy."
        )


def _flat_val(val: Folder, folder: Path) -> Source:
    names = val.list_images(folder)
    places = (folder, folder / "val", folder.parent)
    paths = (place / name for place in places for name in _VAL_LABELS)
    path = next((path for path in paths if path.is_file()), None)
    if not path:
        raise InputError(
            f"{folder / 'val'} has no class folders and no label file: put Kaggle's "
            f"{_VAL_LABELS[0]} into {folder}, or sort the images into folders by WordNet number."
        )
    return image_files(folder, names, _val_labels(path, names))


def _val_labels(path: Path, names: Sequence[str]) -> list[int]:
    """Labels of "<image> <class>" lines, or of one class a line in the images' order."""
    known = {wnid: label for label, wnid in enumerate(classes())}
    rows = [
        re.split(r"[,\s]+", line.strip()) for line in path.read_text("utf-8").splitlines() if line
    ]
    written = [row[0] for row in rows]
    if all(len(row) > 1 for row in rows):
        known |= {str(label): label for label in range(len(known))}
        by_image = {Path(row[0]).stem: row[1] for row in rows}
        written = [by_image.get(Path(name).stem, "") for name in names]
    if len(written) != len(names) or not set(written) <= known.keys():
        unknown = next((f', "{w}" for one,' for w in written if w not in known), "")
        raise InputError(
            f"{path} does not give{unknown} one of ImageNet's classes to each of the {len(names)} "
            "images: take the file that belongs to them."
        )
    return [known[w] for w in written]
