"""Drawn characters with captions, to pre-train a tiny CLIP on; no handwriting goes into them."""

import dataclasses
import string
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from sotglp_jax.data.digits import CLASS_NAMES

CHARACTERS = string.digits + string.ascii_letters
SIZE = 64  # pixels along a side of a finished image

_CANVAS = 96  # pixels along a side while drawing
_CONTEXTS = ("{}", "a photo of {}", "a drawing of {}", "a picture of {}")

# The faces of matplotlib that have every digit and letter, without its fonts of symbols.
_FACES = (
    *(f"DejaVuSans{s}" for s in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{s}" for s in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{s}" for s in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{s}" for s in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)

# How a pen may draw each digit: strokes of points "xy" on a grid of 10 by 10, y downwards.
_STROKES = {
    "0": ("50-12-05-18-59-88-95-81-50", "60-21-06-39-79-94-81-40"),
    "1": ("50-59", "60-49", "23-50 50-59", "14-50 50-59", "13-50 50-59 19-89", "23-50 50-59 29-89"),
    "2": (
        "02-20-60-83-65-09 09-99",
        "02-40-72-65-28-09 09-59-98",
        "12-40-83-65-28-07-16-48-99",
    ),
    "3": (
        "01-40-82-44 44-95-79-38-07",
        "00-90 90-44 44-95-79-39-07",
        "11-50-92-64-34 64-96-69-18",
    ),
    "4": (
        "20-05 05-95 70-69",
        "60-06 06-96 60-59",
        "10-04-35-85 80-79",
        "20-14-25-95 73-59",
        "80-06 06-96 80-69",
    ),
    "5": ("90-10 10-04 04-54-96-69-08", "80-20 20-13 13-63-95-59-08", "90-20-14-54-86-59-08"),
    "6": ("70-32-06-28-69-96-64-25-07", "40-13-07-39-78-76-45-17", "80-06-28-69-86-65-07"),
    "7": ("00-90 90-39", "00-90 90-39 24-84", "02-01 01-91 91-39", "01-30-80 80-55-49 25-85"),
    "8": ("81-50-12-44-87-59-17-54-81", "50-12-44-82-50 44-07-59-97-44", "91-40-12-75-69-28-82"),
    "9": (
        "92-60-13-35-74-92 92-79",
        "92-60-13-35-74-92 92-96-69-28",
        "83-50-13-45-82 82-89",
        "90-50-03-45-91 91-49",
    ),
}


@dataclasses.dataclass(frozen=True)
class Glyph:
    """One image and what it shows.

    Attributes:
      image: (64, 64) uint8, grey.
      ink: (64, 64) uint8, how much of each pixel the strokes cover.
      caption: a sentence or phrase about it.
      character: index into `CHARACTERS`.
    """

    image: np.ndarray
    ink: np.ndarray
    caption: str
    character: int


def render(rng: np.random.Generator) -> Glyph:
    """Draws one captioned character; every second one is a digit."""
    first, last = (0, 10) if rng.random() < 0.5 else (10, len(CHARACTERS))
    index = int(rng.integers(first, last))
    character = CHARACTERS[index]
    by_pen = character in _STROKES and rng.random() < 0.65
    ink = _pen(character, rng) if by_pen else _print(character, rng)
    ink = _thicken(_warp(ink, rng), rng)
    scanned = rng.random() < 0.7
    ink = _scan(ink, rng) if scanned else _frame(ink, rng)
    image = ink if scanned else _photograph(ink, rng)
    caption = str(rng.choice(captions(character)))
    return Glyph(np.asarray(image), np.asarray(ink), caption, index)


@cache
def captions(character: str) -> tuple[str, ...]:
    """Everything that is said of a character, with and without a full stop."""
    parts = product(_CONTEXTS, _names(character), ("", "."))
    return tuple(context.format(name) + stop for context, name, stop in parts)


def every_caption() -> tuple[str, ...]:
    """The captions of all characters, each once."""
    return tuple(text for character in CHARACTERS for text in captions(character))


def _names(character: str) -> tuple[str, ...]:
    if character.isdigit():
        word = CLASS_NAMES[int(character)]
        return (f"the number {word}", f"the digit {character}", f"a {word}", f"the digit {word}")
    if character.isupper():  # the tokenizer folds case, so words have to tell it
        return f"the capital letter {character}", f"a capital {character}"
    return f"the letter {character}", f"a {character}", f"a small {character}"


@cache
def _face(name: str) -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", f"{name}.ttf"), _CANVAS * 2 / 3)


def _print(character: str, rng: np.random.Generator) -> Image.Image:
    ink = Image.new("L", (_CANVAS, _CANVAS))
    middle = (_CANVAS / 2, _CANVAS / 2)
    font = _face(str(rng.choice(_FACES)))
    ImageDraw.Draw(ink).text(middle, character, 255, font, anchor="mm")
    return ink


def _pen(digit: str, rng: np.random.Generator) -> Image.Image:
    ink = Image.new("L", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(ink)
    width = int(rng.integers(5, 15))
    box = np.array([rng.uniform(0.3, 0.6), 0.6]) * _CANVAS
    shake = rng.uniform(0.02, 0.07)
    for stroke in str(rng.choice(_STROKES[digit])).split():
        points = np.array([[int(x), int(y)] for x, y in stroke.split("-")]) / 9 - 0.5
        points = (points + rng.normal(0, shake, points.shape)) * box + _CANVAS / 2
        draw.line([tuple(p) for p in _smooth(points)], 255, width, joint="curve")
    return ink


def _smooth(points: np.ndarray) -> np.ndarray:
    """A Catmull-Rom curve through points (n, 2), eight steps from one to the next."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    a, b, c, d = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, 9)[None, :, None]
    curve = b + t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * b - a - 3 * c + d))) / 2
    return curve.reshape(-1, 2)


def _warp(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Rotates by about 10 degrees, slants, stretches and bends."""
    cells, middle = 3, _CANVAS / 2
    ticks = np.linspace(-middle, middle, cells + 1)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    angle, slant = rng.normal(0, [0.17, 0.25])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    source = grid @ (turn @ [[1, slant], [0, 1]]).T
    source = source + middle + rng.normal(0, rng.uniform(0, 0.04) * _CANVAS, grid.shape)
    step = _CANVAS // cells
    mesh = []
    for y, x in np.ndindex(cells, cells):
        corners = source[[y, y + 1, y + 1, y], [x, x, x + 1, x + 1]]
        target = (x * step, y * step, (x + 1) * step, (y + 1) * step)
        mesh.append((target, corners.ravel().tolist()))
    return ink.transform(ink.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _thicken(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Swells or thins the strokes and rounds their corners, as ink does."""
    blurred = ink.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 4)))
    level = rng.uniform(0.15, 0.55) * blurred.getextrema()[1]
    return blurred.point(lambda value: 255 if value > level else 0)


def _place(ink: Image.Image, size: int, width: float, height: float) -> Image.Image:
    """The ink alone, scaled and centred in a square frame; all in pixels."""
    scaled = tuple(np.clip(np.rint([width, height]), 1, size).astype(int).tolist())
    frame = Image.new("L", (size, size))
    corner = ((size - scaled[0]) // 2, (size - scaled[1]) // 2)
    frame.paste(ink.crop(ink.getbbox()).resize(scaled, Image.Resampling.BILINEAR), corner)
    return frame


def _aspect(ink: Image.Image, rng: np.random.Generator) -> float:
    left, upper, right, lower = ink.getbbox()
    return (right - left) / (lower - upper) * np.exp(rng.normal(0, 0.15))


def _scan(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A bitmap of 32 pixels, as high as its frame, counted in blocks of 4 by 4."""
    width = 32 * np.sqrt(0.7 * _aspect(ink, rng))  # halfway to the usual width
    bitmap = _place(ink, 32, min(width, 29), 32).point(lambda value: 255 * (value > 127))
    shifted = ImageChops.offset(bitmap, int(rng.integers(-2, 3)), 0)
    return shifted.reduce(4).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _frame(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The ink at any resolution."""
    aspect, size = _aspect(ink, rng), int(rng.integers(10, SIZE + 1))
    longer = size * rng.uniform(0.55, 1)
    frame = _place(ink, size, longer * min(1, aspect), longer * min(1, 1 / aspect))
    return frame.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _photograph(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Any polarity and contrast; blurred and noisy."""
    image = ink.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5)))
    dark, light = rng.uniform([0, 150], [100, 255])
    if rng.random() < 0.5:
        dark, light = light, dark
    grey = np.asarray(image) / 255 * (light - dark) + dark
    grey = grey + rng.normal(0, rng.uniform(0, 25), grey.shape)
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
