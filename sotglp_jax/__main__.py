"""One command for all: sotglp COMMAND ..., or python -m sotglp_jax COMMAND ...

  sotglp train                    trains on 160 handwritten digits, offline
  sotglp train dataset=/path/to/photos clip=ViT-B/16 method=coop train.lr=0.01
  sotglp train --config=configs/shots.py dataset=eurosat --config.data.root=data
  sotglp train --from RUN_FOLDER dataset=/path/to/photos-of-more-classes clip=ViT-B/16
  sotglp predict RUN_FOLDER picture.jpg

Settings of train and eval are KEY=VALUE, those with a dot for --config.KEY=VALUE and the others
behind the config file, configs/fewshot.py unless --config names another. COMMAND --help says more.
"""

import difflib
import os
import runpy
import sys
from collections.abc import Sequence

from sotglp_jax import __version__
from sotglp_jax.errors import InputError

# Modules, which python -m runs as well, and what they do.
COMMANDS = {
    "train": ("main", "train and evaluate, or go on with what was interrupted"),
    "eval": ("main", "evaluate what was trained"),
    "predict": ("predict", "classify pictures"),
    "serve": ("serve", "answer with it on a page and to programs"),
    "export": ("export", "write one file that jax alone runs, or ONNX"),
    "push": ("push", "put a run on the hub"),
    "inspect": ("inspect", "show what prompts learned"),
    "report": ("reports", "make tables and figures of runs"),
    "exchange": ("exchange", "take prompts from and to PyTorch"),
    "data": ("data", "check, fetch or prepare data sets"),
    "benchmark": ("benchmark", "time steps, count operations and memory"),
    "sweep": ("sweep", "run studies, several runs at a time"),
    "doctor": ("doctor", "say what is installed, what is wrong, and what to do"),
}


def main() -> None:
    """Runs the command that the command line names; exit code 2 where there is none."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        listed = [f"  {command:<10} {does}" for command, (_, does) in COMMANDS.items()]
        print(__doc__, *listed, sep="\n")
    elif name == "--version":
        print(__version__)
    else:
        try:
            module, flags = expand(name, words)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        sys.path.append(os.getcwd())  # a method of one's own may lie here, as for python -m
        sys.argv = [name, *flags]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def expand(name: str, words: Sequence[str]) -> tuple[str, list[str]]:
    """Returns a command's module, and its flags in their long form.

    Args:
      name: of the command.
      words: what stands behind it.

    Raises:
      InputError: there is no such command, or a setting has no value.
    """
    if name not in COMMANDS:
        (near,) = difflib.get_close_matches(name, COMMANDS, 1, cutoff=0)
        raise InputError(
            f'"{name}" is no command: the nearest is {near}, and all are {", ".join(COMMANDS)}.'
        )
    module = f"sotglp_jax.{COMMANDS[name][0]}"
    if module != "sotglp_jax.main":
        return module, list(words)
    mode = ["--mode=eval"] if name == "eval" else []
    return module, [*mode, *_long(name, words)]


def _long(name: str, words: Sequence[str]) -> list[str]:
    """The main command's flags."""
    words = _with_start(words)
    flags = [word for word in words if word.startswith("-")]
    settings = [word for word in words if not word.startswith("-")]
    for word in settings:
        if "=" not in word:
            raise InputError(f'"{word}" is neither KEY=VALUE nor a flag, which {name} takes.')
    named = [word for word in settings if _chosen_by_name(word.partition("=")[0])]
    flags += [f"--config.{word}" for word in settings if word not in named]
    configs = [flag for flag in flags if flag.startswith("--config=")]
    *_, config = ["--config=configs/fewshot.py", *configs]
    arg = ",".join(word.replace(",", ",,") for word in named)
    colon = ("," if ":" in config else ":") if arg else ""
    return [f"{config}{colon}{arg}", *(flag for flag in flags if flag not in configs)]


def _with_start(words: Sequence[str]) -> list[str]:
    """The words, --from RUN_FOLDER among them as the setting that it stands for."""
    found, left = [], iter(words)
    for word in left:
        flag, _, folder = word.partition("=")
        if flag == "--from":
            folder = folder or next(left, "")
            if not folder:
                raise InputError("--from has no run folder behind it: write --from RUN_FOLDER.")
            word = f"train.init_from={folder}"
        found.append(word)
    return found


def _chosen_by_name(key: str) -> bool:
    """Whether a key stands behind the config file; what is unknown is refused there."""
    if "." in key:
        return False
    from sotglp_jax.configs import common

    return key in common.KEYS or key not in common.defaults()


if __name__ == "__main__":
    main()
