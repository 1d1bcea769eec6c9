"""The benchmark takes every method by the contract."""

import dataclasses

import jax
import numpy as np
import pytest

from sotglp_jax.benchmark import cases as benchmark
from sotglp_jax.devices import sharding
from sotglp_jax.errors import InputError

TWO = {"vision_layers": 2, "text_layers": 2, "vision_width": 64, "text_width": 64}
TWO |= {"vision_mlp": 256, "text_mlp": 256, "vision_heads": 1, "text_heads": 1, "embed_dim": 32}
LEARNING = ("sotglp", "coop", "gallop", "maple", "plot", "promptsrc")


def case(monkeypatch, method: str, **changes) -> benchmark.Case:
    """A small one."""
    size = dataclasses.replace(benchmark.SIZES["ViT-B/16"], image_tokens=17, vocab_size=512, **TWO)
    monkeypatch.setitem(benchmark.SIZES, "small", size)
    depths = {"promptsrc": 9, "maple": 9}  # of its recipe, in layers
    if method in depths:
        deep = dataclasses.replace(size, vision_layers=9, text_layers=9)
        monkeypatch.setitem(benchmark.SIZES, "small", deep)
    found = benchmark.Case("small", 5, 3, "float32", 1, 0, method)
    return dataclasses.replace(found, **changes)


@pytest.mark.parametrize("method", LEARNING)
def test_the_parts_of_a_step_add_up(monkeypatch, method):
    mesh = sharding.make_mesh(1)
    with jax.set_mesh(mesh):
        found = benchmark.operations(case(monkeypatch, method), mesh)
    *parts, step = found.values()
    assert all(here > 0 for here, _ in parts) and sum(here for here, _ in parts) == step[0]
    assert found["classes"][0] < found["classes"][1]


@pytest.mark.parametrize(
    ("what", "method", "cached"),
    [("train", "coop", True), ("eval", "zeroshot", False), ("transport", "sotglp", False)],
)
def test_every_work_can_be_repeated(monkeypatch, what, method, cached):
    mesh = sharding.make_mesh(1)
    with jax.set_mesh(mesh):
        work = benchmark.MEASURED[what](case(monkeypatch, method, cached=cached), mesh)
        for _ in range(2):
            found = jax.tree.leaves(work.run())
    assert all(np.isfinite(x).all() for x in found)
    assert (work.flops > 0) == (what != "transport")


def test_what_a_method_lacks_is_refused(monkeypatch):
    with pytest.raises(InputError, match="not trained in steps: --what=eval"):
        benchmark.check("train", case(monkeypatch, "zeroshot"))
    with pytest.raises(InputError, match="leave out --cached"):
        benchmark.check("train", case(monkeypatch, "promptsrc", cached=True))
    with pytest.raises(InputError, match="CoOp has no transport plan"):
        benchmark.transport(case(monkeypatch, "coop"), sharding.make_mesh(1))
