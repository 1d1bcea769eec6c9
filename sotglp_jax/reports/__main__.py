"""Tables and figures of finished runs: python -m sotglp_jax.reports RUNS_FOLDER --out=DIR"""

import argparse
import sys

from absl import flags

from sotglp_jax.errors import run_command
from sotglp_jax.paths import place


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m sotglp_jax.reports", description=__doc__)
    parser.add_argument("runs", metavar="RUNS_FOLDER", type=place, help="folder above the runs")
    parser.add_argument("--out", metavar="DIR", type=place, required=True, help="for the report")
    parser.add_argument("--classes", metavar="NAME", nargs="+", default=(), help="of Figure 2")
    flags.FLAGS(argv[:1])
    return parser.parse_args(argv[1:])


def main(arguments: argparse.Namespace) -> None:
    """Writes the report."""
    from sotglp_jax.reports import report

    out = arguments.out
    for warning in report.write(arguments.runs, out, arguments.classes):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"report: {out / 'report.html'}")


if __name__ == "__main__":
    run_command(main, flags_parser=parse)
