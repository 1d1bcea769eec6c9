"""Compares this package with the numbers of the methods' official code.

    python tests/parity.py FILE...

Each FILE is a .npz of golden numbers for a CLIP of random weights; its case names the method,
SOT-GLP where it names none. Prints the largest absolute and relative difference of every key and
exits with 1 if one exceeds the tolerance, 1e-4 of the key's largest absolute value.
"""

import importlib
import json
import sys
from pathlib import Path

import jax
import numpy as np

TOLERANCE = 1e-4


def differences(path: Path) -> dict[str, tuple[float, float]]:
    """Largest absolute and relative difference of every key of a golden file."""
    golden = np.load(path, allow_pickle=False)
    case = json.loads(str(golden["case"]))
    method = importlib.import_module(f"parities.{case.get('method', 'sotglp')}")
    with jax.default_matmul_precision("highest"):
        ours = method.compute(case, golden)
    compared = set(golden) - {"case"} - method.INPUTS
    unknown = compared - set(ours)
    assert not unknown, f"{path} holds keys that nothing here computes: {sorted(unknown)}"
    result = {}
    for key in sorted(compared):
        assert ours[key].shape == golden[key].shape, (key, ours[key].shape, golden[key].shape)
        absolute = float(np.abs(ours[key] - golden[key]).max())
        result[key] = absolute, absolute / (float(np.abs(golden[key]).max()) or 1.0)
    return result


def print_table(differences: dict[str, tuple[float, float]]) -> bool:
    """Prints a row a key; True if one exceeds the tolerance."""
    print(f"{'key':<34}{'absolute':>12}{'relative':>12}")
    failed = False
    for key, (absolute, relative) in differences.items():
        exceeds = not relative <= TOLERANCE
        failed |= exceeds
        print(f"{key:<34}{absolute:>12.2e}{relative:>12.2e}{'  FAIL' if exceeds else ''}")
    return failed


def main(paths: list[str]) -> int:
    """Prints the table of each file; 1 if a key exceeds the tolerance."""
    failed = False
    for path in paths:
        print(path)
        failed |= print_table(differences(Path(path)))
    return int(failed)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
