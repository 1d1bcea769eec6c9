"""The numbers of the official PyTorch code; the files in tests/data hold them."""

import functools
import importlib

import numpy as np
import parity
import pytest
from conftest import ROOT

DATA = ROOT / "tests" / "data"
GOLDENS = {"tiny": "sotglp"}
GOLDENS |= {
    f"{name}_dev": name
    for name in (
        *("cocoop", "coop", "gallop", "ivlp", "linear_probe", "locoop", "lsn", "maple"),
        *("plot", "plotpp", "proda", "promptsrc"),
    )
}
# Long ones; what they share with the others, the towers' options, is compared there.
MINUTES = {f"{name}_dev" for name in ("gallop", "ivlp", "lsn", "plot", "plotpp", "proda")}


def keys(name: str) -> list[str]:
    """What of a golden is compared."""
    method = importlib.import_module(f"parities.{GOLDENS[name]}")
    return sorted(set(np.load(DATA / f"{name}.npz")) - {"case"} - method.INPUTS)


KEYS = [
    pytest.param(name, key, marks=[pytest.mark.slow] * (name in MINUTES))
    for name in GOLDENS
    for key in keys(name)
]


@functools.cache
def differences(name):
    return parity.differences(DATA / f"{name}.npz")


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_equals_the_official_code(name, key):
    absolute, relative = differences(name)[key]
    assert relative <= parity.TOLERANCE, (absolute, relative)


def test_topk_is_the_same_patches_in_the_same_order():
    found = differences("tiny")
    assert found["official/topk_indices"] == found["paper/topk_indices"] == (0.0, 0.0)


def test_a_difference_makes_the_program_fail(capsys):
    found = differences("tiny")
    assert not parity.print_table(found)
    assert parity.print_table(found | {"paper/phi": (1e-3, 1.1e-4)})
    assert parity.print_table(found | {"paper/phi": (np.nan, np.nan)})
    failed = [line for line in capsys.readouterr().out.splitlines() if line.endswith("FAIL")]
    assert len(failed) == 2 and all(line.startswith("paper/phi") for line in failed)
