"""Which files below a folder are images, and which are left out and why."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from sotglp_jax.data.pixels import READS_HEIF
from sotglp_jax.errors import InputError
from sotglp_jax.paths import AnyPath, in_bucket, listing

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


FOLDER, FILE = "folder", "file"


@dataclasses.dataclass(frozen=True)
class Folder:
    """What lies in a folder, without what is hidden.

    Attributes:
      path: the folder.
      images: names of the images in it, sorted.
      folders: the folders in it, sorted by name.
      left_out: counts what else is in it, by its ending or what it is; of the folders of `SYSTEM`,
        the files in them.
    """

    path: AnyPath
    images: tuple[str, ...]
    folders: dict[str, "Folder"]
    left_out: Counter[str]

    def list_images(self, root: AnyPath) -> list[str]:
        """Names, relative to `root` and sorted, of the images anywhere below."""
        at = self.path.relative_to(root).as_posix()
        return sorted(self._below("" if at == "." else f"{at}/"))

    def count_left_out(self) -> Counter[str]:
        """Counts what is no image anywhere below."""
        below = (folder.count_left_out() for folder in self.folders.values())
        return sum(below, Counter(self.left_out))

    def _below(self, prefix: str) -> Iterator[str]:
        yield from (prefix + name for name in self.images)
        for name, folder in self.folders.items():
            yield from folder._below(f"{prefix}{name}/")


def read_folder(path: AnyPath) -> Folder:
    """Looks at all that is below a folder, once; an empty one where there is none.

    Raises:
      InputError: a folder may not be read.
    """
    if in_bucket(path):
        return _of_bucket(path, _tree(listing(path)))
    if not path.is_dir():
        return Folder(path, (), {}, Counter())
    return _read(path, [_identity(parent) for parent in path.absolute().parents])


def is_image(path: AnyPath) -> bool:
    """Whether a file is an image, told by its ending or else by how it begins."""
    if _ending(path.name) in SUFFIXES:
        return True
    try:
        with path.open("rb") as file, Image.open(file) as image:
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


def _read(path: Path, above: Sequence[tuple[int, int]]) -> Folder:
    above = (*above, _identity(path))

    def kind(entry: os.DirEntry) -> str:
        found = _kind(entry)
        linked = found == FOLDER and entry.name not in SYSTEM and _identity(entry.path) in above
        return "links to folders above them" if linked else found

    return _sorted_out(
        path,
        [(entry.name, kind(entry)) for entry in _entries(path)],
        lambda name: _read(path / name, above),
        lambda name: sum(len(files) for *_, files in os.walk(path / name)),
    )


def _tree(names: Iterable[str]) -> dict[str, dict | None]:
    """Objects as folders would hold them: {"file": None, "folder/": {...}}."""
    tree: dict[str, dict | None] = {}
    for name in names:
        *folders, file = name.split("/")
        at = tree
        for folder in folders:
            at = at.setdefault(f"{folder}/", {})
        if file:  # else an object that stands for an empty folder
            at[file] = None
    return tree


def _of_bucket(path: AnyPath, tree: dict[str, dict | None]) -> Folder:
    return _sorted_out(
        path,
        [(x.rstrip("/"), FILE if inside is None else FOLDER) for x, inside in tree.items()],
        lambda name: _of_bucket(path / name, tree[f"{name}/"]),
        lambda name: _count(tree[f"{name}/"]),
    )


def _sorted_out(
    path: AnyPath,
    entries: Iterable[tuple[str, str]],
    inside: Callable[[str], Folder],
    count: Callable[[str], int],
) -> Folder:
    """A folder of names and their kinds; functions look into a folder in it, or count its files."""
    images, folders, left_out = [], {}, Counter()
    for name, kind in sorted(entries):
        if name in SYSTEM and kind == FOLDER:
            left_out[f"in {name}"] += count(name)
        elif _is_system(name):
            continue
        elif kind == FOLDER:
            folders[name] = inside(name)
        elif kind == FILE and is_image(path / name):
            images.append(name)
        else:
            ending = _ending(name) or "without an ending"
            left_out[ending if kind == FILE else kind] += 1
    return Folder(path, tuple(images), folders, left_out)


def _count(tree: dict[str, dict | None]) -> int:
    return sum(1 if inside is None else _count(inside) for inside in tree.values())


def _kind(entry: os.DirEntry) -> str:
    """`FOLDER`, `FILE`, or what else an entry, or what it links to, is called."""
    try:
        if entry.is_dir():
            return FOLDER
        if entry.is_file():
            return FILE
        entry.stat()
    except OSError:  # a link to nothing or to itself; as an image it is one that is missing
        return FILE if _ending(entry.name) in SUFFIXES else "links that lead nowhere"
    return "pipes, sockets or devices"  # to open one may be to wait for ever


def _identity(folder: str | Path) -> tuple[int, int]:
    state = os.stat(folder)
    return state.st_dev, state.st_ino


def _entries(folder: Path) -> list[os.DirEntry]:
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
