"""The field's benchmarks by name, and how `config.dataset` becomes a data set.

Adding a data set is adding an entry. Split files are those that CoOp published
(https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md).
"""

import dataclasses
from pathlib import Path

from sotglp_jax.data.digits import digits
from sotglp_jax.data.sources import Dataset, image_folder
from sotglp_jax.data.splits import read_split
from sotglp_jax.errors import InputError

DEFAULT_TEMPLATE = "a photo of a {}."


@dataclasses.dataclass(frozen=True)
class Entry:
    """A benchmark.

    Attributes:
      images: folders below the data root that its images may lie in.
      split: its split file, beside or above the images.
      template: zero-shot sentence.
    """

    images: tuple[str, ...]
    split: str
    template: str = DEFAULT_TEMPLATE


ENTRIES = {
    "caltech101": Entry(
        ("caltech-101/101_ObjectCategories", "caltech101/101_ObjectCategories"),
        "split_zhou_Caltech101.json",
    ),
    "oxford_pets": Entry(
        ("oxford_pets/images", "oxford-iiit-pet/images"),
        "split_zhou_OxfordPets.json",
        "a photo of a {}, a type of pet.",
    ),
    "stanford_cars": Entry(("stanford_cars",), "split_zhou_StanfordCars.json"),
    "flowers102": Entry(
        ("oxford_flowers/jpg", "flowers102/jpg"),
        "split_zhou_OxfordFlowers.json",
        "a photo of a {}, a type of flower.",
    ),
    "food101": Entry(
        ("food-101/images",), "split_zhou_Food101.json", "a photo of {}, a type of food."
    ),
    "sun397": Entry(("sun397/SUN397", "SUN397"), "split_zhou_SUN397.json"),
    "dtd": Entry(
        ("dtd/images", "dtddataset/dtd/images"),
        "split_zhou_DescribableTextures.json",
        "{} texture.",
    ),
    "eurosat": Entry(
        ("eurosat/2750", "EuroSAT_RGB"),
        "split_zhou_EuroSAT.json",
        "a centered satellite photo of {}.",
    ),
    "ucf101": Entry(
        ("ucf101/UCF-101-midframes", "UCF-101-midframes"),
        "split_zhou_UCF101.json",
        "a photo of a person doing {}.",
    ),
}


def resolve(dataset: str, root: str = "", template: str = "") -> Dataset:
    """A data set by name, folder of class folders, or split file.

    Args:
      dataset: "digits", a key of `ENTRIES`, a folder, or a `.json` split file.
      root: where the benchmarks lie, or the images of a split file; "" is "data" for the former
        and the split file's folder or its `images` for the latter.
      template: zero-shot sentence to use instead of the data set's.

    Raises:
      InputError: nothing is known or found under this name.
    """
    if dataset == "digits":
        found = digits()
    elif dataset in ENTRIES:
        found = _benchmark(dataset, Path(root or "data").expanduser())
    else:
        found = _own(dataset, root)
    if template.count("{}") != 1 and template:
        raise InputError(f'data.template="{template}" needs exactly one {{}} for the class name.')
    return dataclasses.replace(found, template=template) if template else found


def _benchmark(name: str, root: Path) -> Dataset:
    entry = ENTRIES[name]
    for images in (root / alias for alias in entry.images):
        for folder in (images, *images.parents[: len(images.relative_to(root).parts)]):
            if (folder / entry.split).is_file() and images.is_dir():
                return read_split(folder / entry.split, [images], entry.template, name)
    looked = " or ".join(str(root / alias) for alias in entry.images)
    raise InputError(
        f"dataset {name} is not below {root.absolute()}: its images belong into {looked} and "
        f"{entry.split} beside that folder; set --config.data.root if they are elsewhere."
    )


def _own(dataset: str, root: str) -> Dataset:
    path = Path(dataset).expanduser()
    if path.is_dir():
        return image_folder(path, DEFAULT_TEMPLATE)
    if path.suffix == ".json":
        roots = [Path(root).expanduser()] if root else [path.parent, path.parent / "images"]
        name = path.stem.removeprefix("split_zhou_")
        return read_split(path, roots, DEFAULT_TEMPLATE, name)
    raise InputError(
        f'dataset "{dataset}" is no folder, no split file and no known name; the names are '
        f"{', '.join(['digits', *sorted(ENTRIES)])}."
    )
