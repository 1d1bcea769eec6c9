"""What the towers offer to methods: contexts, deep prompts, vision prompts and local features."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from sotglp_jax import clip
from sotglp_jax.clip import weights
from sotglp_jax.clip.config import Stated
from sotglp_jax.clip.packing import pack
from sotglp_jax.clip.tokenizer import Tokens
from sotglp_jax.errors import InputError

DATA = Path(__file__).parent / "data"
COOP = json.loads(str(np.load(DATA / "coop_dev.npz")["case"]))
NAMES = ["cat", "dog", "annual crop land", "tree", "sea"]


class Golden:
    """The numbers of an official code, and the CLIP that they were computed with."""

    def __init__(self, method: str):
        self.numbers = np.load(DATA / f"{method}_dev.npz")
        self.case = json.loads(str(self.numbers["case"]))
        tensors = parity.draw_weights(self.case)
        layout = weights.layout_of(tensors)
        arch = weights.architecture(tensors, layout, Stated())
        self.towers = clip.build(arch, "quick_gelu")
        self.frozen = weights.port(tensors, layout, clip.shapes(arch), arch)

    def images(self, *before) -> np.ndarray:
        """The normalised images, which are drawn after what has these shapes."""
        rng = np.random.default_rng([self.case["seed"], 10000])
        for shape in before:
            rng.standard_normal(shape, dtype=np.float32)
        side = self.case["image_resolution"]
        images = rng.standard_normal((self.case["batch"], 3, side, side), dtype=np.float32)
        return images.transpose(0, 2, 3, 1)

    def vision(self, images, **options) -> dict[str, jax.Array]:
        """Projected features."""

        def project(frozen, images, prompts):
            vision = {"params": frozen["vision"]}
            features = self.towers.vision.apply(vision, images, prompts=prompts, **options)
            return {k: self.towers.project(frozen, x) for k, x in features.items()}

        return jax.jit(project)(self.frozen, images, options.pop("prompts", None))

    def cross_entropy(self, text, image) -> jax.Array:
        """Of the case's labels."""
        logits = jnp.exp(self.frozen["logit_scale"]) * unit(image) @ unit(text).T
        chosen = jax.nn.log_softmax(logits)[jnp.arange(len(logits)), self.numbers["labels"]]
        return -chosen.mean()

    def equal(self, key: str, ours) -> None:
        theirs = self.numbers[key]
        assert theirs.shape == ours.shape
        assert np.abs(ours - theirs).max() <= parity.TOLERANCE * np.abs(theirs).max()


def assert_close(ours, theirs) -> None:
    """To 2e-5 of the largest."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def words(ids: np.ndarray, context: int, split=0) -> Tokens:
    """Official token rows of length 77 without the slots behind [SOS]."""
    ids = np.concatenate([ids[:, :1], ids[:, 1 + context :]], axis=1)
    eot = ids.argmax(1)
    return Tokens(ids[:, : eot.max() + 1], eot.astype(np.int32), split)


@pytest.fixture(scope="module")
def coop():
    return Golden("coop")


@pytest.fixture(scope="module")
def promptsrc():
    return Golden("promptsrc")


def run_coop(coop, name, differentiate: bool):
    """Text features of a variant, or the gradient of its loss."""
    variant, numbers = COOP["variants"][name], coop.numbers
    context = numbers[variant["context"]]
    m = context.shape[-2]
    classes = pack(words(numbers[f"tokens_m{m}"], m, numbers["name_len"]))
    before = {"end": None, "middle": m // 2, "front": 0}[variant["position"]]
    kind = "own" if variant["class_specific"] else "shared"

    def encode(context, frozen, classes):
        given = {kind: context[:, None] if kind == "own" else context[None]}
        return coop.towers.texts(frozen, classes, before=before, **given)[:, 0]

    def loss(*args):
        return coop.cross_entropy(encode(*args), numbers["image_features"])

    run = jax.grad(loss) if differentiate else encode
    return jax.jit(run)(context, coop.frozen, classes)


@pytest.mark.parametrize("name", COOP["variants"])
def test_contexts_equal_coop(coop, name):
    coop.equal(f"{name}/text_features", run_coop(coop, name, differentiate=False))


@pytest.mark.parametrize("name", ["shared_end", "shared_front", "csc_middle"])
def test_gradients_of_contexts_equal_coop(coop, name):
    coop.equal(f"{name}/grad/ctx", run_coop(coop, name, differentiate=True))


def test_embeddings_equal_coop(coop):
    ids = coop.numbers["tokens_m4"][0, 1:5]
    np.testing.assert_array_equal(coop.towers.embed(coop.frozen, ids), coop.numbers["ctx_init_m4"])


def test_the_class_token_equals_coop(coop):
    shapes = (coop.numbers[f"ctx_{k}"].shape for k in ("shared_m16", "csc_m16", "shared_m5"))
    coop.equal("image_features", coop.vision(coop.images(*shapes))["cls"])


TOWERS = ("text", "vision")


@pytest.fixture(scope="module")
def promptsrc_images(promptsrc):
    return promptsrc.images(*(promptsrc.numbers[f"param/{t}_prompts"].shape for t in TOWERS))


def test_deep_prompts_of_both_towers_equal_promptsrc(promptsrc, promptsrc_images):
    prompts = {t: promptsrc.numbers[f"param/{t}_prompts"] for t in TOWERS}
    classes = pack(words(promptsrc.numbers["tokens"], prompts["text"].shape[1]))

    @jax.jit
    def compute(prompts, frozen, classes, images):
        def loss(prompts):
            text, towers = prompts["text"], promptsrc.towers
            text = towers.texts(frozen, classes, text[:1], deep=text[1:])[:, 0]
            vision = {"params": frozen["vision"]}
            image = towers.vision.apply(vision, images, prompts=prompts["vision"])["cls"]
            image = towers.project(frozen, image)
            return promptsrc.cross_entropy(text, image), (text, image)

        return jax.grad(loss, has_aux=True)(prompts)

    gradients, features = compute(prompts, promptsrc.frozen, classes, promptsrc_images)
    for key, ours in zip(("text_features", "image_features"), features, strict=True):
        promptsrc.equal(key, ours)
    for tower, ours in gradients.items():
        promptsrc.equal(f"grad_ce/{tower}_prompts", ours)


def test_plain_sentences_and_images_equal_promptsrc_s_teacher(promptsrc, promptsrc_images):
    ids = promptsrc.numbers["template_tokens"]
    sentences = pack(words(ids.reshape(-1, ids.shape[-1]), 0), chunk=100)
    texts = jax.jit(promptsrc.towers.texts)(promptsrc.frozen, sentences)
    promptsrc.equal("teacher/text_mean", texts.reshape(*ids.shape[:2], -1).mean(0))
    promptsrc.equal("teacher/image_features", promptsrc.vision(promptsrc_images)["cls"])


def test_local_values_equal_locoop():
    locoop = Golden("locoop")
    features = locoop.vision(locoop.images(locoop.numbers["ctx"].shape), local="value")
    locoop.equal("image_features", features["cls"])
    locoop.equal("local_features", features["patches"])


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
    """Of a sum that weighs every feature differently."""

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
