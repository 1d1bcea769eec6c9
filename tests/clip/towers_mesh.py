"""Run by test_towers.py in a process of its own: several devices against one.

Prints, for each number of devices, the largest relative difference of features and gradients.
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


def on_devices(loaded, given: dict, devices: int, chunk: int):
    """Features and gradients with the names divided over this many devices."""
    axis_types = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("data",), axis_types, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        whole = NamedSharding(mesh, PartitionSpec())
        given, params = jax.device_put((given, loaded.params), whole)
        classes = pack(tokenize(loaded, NAMES), devices=devices, chunk=chunk)
        loaded = dataclasses.replace(loaded, params=params)
        return jax.device_get(features_and_gradients(loaded, classes, given, before=1))


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference as a share of the largest value."""
    return float(np.abs(a - b).max() / np.abs(a).max())


def main(folder: str) -> None:
    """Prints the differences."""
    loaded = clip.load(folder)
    given, classes = contexts(loaded, len(NAMES)), pack(tokenize(loaded, NAMES))
    one = jax.device_get(features_and_gradients(loaded, classes, given, before=1))
    found = {}
    for devices, chunk in ((8, 0), (2, 2)):
        several = on_devices(loaded, given, devices, chunk)
        found[devices] = max(jax.tree.leaves(jax.tree.map(relative, one, several)))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
