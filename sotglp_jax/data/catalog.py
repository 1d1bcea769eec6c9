"""The field's data sets by name. Adding one is adding an entry.

Layout, split files and templates are CoOp's
(https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md); the out-of-distribution sets are those
of https://arxiv.org/abs/2105.01879.
"""

import dataclasses
from collections.abc import Mapping

DEFAULT_TEMPLATE = "a photo of a {}."
PARTS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Download:
    """A file that may be fetched without asking anybody.

    Attributes:
      url: where it lies.
      digest: "sha256:..." or "md5:..." of the file.
      gives: path below the data root that is there afterwards.
      into: folder below the data root that an archive is unpacked into; None for a plain file.
      nested: archive within the archive, unpacked into the folder that holds it.
    """

    url: str
    digest: str
    gives: str
    into: str | None = None
    nested: str = ""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A data set of the field.

    Attributes:
      folders: below the data root, where its images may lie.
      classes: how many there are; 0 for a set without labels.
      images: how many there are for training, validation and test.
      labels: label rule, a key of `layouts.READERS`.
      template: zero-shot sentence.
      split: its split file, for the label rule "split".
      rename: class names to use instead of the split file's.
      variant: of ImageNet's classes, see `imagenet.classes`.
      downloads: what `fetch` gets.
      by_hand: what it may not get: path below the data root, and where it comes from.
    """

    folders: tuple[str, ...]
    classes: int
    images: tuple[int, int, int]
    labels: str = "split"
    template: str = DEFAULT_TEMPLATE
    split: str = ""
    rename: Mapping[str, str] = dataclasses.field(default_factory=dict)
    variant: str = ""
    downloads: tuple[Download, ...] = ()
    by_hand: tuple[tuple[str, str], ...] = ()


def _drive(key: str) -> str:
    return f"https://drive.google.com/uc?export=download&id={key}"


_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
_DTD = Download(
    f"{_OXFORD}/dtd/download/dtd-r1.0.1.tar.gz",
    "sha256:e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
    "dtd/images",
    into="",
)
_OOD = "http://pages.cs.wisc.edu/~huangrui/imagenet_ood_dataset"

BENCHMARKS = {
    "imagenet": Entry(
        ("imagenet/images", "imagenet", "Imagenet"),
        1000,
        (1281167, 0, 50000),
        labels="imagenet",
        by_hand=(
            ("imagenet/images/train", "ILSVRC2012_img_train.tar of https://image-net.org"),
            ("imagenet/images/val", "ILSVRC2012_img_val.tar of https://image-net.org"),
        ),
    ),
    "caltech101": Entry(
        ("caltech-101/101_ObjectCategories", "caltech101/101_ObjectCategories"),
        100,
        (4128, 1649, 2465),
        split="split_zhou_Caltech101.json",
        rename={
            "airplanes": "airplane",
            "Faces": "face",
            "Leopards": "leopard",
            "Motorbikes": "motorbike",
        },
        downloads=(
            Download(
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip?download=1",
                "sha256:331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
                "caltech-101/101_ObjectCategories",
                into="",
                nested="caltech-101/101_ObjectCategories.tar.gz",
            ),
            Download(
                _drive("1hyarUivQE36mY6jSomru6Fjd-JzwcCzN"),
                "sha256:52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5",
                "caltech-101/split_zhou_Caltech101.json",
            ),
        ),
    ),
    "oxford_pets": Entry(
        ("oxford_pets/images", "oxford-iiit-pet/images"),
        37,
        (2944, 736, 3669),
        template="a photo of a {}, a type of pet.",
        split="split_zhou_OxfordPets.json",
        downloads=(
            Download(
                "https://thor.robots.ox.ac.uk/~vgg/data/pets/images.tar.gz",
                "sha256:67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
                "oxford_pets/images",
                into="oxford_pets",
            ),
            Download(
                _drive("1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs"),
                "sha256:d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e",
                "oxford_pets/split_zhou_OxfordPets.json",
            ),
        ),
    ),
    "stanford_cars": Entry(
        ("stanford_cars",),
        196,
        (6509, 1635, 8041),
        split="split_zhou_StanfordCars.json",
        by_hand=(
            ("stanford_cars/cars_train", "a copy of cars_train.tgz; its first home is gone"),
            ("stanford_cars/cars_test", "a copy of cars_test.tgz; its first home is gone"),
            (
                "stanford_cars/split_zhou_StanfordCars.json",
                _drive("1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT"),
            ),
        ),
    ),
    "flowers102": Entry(
        ("oxford_flowers/jpg", "flowers102/jpg"),
        102,
        (4093, 1633, 2463),
        template="a photo of a {}, a type of flower.",
        split="split_zhou_OxfordFlowers.json",
        downloads=(
            Download(
                f"{_OXFORD}/flowers/102/102flowers.tgz",
                "sha256:2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
                "oxford_flowers/jpg",
                into="oxford_flowers",
            ),
        ),
        by_hand=(
            (
                "oxford_flowers/split_zhou_OxfordFlowers.json",
                _drive("1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT"),
            ),
        ),
    ),
    "food101": Entry(
        ("food-101/images",),
        101,
        (50500, 20200, 30300),
        template="a photo of {}, a type of food.",
        split="split_zhou_Food101.json",
        downloads=(
            Download(
                "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                "sha256:d97d15e438b7f4498f96086a4f7e2fa42a32f2712e87d3295441b2b6314053a4",
                "food-101/images",
                into="",
            ),
        ),
        by_hand=(
            ("food-101/split_zhou_Food101.json", _drive("1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl")),
        ),
    ),
    "fgvc_aircraft": Entry(
        (
            "fgvc_aircraft/images",
            "fgvc_aircraft/data/images",
            "fgvc-aircraft-2013b/data/images",
            "fgvc-aircraft-2013b/images",
        ),
        100,
        (3334, 3333, 3333),
        labels="aircraft",
        template="a photo of a {}, a type of aircraft.",
        downloads=(
            Download(
                f"{_OXFORD}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                "md5:d4acdd33327262359767eeaa97a4f732",
                "fgvc-aircraft-2013b/data/images",
                into="",
            ),
        ),
    ),
    "sun397": Entry(
        ("sun397/SUN397", "SUN397"),
        397,
        (15880, 3970, 19850),
        split="split_zhou_SUN397.json",
        downloads=(
            Download(
                "https://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
                "sha256:f404130965a7ad77bed5ececc71e720ab50f3cc1e1bb257257610d38f3b928ec",
                "sun397/SUN397",
                into="sun397",
            ),
        ),
        by_hand=(("sun397/split_zhou_SUN397.json", _drive("1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq")),),
    ),
    "dtd": Entry(
        ("dtd/images", "dtddataset/dtd/images"),
        47,
        (2820, 1128, 1692),
        template="{} texture.",
        split="split_zhou_DescribableTextures.json",
        downloads=(
            _DTD,
            Download(
                _drive("1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x"),
                "sha256:f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38",
                "dtd/split_zhou_DescribableTextures.json",
            ),
        ),
    ),
    "eurosat": Entry(
        ("eurosat/2750", "EuroSAT_RGB"),
        10,
        (13500, 5400, 8100),
        template="a centered satellite photo of {}.",
        split="split_zhou_EuroSAT.json",
        rename={
            "AnnualCrop": "Annual Crop Land",
            "HerbaceousVegetation": "Herbaceous Vegetation Land",
            "Highway": "Highway or Road",
            "Industrial": "Industrial Buildings",
            "Pasture": "Pasture Land",
            "PermanentCrop": "Permanent Crop Land",
            "Residential": "Residential Buildings",
            "SeaLake": "Sea or Lake",
        },
        downloads=(
            Download(
                "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                "md5:c8fa014336c82ac7804f0398fcb19387",
                "eurosat/2750",
                into="eurosat",
            ),
            Download(
                _drive("1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o"),
                "sha256:541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2",
                "eurosat/split_zhou_EuroSAT.json",
            ),
        ),
    ),
    "ucf101": Entry(
        ("ucf101/UCF-101-midframes", "UCF-101-midframes"),
        101,
        (7639, 1898, 3783),
        template="a photo of a person doing {}.",
        split="split_zhou_UCF101.json",
        by_hand=(
            (
                "ucf101/UCF-101-midframes",
                f"{_drive('10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O')} (UCF-101-midframes.zip)",
            ),
            ("ucf101/split_zhou_UCF101.json", _drive("1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y")),
        ),
    ),
}

SHIFTS = {
    "imagenet_v2": Entry(
        (
            "imagenetv2/imagenetv2-matched-frequency-format-val",
            "imagenetv2-matched-frequency-format-val",
        ),
        1000,
        (0, 0, 10000),
        labels="numeric",
        downloads=(
            Download(
                "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/"
                "imagenetv2-matched-frequency.tar.gz",
                "sha256:f0c37fdf925916b19ea1323cd9a2208cdb6959ba2c32eef2a7fc393835c9ca7c",
                "imagenetv2/imagenetv2-matched-frequency-format-val",
                into="imagenetv2",
            ),
        ),
    ),
    "imagenet_sketch": Entry(
        ("imagenet-sketch/images", "imagenet-sketch/sketch", "sketch"),
        1000,
        (0, 0, 50889),
        labels="wnid",
        by_hand=(
            (
                "imagenet-sketch/sketch",
                "ImageNet-Sketch.zip of https://github.com/HaohanWang/ImageNet-Sketch",
            ),
        ),
    ),
    "imagenet_a": Entry(
        ("imagenet-adversarial/imagenet-a", "imagenet-a"),
        200,
        (0, 0, 7500),
        labels="wnid",
        variant="A",
        downloads=(
            Download(
                "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",
                "sha256:3bb3632277e6ba6392ea64c02ddbf4dd2266c9caffd6bc09c9656d28f012589e",
                "imagenet-adversarial/imagenet-a",
                into="imagenet-adversarial",
            ),
        ),
    ),
    "imagenet_r": Entry(
        ("imagenet-rendition/imagenet-r", "imagenet-r"),
        200,
        (0, 0, 30000),
        labels="wnid",
        variant="R",
        downloads=(
            Download(
                "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
                "sha256:18c6bf493b39a0d975d48e587437f562caab9c52ae6327dcfa9dd8eb54aa1b52",
                "imagenet-rendition/imagenet-r",
                into="imagenet-rendition",
            ),
        ),
    ),
}


def _ood(folder: str, md5: str) -> Entry:
    download = Download(f"{_OOD}/{folder}.tar.gz", f"md5:{md5}", folder, into="")
    folders = (f"{folder}/images", folder)
    return Entry(folders, 0, (0, 0, 10000), labels="unlabelled", downloads=(download,))


OOD = {
    "inaturalist": _ood("iNaturalist", "5be6ea8aa027d7b631916427b32cb335"),
    "sun": _ood("SUN", "8469c3ada62211477954ec1be53b12d0"),
    "places": _ood("Places", "b5cb5eba2754ae2a28beea8718db699a"),
    "textures": Entry(
        ("dtd/images", "dtddataset/dtd/images"),
        0,
        (0, 0, 5640),
        labels="unlabelled",
        downloads=(_DTD,),
    ),
}

ENTRIES = BENCHMARKS | SHIFTS | OOD
