"""Drawn images that are no digits: what the embedded data set is to be told from, offline."""

import dataclasses

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from sotglp_jax.data.digits import SIZE
from sotglp_jax.data.sources import Source

COUNT = 400
LETTERS = "ABCDEFGHJKLMNPQRTUVWXY"  # without those that are drawn like digits


@dataclasses.dataclass(frozen=True)
class Drawer:
    """Draws a set's image by its position, always the same one.

    Attributes:
      kind: a key of `KINDS`.
    """

    kind: str

    def __call__(self, position: int) -> Image.Image:
        rng = np.random.default_rng([list(KINDS).index(self.kind), position])
        return KINDS[self.kind](rng).convert("RGB")


def drawn(kind: str) -> Source:
    """A set of `COUNT` drawn images without labels."""
    names = tuple(f"{kind}/{i:03d}" for i in range(COUNT))
    return Source(Drawer(kind), range(COUNT), names, (-1,) * COUNT, f"drawn {kind}")


def letter(rng: np.random.Generator) -> Image.Image:
    """A capital letter, white on black and as coarse as the digits."""
    image = Image.new("L", (SIZE, SIZE))
    font = ImageFont.load_default(int(rng.integers(40, 56)))
    place = tuple((SIZE / 2 + rng.uniform(-4, 4, 2)).tolist())
    ImageDraw.Draw(image).text(place, str(rng.choice(list(LETTERS))), 255, font, anchor="mm")
    return _coarse(image.rotate(rng.uniform(-12, 12)))


def shape(rng: np.random.Generator) -> Image.Image:
    """An ellipse, polygon or cross, filled or not."""
    image = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(image)
    box = [*rng.uniform(8, 24, 2).tolist(), *rng.uniform(40, 56, 2).tolist()]
    width = int(rng.integers(3, 9))
    match rng.integers(4):
        case 0:
            draw.ellipse(box, outline=255, width=width)
        case 1:
            draw.rectangle(box, outline=255, width=width, fill=int(rng.integers(2)) * 160)
        case 2:
            draw.regular_polygon((32, 32, rng.uniform(14, 28)), int(rng.integers(3, 8)), fill=255)
        case _:
            draw.line(box, 255, width)
            draw.line([box[0], box[3], box[2], box[1]], 255, width)
    return _coarse(image.rotate(rng.uniform(0, 90)))


def texture(rng: np.random.Generator) -> Image.Image:
    """Stripes, checks or dots of a random period and direction."""
    y, x = np.mgrid[:SIZE, :SIZE]
    turn, period = rng.uniform(0, np.pi), rng.uniform(5, 20)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    waves = np.sin(2 * np.pi * u / period), np.sin(2 * np.pi * v / period)
    kinds = (waves[0], waves[0] * waves[1], waves[0] + waves[1])
    pixels = kinds[rng.integers(len(kinds))] > rng.uniform(-0.3, 0.3)
    return Image.fromarray((pixels * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))


def noise(rng: np.random.Generator) -> Image.Image:
    """Independent grey levels in squares of 2 to 8 pixels."""
    cells = SIZE // int(rng.choice([2, 4, 8]))
    pixels = rng.integers(0, 256, (cells, cells)).astype(np.uint8)
    return Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _coarse(image: Image.Image) -> Image.Image:
    """Through the digits' 8x8 pixels and back."""
    small = image.resize((8, 8), Image.Resampling.BOX)
    return small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


KINDS = {"letters": letter, "shapes": shape, "textures_drawn": texture, "noise": noise}
