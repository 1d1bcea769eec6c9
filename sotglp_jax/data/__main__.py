"""Data sets on disk: python -m sotglp_jax.data check|fetch|prepare NAME --root DIR"""

import argparse
import os
import sys
from typing import NoReturn

from absl import flags

from sotglp_jax.data import catalog, check, datasets, fetch, loader, records, survey
from sotglp_jax.errors import InputError, run_command
from sotglp_jax.paths import local


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m sotglp_jax.data", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for function, names, help_ in (
        (
            run_check,
            "NAME, all, folder or split file",
            "what is there, and what to do next; decodes every image",
        ),
        (run_fetch, "NAME or all", "download what may be downloaded"),
        (run_prepare, "NAME, folder or split file", "write array_record shards"),
    ):
        command = commands.add_parser(function.__name__.removeprefix("run_"), help=help_)
        command.add_argument("name", metavar="NAME", help=names)
        command.add_argument("--root", default="", help="where the data sets lie [data]")
        command.set_defaults(function=function)
        if function is run_check:
            _add_survey(command)
        if function is run_prepare:
            command.add_argument("--out", default="", help="where the shards go [the root]")
    flags.FLAGS(argv[:1])
    return parser.parse_args(argv[1:])


def _add_survey(command: argparse.ArgumentParser) -> None:
    own = command.add_argument_group("of a folder or split file")
    own.add_argument("--shots", type=int, default=16, help="images a class to draw [16]")
    own.add_argument("--seed", type=int, default=1, help="of the draw [1]")
    own.add_argument("--names", default="", help="file that names classes [classes.json in it]")
    own.add_argument("--out", metavar="DIR", help="for contact sheets and the list of the shots")


def run_check(arguments: argparse.Namespace) -> None:
    """Reports on data sets; exit code 1 where one is not whole."""
    if arguments.name not in ("all", *catalog.ENTRIES) and local(arguments.name).exists():
        _survey(arguments)
    root = local(arguments.root or "data", "--root")
    whole = [check.check(name, root) for name in _names(arguments.name)]
    if len(whole) > 1:
        print(f"{sum(whole)} of {len(whole)} data sets are ready below {root.absolute()}")
    sys.exit(0 if all(whole) else 1)


def _survey(arguments: argparse.Namespace) -> NoReturn:
    if arguments.shots < 1:
        raise InputError(f"--shots={arguments.shots} draws nothing: set 1 or more.")
    out = local(arguments.out, "--out") if arguments.out else None
    chosen = arguments.names, arguments.shots, arguments.seed, out
    sys.exit(0 if survey.survey(arguments.name, arguments.root, *chosen) else 1)


def run_fetch(arguments: argparse.Namespace) -> None:
    """Fetches data sets, and says what is left to do."""
    root = local(arguments.root or "data", "--root")
    for name in _names(arguments.name):
        listed, folder = datasets.locate(name, root)
        if listed:
            print(f"{name}: {folder} is there already")
            continue
        entry = catalog.ENTRIES[name]
        fetch.fetch(name, entry, root)
        for step in check.by_hand(entry, root):
            print(f"{name}: {step}")


def run_prepare(arguments: argparse.Namespace) -> None:
    """Writes a data set as shards of TensorFlow Datasets."""
    out = local(arguments.out or arguments.root or "data", "--out")
    dataset = datasets.resolve(arguments.name, arguments.root)
    if dataset.sentences:
        raise InputError(
            f"{dataset.name} has several sentences of a class, which shards do not hold: take them "
            "out of its classes.json, and name the file with --config.data.names in training."
        )
    loader.check_images(list(dataset.parts.values()))
    print(f"{dataset.name}: {records.prepare(dataset, str(out))}")
    if arguments.name in catalog.ENTRIES:
        print(f"next: dataset={arguments.name} with --config.data.root={out}")
    else:
        print(f"next: dataset=tfds:{records.slug(dataset.name)} with --config.data.root={out}")


def _names(name: str) -> list[str]:
    if name == "all":
        return list(catalog.ENTRIES)
    if name not in catalog.ENTRIES:
        raise InputError(
            f'"{name}" is not in the catalogue, whose names are all, {", ".join(catalog.ENTRIES)}, '
            "and no folder or split file that `check` could look at."
        )
    return [name]


if __name__ == "__main__":
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    run_command(lambda arguments: arguments.function(arguments), flags_parser=parse)
