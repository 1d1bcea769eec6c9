"""Which files below a folder are images, and which are left out and why."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from sotglp_jax.data.pixels import READS_HEIF
from sotglp_jax.errors import InputError

# Files with these endings are images, sound or not; all others are where their content says so.
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
# TIFF is not among them: cameras' raw files begin like it.
FORMATS = {"JPEG", "MPO", "PNG", "BMP", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF", "HEIF"}
# Thumbnails, waste and the like, which systems and programs leave among images.
SYSTEM = {
    "@eaDir",
    "#recycle",
    "__MACOSX",
    ".ipynb_checkpoints",
    ".thumbnails",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
}
SYSTEM_FILES = {"Thumbs.db", "desktop.ini"}


def list_images(folder: Path, root: Path, left_out: Counter[str] | None = None) -> list[str]:
    """Names, relative to `root` and sorted, of the images anywhere below a folder.

    Args:
      folder: where to look.
      root: what the names are relative to.
      left_out: counts what is no image, by its ending or by the folder that it is in.

    Raises:
      InputError: a folder may not be read.
    """
    counter = Counter() if left_out is None else left_out
    above = [_identity(parent) for parent in folder.absolute().parents]
    return sorted(_walk(str(folder), str(folder.relative_to(root)), counter, above))


def list_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without those of `SYSTEM` and hidden ones.

    None where the folder is not there.

    Raises:
      InputError: the folder may not be read.
    """
    if not folder.is_dir():
        return []
    return sorted(e.name for e in _entries(str(folder)) if e.is_dir() and not _is_system(e.name))


def count_images(folder: Path) -> int:
    """Counts the images in the folder itself."""
    found = (e for e in _entries(str(folder)) if not e.is_dir() and not _is_system(e.name))
    return sum(is_image(entry.path) for entry in found)


def count_system(folder: str | Path, left_out: Counter[str]) -> None:
    """Counts the files in those folders of `SYSTEM` that are in a folder itself."""
    for entry in _entries(str(folder)):
        if entry.name in SYSTEM and entry.is_dir():
            left_out[f"in {entry.name}"] += sum(len(x) for *_, x in os.walk(entry.path))


def is_image(path: str) -> bool:
    """Whether a file is an image, told by its ending or else by how it begins."""
    if _ending(path) in SUFFIXES:
        return True
    try:
        with Image.open(path) as image:
            return image.format in FORMATS
    except Exception:  # many kinds, by format
        return False


def describe(left_out: Counter[str]) -> str:
    """What was left out, the most frequent first, with what would help."""
    said = (f"{count} {kind}{_help(kind)}" for kind, count in left_out.most_common())
    return ", ".join(said)


def _help(kind: str) -> str:
    wanting = kind in (".heic", ".heif") and not READS_HEIF
    return " (`pip install 'sotglp_jax[heif]'` reads them)" if wanting else ""


def _walk(
    folder: str, name: str, left_out: Counter[str], above: Sequence[tuple[int, int]]
) -> Iterator[str]:
    here = _identity(folder)
    if here in above:
        left_out["links to folders above them"] += 1
        return
    count_system(folder, left_out)
    for entry in _entries(folder):
        below = entry.name if name == "." else f"{name}/{entry.name}"
        if _is_system(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, below, left_out, (*above, here))
        elif is_image(entry.path):
            yield below
        else:
            left_out[_ending(entry.name) or "without an ending"] += 1


def _identity(folder: str | Path) -> tuple[int, int]:
    state = os.stat(folder)
    return state.st_dev, state.st_ino


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except PermissionError as error:
        raise InputError(
            f"{folder} may not be read ({error.strerror}): give yourself the right to, or leave "
            "the folder out."
        ) from None


def _is_system(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM or name in SYSTEM_FILES


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()
