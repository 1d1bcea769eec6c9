"""Getting a data set of the field: resumable, checked by hash, unpacked whole or not at all."""

import errno
import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tqdm import tqdm

from sotglp_jax.data.catalog import Download, Entry
from sotglp_jax.errors import InputError

_BYTES = {"unit": "B", "unit_scale": True, "disable": None, "leave": False}


def fetch(name: str, entry: Entry, root: Path) -> None:
    """Downloads and unpacks what may be downloaded of a data set and is not there yet.

    Args:
      name: what messages call it.
      entry: its entry in the catalogue.
      root: the data root.

    Raises:
      InputError: the server, the network, the hash, the archive or the disk says no.
    """
    for download in entry.downloads:
        target = root / download.gives
        if target.exists():
            print(f"{name}: {target} is there already")
            continue
        try:
            _get(download, root)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise
            raise InputError(
                f"{root} cannot hold {download.gives} ({error.strerror}): make room or choose "
                "another --root; the same command goes on from there."
            ) from None
        print(f"{name}: {target}")


def _get(download: Download, root: Path) -> None:
    part = root / "downloads" / f"{download.digest.partition(':')[2]}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    _download(download.url, part)
    _check_hash(download, part)
    if download.into is None:
        (root / download.gives).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(part, root / download.gives)
        return
    _unpack(part, root / download.into, download)
    part.unlink()


def _download(url: str, part: Path) -> None:
    """Adds to `part` what it lacks; the hub's client knows resuming, retries and progress."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get

    there = part.stat().st_size if part.is_file() else 0
    try:
        with part.open("ab") as file:
            http_get(url, file, resume_size=there, displayed_filename=url.rpartition("/")[2])
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 416 and there:  # nothing is left of the file
            return
        raise InputError(
            f"{url} cannot be downloaded (HTTP status {status}): get it by hand, or look for a "
            "newer version of this package."
        ) from None
    except OSError as error:
        if error.errno:
            raise
        raise _broken_off(url, error) from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore"):
            raise
        raise _broken_off(url, error) from None


def _broken_off(url: str, error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return InputError(
        f"{url} could not be downloaded whole ({reason}): check the network, the same command goes "
        "on where this one stopped."
    )


def _check_hash(download: Download, part: Path) -> None:
    kind, _, expected = download.digest.partition(":")
    found = _hash(part, kind)
    if found != expected:
        part.unlink()
        raise InputError(
            f"{download.url} gave another file than expected ({kind} {found}, not {expected}), "
            "which was removed: try again later, or get it by hand."
        )


def _hash(path: Path, kind: str) -> str:
    digest, size = hashlib.new(kind), path.stat().st_size
    with path.open("rb") as file, tqdm(**_BYTES, total=size, desc="checking the hash") as bar:
        while chunk := file.read(1 << 24):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def _unpack(archive: Path, into: Path, download: Download) -> None:
    """Unpacks beside the goal and moves last, so that what is there is whole."""
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".unpacking-") as folder:
        _extract(archive, Path(folder))
        if download.nested:
            nested = Path(folder) / download.nested
            _extract(nested, nested.parent)
            nested.unlink()
        for path in sorted(Path(folder).iterdir()):
            _move(path, into / path.name)


def _move(source: Path, target: Path) -> None:
    """Moves a tree into what may be there of it already, such as a split file's folder."""
    if not target.is_dir() or not source.is_dir():
        os.replace(source, target)
        return
    for path in sorted(source.iterdir()):
        _move(path, target / path.name)


def _extract(archive: Path, into: Path) -> None:
    """Both libraries keep members inside `into`; for tar that is what the filter is for."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for member in tqdm(file.infolist(), "unpacking", unit="file", disable=None):
                    file.extract(member, into)
        else:
            with tarfile.open(archive) as file:
                for member in tqdm(file, "unpacking", unit="file", disable=None):
                    file.extract(member, into, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{archive} cannot be unpacked ({str(error).rstrip('.')}): remove it and start again."
        ) from None
