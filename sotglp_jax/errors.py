"""The one exception for everything a user can mend."""


class InputError(Exception):
    """Bad input: its message is one sentence that says what is wrong, where, and what to do.

    `main` prints it without a traceback and exits with code 2.
    """
