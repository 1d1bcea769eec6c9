"""Run by test_flops.py with eight devices: what one of them computes, beside one alone.

Prints as JSON "step": the operations of a device of eight, times eight, by those of one alone;
"text": the same of the text tower as the benchmark counts it; "classes": the classes whose prompts
got a gradient there.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp

from sotglp_jax.benchmark import cases as benchmark
from sotglp_jax.devices import sharding

# Two layers, of which the scan holds one, are what XLA counts right.
TWO = {"vision_layers": 2, "text_layers": 2, "vision_width": 128, "text_width": 128}
TWO |= {"vision_mlp": 512, "text_mlp": 512, "vision_heads": 2, "text_heads": 2, "embed_dim": 64}
CLASSES, DEVICES = 96, 8


def on(devices: int) -> tuple[float, benchmark.Work]:
    """A device's operations in a training step as XLA counts them, and the text tower's work."""
    mesh = sharding.make_mesh(devices)
    case = benchmark.Case("small", CLASSES, 16, "float32", devices, CLASSES)
    with jax.set_mesh(mesh):
        given = benchmark.inputs(case, mesh, benchmark.shapes_of)
        arguments = given.state, given.frozen, given.names, given.batch
        step = benchmark.compiled(benchmark.step_of(case, mesh), *arguments)
        return step.run.cost_analysis()["flops"], benchmark.text(case, mesh)


if __name__ == "__main__":
    size = dataclasses.replace(benchmark.SIZES["ViT-B/16"], image_tokens=17, **TWO)
    benchmark.SIZES["small"] = dataclasses.replace(size, vocab_size=512)
    (alone, text), (shared, texts) = on(1), on(DEVICES)
    with jax.set_mesh(sharding.make_mesh(DEVICES)):
        _, gradient = texts.run()
    reached = jnp.abs(gradient["local_prompts"]).max((1, 2, 3)) > 0
    found = {"step": DEVICES * shared / alone, "text": texts.flops / text.flops}
    print(json.dumps(found | {"classes": int(reached.sum())}))
