"""Run by test_sharding.py in a process of its own: every shape of eight devices against one.

Prints {shape: {"loss": ..., "gradients": ..., "all-gather": ..., "all-reduce": ...}} as JSON:
largest differences from one device, and collectives of the compiled step.
"""

import json
import sys
from pathlib import Path

import clips
import jax
import numpy as np

from sotglp_jax import clip, sharding
from sotglp_jax.methods.sotglp import SotGlp
from sotglp_jax.state import first_state, sgd
from sotglp_jax.train import jit_step

NAMES = ["cat", "dog", "annual crop land", "tree", "sea"]  # no axis divides 5
OPTIMIZER = sgd(1.0, 0.0, 0.0)  # so that a step is the gradient


def step(loaded, shape: str, batch: dict) -> tuple[dict, dict, str]:
    """Trainable tree and metrics after a step on this mesh, and its compiled program."""
    mesh = sharding.make_mesh(shape)
    method = SotGlp(loaded.towers(), (5, 6, 7, 8), n_local=2, topk=5, local_init="random")
    state = first_state(method, OPTIMIZER, loaded.params, len(NAMES), seed=0)
    frozen = jax.device_put(loaded.params, sharding.replicated(mesh))
    classes = sharding.put_classes(loaded.tokenizer(NAMES, room=4), mesh, chunk=0)
    state = sharding.spread_classes(state, method.per_class, classes, mesh)
    batch = sharding.put_batch(batch, mesh)
    program = jit_step(mesh, method, OPTIMIZER).lower(state, frozen, classes, batch)
    program = program.compile()
    state, metrics = program(state, frozen, classes, batch)
    state = sharding.collect_classes(state, method.per_class, classes)
    return jax.device_get(state["trainable"]), jax.device_get(metrics), program.as_text()


def main(folder: str) -> None:
    """Prints the differences."""
    loaded = clip.load(str(clips.write(Path(folder) / "clip")))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, 32, 32, 3), np.uint8),
        "label": (np.arange(8) % len(NAMES)).astype(np.int32),
        "mask": np.ones(8, bool),
    }
    one, metrics, _ = step(loaded, "1x1", batch)
    found = {}
    for shape in ("8x1", "4x2", "2x4", "1x8"):
        ours, theirs, program = step(loaded, shape, batch)
        differences = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), ours, one)
        found[shape] = {
            "loss": float(abs(theirs["loss"] - metrics["loss"])),
            "gradients": max(jax.tree.leaves(differences)),
        } | {
            kind: program.count(f" {kind}(") + program.count(f" {kind}-start(")
            for kind in ("all-gather", "all-reduce", "reduce-scatter", "collective-permute")
        }
        print(shape, found[shape], file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
