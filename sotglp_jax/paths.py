"""Files and folders that users name: on this machine, or in a bucket of Google Cloud Storage."""

import errno
import functools
import io
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from etils import epath

from sotglp_jax.errors import InputError

# Buckets are reached by gcsfs also where TensorFlow is installed, whose own way has other
# credentials, and by it as plain stores of objects; both libraries read this when first used.
os.environ.setdefault("EPATH_USE_TF", "false")
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

BUCKET = "gs://"
HUB = "hf:"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|(gs|s3|hf|https?):", re.IGNORECASE)

AnyPath = Path | epath.Path  # the latter in a bucket; of its methods those of both are used


def local(given: str | os.PathLike, key: str = "") -> Path:
    """The path of a file or folder of this machine, with ~ as the home folder.

    Args:
      given: what the user wrote.
      key: of the option that it is the value of, for the message; "" where it has none.

    Raises:
      InputError: it is an address, of a bucket, a hub or a server.
    """
    if _ADDRESS.match(os.fspath(given)):
        raise _refused(given, key, "files and folders of this machine")
    return Path(given).expanduser()


def place(given: str | os.PathLike, key: str = "") -> AnyPath:
    """The path of a file or folder of this machine or of a bucket; arguments as in `local`.

    Raises:
      InputError: it is another address, or the bucket cannot be used; says why.
    """
    if not os.fspath(given).startswith(BUCKET):
        if _ADDRESS.match(os.fspath(given)):
            raise _refused(given, key, "files and folders of this machine or below gs://BUCKET")
        return Path(given).expanduser()
    bucket = os.fspath(given).removeprefix(BUCKET).partition("/")[0]
    if not bucket:
        raise InputError(f"{key}{'=' * bool(key)}{given} names no bucket: give gs://BUCKET/NAME.")
    _check(bucket)
    return epath.Path(given)


def in_bucket(path: AnyPath) -> bool:
    """Whether a path is one of a bucket."""
    return not isinstance(path, Path)


def absolute(path: AnyPath) -> AnyPath:
    """The path from the root; one of a bucket is that already."""
    return path if in_bucket(path) else path.absolute()


def make(folder: AnyPath) -> None:
    """Makes a folder and those above it; buckets have none.

    Raises:
      OSError: it cannot be made.
    """
    if not in_bucket(folder):
        folder.mkdir(parents=True, exist_ok=True)


def opened(path: AnyPath) -> Path | BinaryIO:
    """What Pillow opens: the path of a file, the content of an object."""
    return io.BytesIO(path.read_bytes()) if in_bucket(path) else path


def write(path: AnyPath, content: bytes) -> None:
    """Writes the whole file or nothing; in a bucket, an object appears when it is whole.

    Raises:
      OSError: it cannot be written.
    """
    if in_bucket(path):
        try:
            path.write_bytes(content)
        except Exception as error:  # gcsfs's, aiohttp's and google.auth's own kinds
            raise OSError(errno.EIO, reason(error), str(path)) from error
        return
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def below(folder: AnyPath, names: Iterable[str]) -> list[AnyPath]:
    """Files of these names at any depth below a folder, sorted."""
    names = set(names)
    if not in_bucket(folder):
        return sorted(path for name in names for path in folder.rglob(name))
    return sorted(folder / name for name in listing(folder) if name.rpartition("/")[2] in names)


def listing(folder: epath.Path) -> dict[str, dict]:
    """What a bucket says of the objects below a folder, by their names relative to it."""
    found = files().find(f"{folder}/", detail=True)
    prefix = f"{folder}/".removeprefix(BUCKET)
    return {name.removeprefix(prefix): about for name, about in found.items() if name != prefix}


def files():
    """gcsfs's file system, the one that `epath` uses."""
    import fsspec

    # Other processes write too, so that nothing may be remembered of what is there.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return fsspec.filesystem("gcs", finalize_on_close=True)


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, FileNotFoundError):
        return os.strerror(errno.ENOENT)
    lines = str(error).strip().splitlines()
    return getattr(error, "strerror", None) or (lines or [type(error).__name__])[-1].rstrip(".")


@functools.cache
def _check(bucket: str) -> None:
    """Makes sure of a bucket that its objects may be listed, by the first look at it."""
    try:
        import gcsfs  # noqa: F401 (which fsspec imports by its name)
    except ModuleNotFoundError:
        raise InputError(
            f"{BUCKET}{bucket} is a bucket, which `pip install 'sotglp_jax[gcs]'` reaches."
        ) from None
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs the errors that it raises
    try:
        files().ls(bucket, max_results=1)
    except FileNotFoundError:
        raise InputError(
            f"there is no bucket {BUCKET}{bucket}: check the name, or make it with `gcloud storage "
            f"buckets create {BUCKET}{bucket}`."
        ) from None
    except Exception as error:  # gcsfs's, aiohttp's and google.auth's own kinds
        raise InputError(
            f"{BUCKET}{bucket} cannot be read ({reason(error)}): log in with `gcloud auth "
            "application-default login`, as one who may read and write its objects."
        ) from None


def _refused(given: str | os.PathLike, key: str, usable: str) -> InputError:
    return InputError(
        f"{key}{'=' * bool(key)}{given} is an address, and only {usable} can be used: copy or "
        "mount it, and give its path."
    )


def trained(given: str) -> AnyPath | str:
    """What was trained: the path as `place` has it, or the address of a run on the hub.

    Raises:
      InputError: it is another address, or the bucket cannot be used.
    """
    return given if given.startswith(HUB) else place(given)
