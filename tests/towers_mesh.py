"""Run by test_towers.py in a process of its own: several devices against one.

Prints the largest difference of features and gradients from one device's as JSON.
"""

import dataclasses
import json
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from test_towers import NAMES, contexts, features_and_gradients, tokenize

from sotglp_jax import clip
from sotglp_jax.clip.packing import pack


def difference(loaded, given: dict, devices: int, chunk: int = 0, **options) -> float:
    """The largest relative one between this many devices and one."""
    tokens = tokenize(loaded, NAMES)
    one = features_and_gradients(loaded, pack(tokens), given, **options)
    axis_types = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("data",), axis_types, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        classes = pack(tokens, devices=devices, chunk=chunk)
        whole = NamedSharding(mesh, PartitionSpec())
        given, params = jax.device_put((given, loaded.params), whole)
        loaded = dataclasses.replace(loaded, params=params)
        several = features_and_gradients(loaded, classes, given, **options)
    gaps = jax.tree.map(relative, jax.device_get(one), jax.device_get(several))
    return max(jax.tree.leaves(gaps))


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference as a share of the largest value."""
    return float(np.abs(a - b).max() / np.abs(a).max())


def main(folder: str) -> None:
    """Prints the differences."""
    loaded = clip.load(folder)
    given = contexts(loaded, len(NAMES))
    deep = {"shared": given["shared"][:1], "deep": given["shared"][1:]}
    found = {
        "contexts": difference(loaded, given, 8, before=1),
        "passes": difference(loaded, given, 2, chunk=2),
        "deep": difference(loaded, deep, 8),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
