"""A run folder in a bucket that one process holds: buckets have no locks.

Who holds one says so in an object, again and again. An object that is there and changes no more
was left by a process that was killed.
"""

import contextlib
import itertools
import threading
import time

from sotglp_jax import paths
from sotglp_jax.errors import InputError
from sotglp_jax.paths import AnyPath

BEAT = 10.0  # seconds between two signs of life
PATIENCE = 25.0  # seconds without one after which a holder is gone


class Lease:
    """Holds a folder until `release`.

    Two that start within the same moment are not told apart.

    Args:
      path: the object, in the folder.
      holder: what others are told of who holds it.

    Raises:
      InputError: another process holds it.
      OSError: it cannot be written.
    """

    def __init__(self, path: AnyPath, holder: str):
        self._path, self._holder, self._ended = path, holder, threading.Event()
        _await_end(path)
        self._beat(0)
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Lets go of the folder."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # one that is left has ended all the same
            self._path.unlink(missing_ok=True)

    def _go_on(self) -> None:
        for beat in itertools.count(1):
            if self._ended.wait(BEAT):
                return
            with contextlib.suppress(OSError):  # the next one may get through
                self._beat(beat)

    def _beat(self, beat: int) -> None:
        paths.write(self._path, f"{self._holder}\n{time.time()} {beat}\n".encode())


def in_use(folder: AnyPath, holder: str) -> InputError:
    """The error where another process holds a folder."""
    return InputError(f"{folder} is in use by {holder}: wait for it, or choose another --workdir.")


def _await_end(path: AnyPath) -> None:
    """Waits until a holder would have given a sign of life, and raises `InputError` if it did."""
    if not (before := _content(path)):
        return
    holder = before.partition("\n")[0]
    print(f"{path.parent} was held by {holder}: waiting for {PATIENCE:.0f} s to see", flush=True)
    time.sleep(PATIENCE)
    if _content(path) not in ("", before):
        raise in_use(path.parent, holder)


def _content(path: AnyPath) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
