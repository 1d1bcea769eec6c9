"""Drawn garments in folders, as people keep photographs."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

# Outlines in a square of side 1.
OUTLINES = {
    "dress": [(0.4, 0.1), (0.6, 0.1), (0.55, 0.4), (0.8, 0.9), (0.2, 0.9), (0.45, 0.4)],
    "shirt": [(0.1, 0.2), (0.9, 0.2), (0.9, 0.4), (0.7, 0.4), (0.7, 0.8), (0.3, 0.8), (0.3, 0.4)],
    "trousers": [(0.3, 0.1), (0.7, 0.1), (0.75, 0.9), (0.6, 0.9), (0.5, 0.4), (0.4, 0.9)],
    "shoe": [(0.1, 0.4), (0.4, 0.4), (0.9, 0.6), (0.9, 0.75), (0.1, 0.75)],
}


def draw(name: str, number: int) -> Image.Image:
    """A garment of any colour, size and place on a wall of any colour."""
    rng = np.random.default_rng([*name.encode(), number])
    wall, cloth = (tuple(rng.integers(low, low + 120, 3).tolist()) for low in (130, 0))
    image, size = Image.new("RGB", (80, 100), wall), rng.uniform(50, 70)
    left, top = rng.uniform(0, 80 - size), rng.uniform(0, 100 - size)
    places = [(left + size * x, top + size * y) for x, y in OUTLINES[name]]
    ImageDraw.Draw(image).polygon(places, fill=cloth)
    return image


def write(folder: Path, *names: str, count: int = 10) -> Path:
    """Writes photographs to a folder a garment, and returns the folder above."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            draw(name, number).save(folder / name / f"{number}.jpg")
    return folder
