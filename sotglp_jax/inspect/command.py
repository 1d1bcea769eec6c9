"""What the prompts of a finished run learned: python -m sotglp_jax.inspect WORKDIR

Prints the parameters by group, the nearest words of the context vectors, how alike a class's local
prompts are, and which classes are taken for which.
"""

import argparse

from absl import flags, logging

from sotglp_jax.errors import InputError
from sotglp_jax.paths import local, place


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m sotglp_jax.inspect", description=__doc__)
    parser.add_argument("folder", metavar="WORKDIR", type=place, help="a finished run's folder")
    parser.add_argument("--out", metavar="PICTURE", type=local, help="for a picture, .png or .pdf")
    flags.FLAGS(argv[:1])
    return parser.parse_args(argv[1:])


def main(arguments: argparse.Namespace) -> None:
    """Prints what was learned, and draws some of it."""
    from sotglp_jax.devices import programs
    from sotglp_jax.evaluators import classification
    from sotglp_jax.inspect import heatmaps, insights, learned
    from sotglp_jax.trained import finished

    if arguments.out and arguments.out.suffix not in (".png", ".pdf"):
        raise InputError(f"--out={arguments.out} must end in .png or .pdf.")
    logging.set_verbosity(logging.WARNING)
    programs.keep()
    folder, out = arguments.folder, arguments.out
    found = finished.load(folder)
    method, names = found.run.method, found.run.dataset.class_names
    if not method.learns:
        raise InputError(f"{folder} is a run of zero-shot CLIP, which learned nothing.")
    counts = classification.confusion(classification.load(folder), len(names))
    alike = learned.similarities(found)
    trees, contexts = (found.params, found.run.frozen), method.contexts(found.params)
    tokenizer = found.run.clip.tokenizer
    print("\n".join(insights.lines(names, *trees, tokenizer, contexts, alike, counts)))
    if out:
        try:
            heatmaps.draw(alike, counts, names).savefig(out, dpi=150)
        except OSError as error:
            raise InputError(
                f"{out} cannot be written ({error.strerror}): choose another --out."
            ) from None
        print(f"picture: {out}")
