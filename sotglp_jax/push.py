"""A finished run for others, on the hub: sotglp push RUN_FOLDER owner/name

What was learned, classes, threshold and results go into a repository, with a model card that shows
accuracies and pictures of maps. sotglp predict hf:owner/name takes it from there.
"""

import argparse

from absl import flags, logging

from sotglp_jax.errors import run_command
from sotglp_jax.paths import local


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="sotglp push", description=__doc__)
    parser.add_argument("run", metavar="RUN_FOLDER", type=local, help="folder of a finished run")
    parser.add_argument("repository", metavar="owner/name", help="made where there is none")
    parser.add_argument("--private", action="store_true", help="make it a private one")
    parser.add_argument("--no-maps", action="store_true", help="show none of the test images")
    parser.add_argument("--clip", metavar="NAME", default="", help="the run's CLIP on the hub")
    flags.FLAGS(argv[:1])
    return parser.parse_args(argv[1:])


def main(arguments: argparse.Namespace) -> None:
    """Pushes the run, and says what others see of it."""
    from sotglp_jax.evaluators import maps
    from sotglp_jax.reports import card
    from sotglp_jax.trained import finished, hub

    logging.set_verbosity(logging.WARNING)
    files = hub.contents(finished.load(arguments.run), arguments.clip)
    shown = None if arguments.no_maps else maps.load(arguments.run)
    files |= card.make(arguments.repository, files, shown)
    commit = hub.push(arguments.repository, files, arguments.private)
    print(f"hf:{arguments.repository}: {', '.join(name for name, x in files.items() if x)}")
    if shown:
        print(f"{card.MAPS} shows test images: --no-maps leaves it out")
    print(f"commit: {commit}")


if __name__ == "__main__":
    run_command(main, flags_parser=parse)
