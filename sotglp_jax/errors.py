"""The one exception for everything a user can mend, and how commands show it."""

import os
import sys
from collections.abc import Callable

from absl import app


class InputError(Exception):
    """Bad input: its message is one sentence that says what is wrong, where, and what to do."""


def run_command(main: Callable[[list[str]], None], **options) -> None:
    """`app.run` of a command whose `InputError`s are shown without a traceback, exit code 2."""
    try:
        app.run(main, **options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # who read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains at its end
        sys.exit(141)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
