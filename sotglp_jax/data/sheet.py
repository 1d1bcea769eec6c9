"""Contact sheets: some images of every class, as CLIP sees them."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from sotglp_jax.data import pictures
from sotglp_jax.data.sources import Dataset, Source
from sotglp_jax.data.transforms import Resize
from sotglp_jax.errors import InputError

SIDE, GAP = 112, 8  # pixels of an image, and around it
COLUMNS, ROWS = 8, 20  # images of a class, classes of a sheet
TEXT = 16  # pixels
BLUE = "#332288"
ABOVE = (
    "Framed: drawn as shots. Others: training, then validation, then test images. Middle squares."
)


def write(out: Path, dataset: Dataset, shots: Collection[str]) -> list[Path]:
    """Draws sheets of a row a class, the shots first and framed; returns their files.

    Args:
      out: the folder, which is made.
      dataset: its images can all be read.
      shots: names of the training images that are drawn.

    Raises:
      InputError: the folder cannot be written.
    """
    rows = [_row(dataset, label, shots) for label in range(len(dataset.class_names))]
    sheets = [_sheet(rows[i : i + ROWS]) for i in range(0, len(rows), ROWS)]
    files = [out / f"sheet-{number}.png" for number in range(1, len(sheets) + 1)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, drawn in zip(files, sheets, strict=True):
            drawn.save(file)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({error.strerror}): choose another --out."
        ) from None
    return files


def _row(dataset: Dataset, label: int, shots: Collection[str]) -> Image.Image:
    """A class: its name, and below it images."""
    row = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, SIDE + TEXT + 3 * GAP), "white")
    count = sum(list(source.labels).count(label) for source in dataset.parts.values())
    _print(row, GAP // 2, f"{dataset.class_names[label]} ({count})")
    ordered = itertools.islice(_ordered(dataset, label, shots), COLUMNS)
    for column, (source, place) in enumerate(ordered):
        left, top = GAP + column * (SIDE + GAP), TEXT + 2 * GAP
        if source is dataset.train and source.names[place] in shots:
            box = (left - GAP // 2, top - GAP // 2, left + SIDE + GAP // 2, top + SIDE + GAP // 2)
            ImageDraw.Draw(row).rectangle(box, fill=BLUE)
        pixels = pictures.load(source[place]["image"], Resize(SIDE))
        row.paste(Image.fromarray(pixels), (left, top))
    return row


def _ordered(dataset: Dataset, label: int, shots: Collection[str]) -> Iterator[tuple[Source, int]]:
    """The images of a class as sources and places, the shots first, then part by part."""
    for source in dataset.parts.values():
        places = [i for i, x in enumerate(source.labels) if x == label]
        if source is dataset.train:
            places.sort(key=lambda i: source.names[i] not in shots)
        yield from ((source, place) for place in places)


def _sheet(rows: Sequence[Image.Image]) -> Image.Image:
    width, height = rows[0].size
    sheet = Image.new("RGB", (width, height * len(rows) + TEXT + GAP), "white")
    _print(sheet, GAP // 2, ABOVE)
    for number, row in enumerate(rows):
        sheet.paste(row, (0, TEXT + GAP + number * height))
    return sheet


def _print(image: Image.Image, top: int, text: str) -> None:
    file = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    font = ImageFont.truetype(file, TEXT)
    ImageDraw.Draw(image).text((GAP, top), text, "black", font)
