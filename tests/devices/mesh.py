"""Run by test_sharding.py in a process of its own: eight devices against one.

    python tests/devices/mesh.py CLIP CASE...

Prints {case: {"loss": ..., "value": ..., "gradients": ..., "largest": ..., "program": [...]}} as
JSON: the largest differences from one device in loss and gradients, that loss, the largest
gradient, and the lines of the compiled step that devices exchange something at.
"""

import json
import sys

import jax
import numpy as np
import steps

from sotglp_jax import clip, methods

NAMES = ["cat", "dog", "annual crop land", "tree", "sea", *(f"bird {i}" for i in range(20))]
TEXT, VISION = {"text_depth": 2}, {"vision_depth": 3}
# By method, or a method and a stage, and options.
METHODS = {
    "sotglp": {"n_local": 2, "topk": 5, "local_init": "random"},
    "coop": {"n_ctx": 4, "class_specific": True, "position": "middle"},
    "coop shared": {"n_ctx": 4},
    "promptsrc": TEXT | VISION,
    "cocoop": {"ctx_init": ""},
    "gallop": {},
    "ivlp": TEXT | VISION,
    "language": TEXT,
    "locoop": {"n_ctx": 4},
    "lsn": {"n_ctx": 4, "n_ctx_negative": 4},
    "lsn 2": {"n_ctx": 4, "n_ctx_negative": 4, "objective": "paper"},
    "lsn_cocoop": {"ctx_init": "", "n_ctx_negative": 4},
    "maple": {"depth": 2},
    "plot": {"n_ctx": 4},
    "plotpp": {},
    "plotpp 2": {},
    "proda": {"n_prompts": 4, "n_ctx": 4},
    "vpt": VISION,
}
EXCHANGES = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")


def run(loaded: clip.Clip, name: str, classes: int, images: int, chunk: int) -> dict:
    """The differences of a case."""
    title, _, stage = name.partition(" ")
    method = methods.load(title)(loaded.towers(), **METHODS[name])
    rng, index = np.random.default_rng(0), int(stage == "2")
    batch = {
        "image": rng.integers(0, 256, (images, 32, 32, 3), np.uint8),
        "label": (np.arange(images) % classes).astype(np.int32),
    }
    one, eight = (
        steps.take(method, loaded, NAMES[:classes], batch, devices, chunk=chunk, index=index)
        for devices in (1, 8)
    )
    apart = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), one.after, eight.after)
    return {
        "loss": float(abs(one.metrics["loss"] - eight.metrics["loss"])),
        "value": float(abs(one.metrics["loss"])),
        "gradients": max(jax.tree.leaves(apart)),
        "largest": max(
            float(np.abs(one.after[name] - one.before[name]).max()) for name in one.before
        ),
        "program": exchanges(eight.compiled.as_text()),
    }


def exchanges(program: str) -> list[str]:
    """The lines of a program at which devices exchange something."""
    kinds = [f" {kind}{start}(" for kind in EXCHANGES for start in ("", "-start")]
    return [x.strip() for x in program.splitlines() if any(kind in x for kind in kinds)]


def main(folder: str, cases: list[str]) -> None:
    """Prints what was found; a case is METHOD-CLASSES-IMAGES-CHUNK."""
    loaded, found = clip.load(folder), {}
    for case in cases:
        name, *sizes = case.split("-")
        found[case] = run(loaded, name, *map(int, sizes))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
