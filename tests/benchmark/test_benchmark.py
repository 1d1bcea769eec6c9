"""The benchmark takes every method by the contract."""

import dataclasses

import jax
import numpy as np
import pytest

from sotglp_jax.benchmark import cases as benchmark
from sotglp_jax.configs import common
from sotglp_jax.devices import sharding
from sotglp_jax.errors import InputError

# Two layers, of which the scan holds one, are what XLA counts right.
TWO = {"vision_layers": 2, "text_layers": 2, "vision_width": 128, "text_width": 128}
TWO |= {"vision_mlp": 512, "text_mlp": 512, "vision_heads": 2, "text_heads": 2, "embed_dim": 32}
TEXT, VISION = {"text_depth": 2}, {"vision_depth": 2}
OPTIONS = {"maple": {"depth": 2}, "ivlp": TEXT | VISION, "promptsrc": TEXT | VISION}
OPTIONS |= {"language": TEXT, "vpt": VISION}
OPTIONS["proda"] = {"n_prompts": 4}  # one update a step, or they are in a scan
MAKE = common.make
IMAGES, CLASSES = ("images",), ("classes", "classes, backward")
PROMPTED = (*IMAGES, "images, backward")
QUICK = {"cocoop": (*IMAGES, *CLASSES), "vpt": PROMPTED, "plotpp 2": (*PROMPTED, *CLASSES)}
SLOW = dict.fromkeys(("sotglp", "coop", "gallop", "language", "locoop"), QUICK["cocoop"])
SLOW |= dict.fromkeys(("lsn", "lsn 2", "lsn_cocoop", "lsn_cocoop 2"), QUICK["cocoop"])
SLOW |= dict.fromkeys(("plot", "proda"), QUICK["cocoop"]) | {"plotpp": PROMPTED}
SLOW |= dict.fromkeys(("ivlp", "maple", "promptsrc"), QUICK["plotpp 2"])


def case(monkeypatch, method: str, **changes) -> benchmark.Case:
    """A small one, of a method or of one of its stages."""
    name, _, stage = method.partition(" ")
    size = dataclasses.replace(benchmark.SIZES["ViT-B/16"], image_tokens=17, vocab_size=512, **TWO)
    monkeypatch.setitem(benchmark.SIZES, "small", size)

    def make(**chosen):
        config = MAKE(**chosen)
        config.method.update(OPTIONS.get(chosen["method"], {}))
        return config

    monkeypatch.setattr(common, "make", make)
    found = benchmark.Case("small", 5, 3, "float32", 1, 0, name, stage=int(stage or 1))
    return dataclasses.replace(found, **changes)


@pytest.mark.parametrize(
    ("method", "parts"),
    [*QUICK.items(), *(pytest.param(*x, marks=pytest.mark.slow) for x in SLOW.items())],
)
def test_the_parts_of_a_step_add_up_to_what_xla_counts(monkeypatch, method, parts):
    mesh, small = sharding.make_mesh(1), case(monkeypatch, method)
    with jax.set_mesh(mesh):
        found = benchmark.operations(small, mesh)
        given = benchmark.inputs(small, mesh, benchmark.shapes_of)
        arguments = given.state, given.frozen, given.names, given.batch
        program = benchmark.step_of(small, mesh).lower(*arguments)
    assert tuple(found) == (*parts, "all else", "step")
    *rows, step = found.values()
    assert all(here >= 0 for here, _ in rows) and sum(here for here, _ in rows) == step[0]
    assert all(found[part][0] < found[part][1] for part in parts if part in CLASSES)
    assert step[0] == pytest.approx(program.cost_analysis()["flops"], rel=0.05)


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
    with pytest.raises(InputError, match="--stage=2 is none of CoOp, whose training has 1"):
        benchmark.check("train", case(monkeypatch, "coop", stage=2))
