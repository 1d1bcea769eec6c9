"""What the towers offer to methods: contexts, deep prompts, vision prompts and local features."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from conftest import ROOT

from sotglp_jax import clip
from sotglp_jax.clip.packing import pack
from sotglp_jax.clip.tokenizer import Tokens
from sotglp_jax.errors import InputError

NAMES = ["cat", "dog", "annual crop land", "tree", "sea"]


def assert_close(ours, theirs) -> None:
    """To 2e-5 of the largest."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


def test_local_values_equal_locoop():
    numbers = np.load(ROOT / "tests" / "data" / "locoop_dev.npz")
    case = json.loads(str(numbers["case"]))
    (towers, frozen), rng = goldens.load_clip(case), goldens.generator(case)
    goldens.normal(rng, 1, *numbers["ctx"].shape)  # drawn before the images
    images, _ = goldens.draw_images(case, rng)
    features = jax.jit(functools.partial(towers.images, local="value"))(frozen, images)
    for key, name in (("image_features", "cls"), ("local_features", "patches")):
        ours, theirs = towers.project(frozen, features[name]), numbers[key]
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= parity.TOLERANCE * np.abs(theirs).max()


@pytest.fixture(scope="module")
def loaded(clip_folder):
    return clip.load(str(clip_folder))


@pytest.fixture(scope="module")
def images(loaded):
    side = loaded.arch.image_size
    return np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)


def contexts(loaded, classes: int) -> dict[str, np.ndarray]:
    """Two contexts of all classes and one of each, of four tokens."""
    rng, width = np.random.default_rng(1), loaded.arch.text_width
    drawn = {"shared": (2, 4, width), "own": (classes, 1, 4, width)}
    return {k: 0.1 * rng.standard_normal(s, dtype=np.float32) for k, s in drawn.items()}


def tokenize(loaded, names) -> Tokens:
    tokens = loaded.tokenizer(names, room=4)
    return tokens.replace(split=np.array([len(loaded.tokenizer.encode(n)) for n in names]))


def features_and_gradients(loaded, classes, given, **options):
    """Features, and the gradients of a sum that weighs every one of them differently."""

    @jax.jit
    def compute(given, frozen, classes):
        def weighted(given):
            text = loaded.towers().texts(frozen, classes, **given, **options)
            return jnp.sum(jnp.sin(text)), text

        gradients, text = jax.grad(weighted, has_aux=True)(given)
        return text, gradients

    return compute(given, loaded.params, classes)


@pytest.mark.parametrize("before", [None, 1])
def test_one_context_of_all_is_the_same_context_of_each(loaded, before):
    classes, given = pack(tokenize(loaded, NAMES)), contexts(loaded, len(NAMES))
    both, sums = features_and_gradients(loaded, classes, given, before=before)
    shared = np.broadcast_to(given["shared"], (len(NAMES), *given["shared"].shape))
    own = {"own": np.concatenate([shared, given["own"]], axis=1)}
    alone, rows = features_and_gradients(loaded, classes, own, before=before)
    assert both.shape == (len(NAMES), 3, loaded.arch.embed_dim)
    assert_close(both, alone)
    assert_close(sums["shared"], rows["own"][:, :2].sum(0))
    assert_close(sums["own"], rows["own"][:, 2:])


@pytest.mark.parametrize("before", [None, 0])
def test_a_class_knows_nothing_of_order_passes_and_others(loaded, before):
    given = contexts(loaded, len(NAMES))
    classes = pack(tokenize(loaded, NAMES))
    text, gradients = features_and_gradients(loaded, classes, given, before=before)
    some = np.array([3, 0, 2])
    fewer = pack(tokenize(loaded, [NAMES[i] for i in some]), chunk=2)
    given["own"] = given["own"][some]
    theirs, rows = features_and_gradients(loaded, fewer, given, before=before)
    assert_close(theirs, text[some])
    assert_close(rows["own"], gradients["own"][some])


@pytest.mark.slow  # its small case is the step of devices/test_sharding.py
def test_several_devices_give_one_devices_features_and_gradients(clip_folder):
    here = Path(__file__).parent
    variables = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    variables["PYTHONPATH"] = os.pathsep.join([*sys.path, str(here.parent), str(here)])
    command = [sys.executable, str(here / "towers_mesh.py"), str(clip_folder)]
    out = subprocess.run(command, env=os.environ | variables, stdout=subprocess.PIPE, check=True)
    found = json.loads(out.stdout)
    assert set(found) == {"8", "2"} and max(found.values()) <= 1e-5


def test_prompts_that_do_not_fit_are_refused(loaded, images):
    towers, classes, given = loaded.towers(), pack(tokenize(loaded, NAMES)), np.zeros((1, 4, 64))
    with pytest.raises(InputError, match="depth 3 do not fit a tower of 2 layers"):
        towers.texts(loaded.params, classes, given, deep=np.zeros((2, 4, 64)))
    with pytest.raises(ValueError, match="a single shared context"):
        towers.texts(loaded.params, classes, given, before=2, deep=np.zeros((1, 4, 64)))
    with pytest.raises(InputError, match="depth 4 do not fit a tower of 3 layers"):
        towers.images(loaded.params, images, prompts=np.zeros((4, 2, 64)))
    with pytest.raises(ValueError, match="'vv' takes no prompts"):
        towers.images(loaded.params, images, local="vv", prompts=np.zeros((1, 2, 64)))
    with pytest.raises(ValueError, match="local='patches' must be one of"):
        towers.images(loaded.params, images, local="patches")


def test_prompts_are_no_patches(loaded, images):
    towers, prompts = loaded.towers(), np.full((2, 2, 64), 0.5, np.float32)
    encode = jax.jit(towers.images, static_argnames="local")
    with_, without = (
        encode(loaded.params, images, local="tokens", prompts=x) for x in (prompts, None)
    )
    assert with_["patches"].shape == without["patches"].shape == (3, 16, 64)
    assert np.abs(with_["patches"] - without["patches"]).max() > 1e-2
