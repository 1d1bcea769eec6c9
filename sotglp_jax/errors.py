"""The one exception for everything a user can mend, and how commands show it."""

import errno
import os
import sys
from collections.abc import Callable

from absl import app


class InputError(Exception):
    """Bad input: its message is one sentence that says what is wrong, where, and what to do."""


def run_command(main: Callable[[list[str]], None], **options) -> None:
    """`app.run` of a command: what its user can mend is a sentence, without a traceback.

    The exit code is 2 then, and 0 where help was asked for.
    """
    for stream in (sys.stdout, sys.stderr):  # file names may be in any encoding
        stream.reconfigure(errors="backslashreplace")
    try:
        app.run(main, **options)
    except SystemExit as ended:
        helped = {"-h", "--help", "--helpshort", "--helpfull"} & set(sys.argv[1:])
        sys.exit(0 if helped else ended.code)
    except BrokenPipeError:  # who read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains at its end
        sys.exit(141)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        said = mend(error)
        if not said:
            raise
        print(f"error: {said}", file=sys.stderr)
        sys.exit(2)


def mend(error: BaseException) -> str:
    """What a user can do about an error, in a sentence; "" where it is one of the program's."""
    if isinstance(error, InputError):
        return str(error)
    if _is_full(error):
        return (
            "the disk is full: make room on it; the last checkpoint that was saved whole is kept, "
            "and the same command goes on from there."
        )
    if isinstance(error, PermissionError) and error.filename:
        return (
            f"{os.fsdecode(error.filename)} may not be read or written ({error.strerror}): give "
            "yourself the right to, or choose another."
        )
    if type(error).__module__.partition(".")[0] in ("gcsfs", "aiohttp"):
        return (
            f"the bucket does not answer as it should ({error}): when it does again, the same "
            "command goes on from the last checkpoint."
        )
    if isinstance(error, AssertionError | RuntimeError) and (fault := _fault_of_devices()):
        return (
            f"JAX_PLATFORMS={os.environ['JAX_PLATFORMS']} names no device that JAX finds here"
            f"{fault}: install JAX for it, or leave the variable out."
        )
    return ""


def _fault_of_devices() -> str:
    """Why JAX finds none of the devices that it was told to use; "" where it does."""
    if "jax" not in sys.modules or not os.environ.get("JAX_PLATFORMS"):
        return ""
    try:
        sys.modules["jax"].devices()
    except (AssertionError, RuntimeError) as error:  # an empty assertion for cuda in jax 0.10
        return f" ({str(error).splitlines()[0]})" if str(error) else " at all"
    return ""


def _is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error; threads hand theirs on in others."""
    if error is None:
        return False
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = os.strerror(errno.ENOSPC) in str(error)
    return full or text or _is_full(error.__cause__ or error.__context__)
