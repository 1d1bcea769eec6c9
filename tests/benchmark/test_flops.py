"""Operations as they are counted in traced programs."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from sotglp_jax import clip
from sotglp_jax.benchmark import cases as benchmark
from sotglp_jax.benchmark.cases import SIZES, flops
from sotglp_jax.clip.packing import pack
from sotglp_jax.devices import sharding

HERE = Path(__file__).parent
SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)
ONE = 2 * 4**3  # operations of a product of two of them
EIGHT = AbstractMesh((8,), ("data",), (AxisType.Auto,))
# Two layers, of which the scan holds one, are what XLA counts right.
TWO = {"vision_layers": 2, "text_layers": 2, "vision_width": 256, "text_width": 256}
TWO |= {"vision_mlp": 1024, "text_mlp": 1024, "vision_heads": 4, "text_heads": 4, "embed_dim": 64}
SMALL = dataclasses.replace(SIZES["ViT-B/16"], **TWO)


def scanned(x):
    return jax.lax.scan(lambda carry, _: (carry @ carry, None), x, length=5)[0]


def dead(x):
    jax.jit(jnp.matmul)(x, x)
    return x @ x


def chosen(x):
    return jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y @ y, x)


def on_devices(x):
    own = jax.shard_map(lambda y: y @ y, in_specs=PartitionSpec(), out_specs=PartitionSpec())
    return own(x) + 0.0


def rematerialised(x):
    return jax.grad(lambda y: jax.checkpoint(lambda z: jnp.sin(z @ z).sum())(y))(x)


@pytest.mark.parametrize(
    ("function", "products"),
    [(scanned, 5), (dead, 1), (chosen, 2), (on_devices, 8), (rematerialised, 3)],
)
def test_a_product_counts_as_often_as_it_runs(function, products):
    with jax.sharding.use_abstract_mesh(EIGHT):
        assert flops.count(function, SQUARE) == products * ONE


def test_a_convolution_counts_its_kernel_for_every_output():
    images, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((4, 4, 3, 5))

    def patches(images, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            images, kernel, (4, 4), "VALID", dimension_numbers=numbers
        )

    assert flops.count(patches, images, kernel) == 2 * (2 * 2 * 2 * 5) * (4 * 4 * 3)


def tower(name: str, size: clip.Architecture):
    """A function of a tower and its arguments."""
    module = getattr(clip.build(size, "quick_gelu"), name)
    images, texts = jnp.zeros((1, 224, 224, 3)), jnp.zeros((1, 77, size.text_width))
    inputs = [images] if name == "vision" else [texts, jnp.zeros(1, int)]
    return module.apply, {"params": clip.shapes(size)[name]}, *inputs


@pytest.mark.parametrize("name", ["vision", "text"])
def test_the_count_agrees_with_xla_and_a_layer_with_plain_clips(name):
    function, *arguments = tower(name, SMALL)
    counted = flops.count(function, *arguments)
    program = jax.jit(function).lower(*arguments).compile()
    assert counted == pytest.approx(program.cost_analysis()["flops"], rel=0.04)
    deeper = dataclasses.replace(SMALL, vision_layers=3, text_layers=3)
    plain = getattr(flops, name)
    assert flops.count(*tower(name, deeper)) - counted == plain(deeper) - plain(SMALL)


def test_a_training_step_costs_what_the_docs_say():
    mesh = sharding.make_mesh(1)
    with jax.set_mesh(mesh):
        case = benchmark.Case("ViT-B/16", 10, 8, "float32", 1, 0)
        found = benchmark.operations(case, mesh)
    found = {part: [round(x / 1e9, 1) for x in both] for part, both in found.items()}
    assert found == {
        "images": [295.3, 281.0],
        "classes": [39.3, 476.8],
        "classes, backward": [39.8, 476.8],
        "all else": [6.4, 6.4],
        "step": [380.8, 1240.9],
    }


def test_eight_devices_encode_every_class_once():
    towers, shapes = clip.build(SMALL, "quick_gelu"), clip.shapes(SMALL)
    tokens = benchmark.Words(SMALL)([f"{'word ' * (i % 6)}{i}" for i in range(96)])

    def counted(devices: int) -> int:
        def length(own, names):
            return jnp.square(towers.texts(shapes_of_weights, names, own=own)).sum()

        own = jax.ShapeDtypeStruct((96, 4, 4, SMALL.text_width), jnp.float32)
        shapes_of_weights = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        with jax.sharding.use_abstract_mesh(EIGHT):
            return flops.count(jax.grad(length), own, pack(tokens, devices=devices))

    assert 1 <= counted(8) / counted(1) <= 1.05


@pytest.mark.slow
def test_a_device_has_a_fair_share():
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    env["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, str(HERE / "share.py")]
    found = json.loads(subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True).stdout)
    assert found["step"] <= 1.05 and 1 <= found["text"] <= 1.05 and found["classes"] == 96
