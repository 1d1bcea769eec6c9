"""Files and folders that users name."""

import os
import re
from pathlib import Path

from sotglp_jax.errors import InputError

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|(gs|s3|hf|https?):", re.IGNORECASE)


def local(given: str | os.PathLike, key: str = "") -> Path:
    """The path of a file or folder, with ~ as the home folder.

    Args:
      given: what the user wrote.
      key: of the option that it is the value of, for the message; "" where it has none.

    Raises:
      InputError: it is an address, of a bucket, a hub or a server.
    """
    if _ADDRESS.match(os.fspath(given)):
        raise InputError(
            f"{key}{'=' * bool(key)}{given} is an address, and only files and folders of this "
            "machine can be used: copy or mount it, and give its path."
        )
    return Path(given).expanduser()
