"""A trained classifier as one file: python -m sotglp_jax.export RUN_FOLDER --out FILE

Beside FILE comes FILE.json: class names, pre-processing, threshold. numpy and jax run it, or with
--format=onnx any runtime of ONNX.
"""

import argparse

from absl import flags, logging

from sotglp_jax.errors import run_command
from sotglp_jax.paths import place, trained


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m sotglp_jax.export", description=__doc__)
    run = "folder of a finished run, or hf:owner/name"
    parser.add_argument("run", metavar="RUN_FOLDER", type=trained, help=run)
    parser.add_argument("--out", metavar="FILE", type=place, required=True, help="file to write")
    parser.add_argument(
        "--format",
        choices=("stablehlo", "onnx"),
        default="stablehlo",
        help="onnx for phones and browsers; with jax alone runs stablehlo [%(default)s]",
    )
    parser.add_argument(
        "--precision", choices=("bf16", "float32"), default="", help="of products [as the run]"
    )
    flags.FLAGS(argv[:1])
    return parser.parse_args(argv[1:])


def main(arguments: argparse.Namespace) -> None:
    """Writes the export."""
    from sotglp_jax.devices import programs
    from sotglp_jax.trained import exported, hub

    logging.set_verbosity(logging.WARNING)
    programs.keep()
    run = hub.locate(arguments.run)
    out = arguments.out
    size = exported.write(run, out, arguments.precision, arguments.format)
    print(f"export: {out} ({size / 1e6:.0f} MB), {out}.json")


if __name__ == "__main__":
    run_command(main, flags_parser=parse)
