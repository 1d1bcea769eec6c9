"""A file of feature arrays: written whole or not at all, by one run at a time, read by any number.

The arrays lie one after the other, then a line of JSON that says what they are of. It is written
as `.part` under a lock and renamed when it is whole: what has mapped an older file keeps it, and a
part that nobody holds was left by a run that was killed.
"""

import dataclasses
import fcntl
import itertools
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sotglp_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class FeatureFile:
    """Where features are, and what they are to be.

    Attributes:
      path: of the file.
      shapes: of its arrays by name, in their order.
      dtype: of all of them.
      about: JSON that tells them from others.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtype: np.dtype
    about: str

    @property
    def part(self) -> Path:
        """The file while it is written."""
        return self.path.with_suffix(".part")

    @property
    def size(self) -> int:
        """Bytes of all arrays."""
        return sum(map(math.prod, self.shapes.values())) * self.dtype.itemsize

    def is_whole(self) -> bool:
        """Whether the file is there, complete, and of the same."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.size)
                return file.read() == self.about.encode()
        except OSError:
            return False

    def maps(self) -> dict[str, np.ndarray]:
        """The arrays, memory-mapped.

        Raises:
          InputError: the file is not there.
        """
        try:
            with self.path.open("rb") as file:
                return {
                    name: np.memmap(file, self.dtype, "r", start, self.shapes[name])
                    for name, start in self._starts().items()
                }
        except OSError as error:
            raise InputError(
                f"the feature cache {self.path} cannot be read ({error.strerror}): set "
                "--config.cache.folder to one that all processes see."
            ) from None

    def claim(self) -> BinaryIO | None:
        """The part, which this process alone holds until it closes it; None while another does.

        Raises:
          InputError: it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return _claim(self.part)
        except OSError as error:
            raise self._unwritable(error) from None

    def make_room(self, part: BinaryIO) -> None:
        """Gives a claimed part its size, after removing what killed runs have left.

        Raises:
          InputError: the disk is too small.
        """
        _remove_unclaimed(self.path.parent)
        part.truncate(0)
        free = shutil.disk_usage(self.path.parent).free
        if self.size > free:
            raise InputError(
                f"the feature cache needs {self.size / 1e9:.1f} GB and {self.path.parent} has "
                f"{free / 1e9:.1f} GB: set fewer --config.cache.views, or --config.cache.folder."
            )
        part.truncate(self.size)

    def open(self) -> BinaryIO:
        """The part, which another process holds, for writing rows.

        Raises:
          InputError: it is not to be seen here.
        """
        try:
            return self.part.open("r+b", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from None

    def write(self, opened: BinaryIO, places: np.ndarray, rows: Mapping[str, np.ndarray]) -> None:
        """Writes rows of every array.

        Not through a memory map: processes on several machines may share a page of it.

        Args:
          opened: by `open`.
          places: (B,), where they belong among the n N rows of an array.
          rows: {name: (B, ...)}.

        Raises:
          InputError: the disk says no.
        """
        try:
            for name, start in self._starts().items():
                for place, row in zip(places.tolist(), rows[name], strict=True):
                    opened.seek(start + place * row.nbytes)
                    content = memoryview(row.tobytes())
                    while content:  # a full disk takes a part first
                        content = content[opened.write(content) :]
        except OSError as error:
            raise self._unwritable(error) from None

    def finish(self, part: BinaryIO) -> None:
        """Makes a claimed part the file when all rows are written."""
        part.seek(self.size)
        part.write(self.about.encode())
        os.fsync(part.fileno())
        self.part.replace(self.path)

    def release(self, part: BinaryIO) -> None:
        """Closes a claimed part, and removes it if it was not finished."""
        with part:
            if _lies_at(part, self.part):
                self.part.unlink()

    def _starts(self) -> dict[str, int]:
        sizes = (math.prod(shape) * self.dtype.itemsize for shape in self.shapes.values())
        return dict(zip(self.shapes, itertools.accumulate(sizes, initial=0), strict=False))

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"the feature cache {self.path.parent} cannot be written ({error.strerror}): set "
            "--config.cache.folder."
        )


def _claim(path: Path) -> BinaryIO | None:
    file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _lies_at(file, path):  # else it was finished or removed before it was locked
            return file
    except BlockingIOError:
        pass
    except OSError:
        file.close()
        raise
    file.close()
    return None


def _lies_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_unclaimed(folder: Path) -> None:
    for path in folder.glob("*.part"):
        if claimed := _claim(path):
            with claimed:
                path.unlink()
