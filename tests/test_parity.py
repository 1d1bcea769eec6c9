"""The numbers of the official PyTorch code; tests/data/tiny.npz holds them."""

from pathlib import Path

import numpy as np
import parity
import pytest

GOLDEN = Path(__file__).parent / "data" / "tiny.npz"


@pytest.fixture(scope="module")
def differences():
    return parity.differences(GOLDEN)


@pytest.mark.parametrize("key", sorted(set(np.load(GOLDEN)) - {"case", "tokens"}))
def test_equals_the_official_code(differences, key):
    absolute, relative = differences[key]
    assert relative <= parity.TOLERANCE, (absolute, relative)


def test_topk_is_the_same_patches_in_the_same_order(differences):
    assert differences["official/topk_indices"] == (0.0, 0.0)
    assert differences["paper/topk_indices"] == (0.0, 0.0)


def test_a_difference_makes_the_program_fail(differences, capsys):
    assert not parity.print_table(differences)
    assert parity.print_table(differences | {"paper/phi": (1e-3, 1.1e-4)})
    assert parity.print_table(differences | {"paper/phi": (np.nan, np.nan)})
    failed = [line for line in capsys.readouterr().out.splitlines() if line.endswith("FAIL")]
    assert len(failed) == 2 and all(line.startswith("paper/phi") for line in failed)
