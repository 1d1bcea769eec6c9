"""What is known of memory before a step runs."""

import jax
import numpy as np
import pytest

from sotglp_jax import clip
from sotglp_jax.benchmark import cases as benchmark
from sotglp_jax.devices import memory
from sotglp_jax.errors import InputError
from sotglp_jax.methods.sotglp import SotGlp


def test_a_step_that_does_not_fit_names_the_knobs(monkeypatch):
    program = jax.jit(lambda x: x @ x).lower(np.ones((500, 500), np.float32)).compile()
    assert memory.needed(program) >= 2 * 500 * 500 * 4
    assert "needs 0.00 of" in memory.describe(program)
    monkeypatch.setattr(memory, "limit", lambda: 1_000_000)
    with pytest.raises(InputError, match=r"text\.chunk.*mesh.*precision=bf16"):
        memory.describe(program)


def test_less_memory_takes_more_passes(monkeypatch):
    method = SotGlp(clip.build(benchmark.SIZES["ViT-B/16"], "quick_gelu"))
    found = []
    for gigabytes in (100, 25, 5):
        monkeypatch.setattr(memory, "limit", lambda gb=gigabytes: gb * 10**9)
        found.append(memory.classes_per_pass(method, length=7, classes=1000))
    assert found[0] == 1000 and found[1] == 500 and 50 < found[2] < 250
    assert memory.classes_per_pass(method, length=7, classes=1000, devices=4) == 125
