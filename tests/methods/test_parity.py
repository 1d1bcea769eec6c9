"""The numbers of the official PyTorch code; the files in tests/data hold them."""

import functools

import numpy as np
import parity
import pytest
from conftest import ROOT
from parities import cocoop, coop, ivlp, linear_probe, maple, promptsrc, sotglp

DATA = ROOT / "tests" / "data"
GOLDENS = {
    "tiny": sotglp,
    "cocoop_dev": cocoop,
    "coop_dev": coop,
    "ivlp_dev": ivlp,
    "linear_probe_dev": linear_probe,
    "maple_dev": maple,
    "promptsrc_dev": promptsrc,
}
KEYS = [
    (name, key)
    for name, method in GOLDENS.items()
    for key in sorted(set(np.load(DATA / f"{name}.npz")) - {"case"} - method.INPUTS)
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
