"""What the towers offer to methods: contexts, deep prompts, vision prompts and local features."""

import json
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

DATA = Path(__file__).parent / "data"
MESH = Path(__file__).parent / "towers_mesh.py"
COOP = json.loads(str(np.load(DATA / "coop_dev.npz")["case"]))
TENTH = np.float32(0.1)


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


@pytest.mark.parametrize("name", COOP["variants"])
def test_contexts_equal_coop(coop, name):
    variant, numbers = COOP["variants"][name], coop.numbers
    context = numbers[variant["context"]]
    m = context.shape[-2]
    classes = pack(words(numbers[f"tokens_m{m}"], m, numbers["name_len"]))
    before = {"end": None, "middle": m // 2, "front": 0}[variant["position"]]
    kind = "own" if variant["class_specific"] else "shared"

    @jax.jit
    def compute(context, frozen, classes):
        def loss(context):
            given = {kind: context[:, None] if kind == "own" else context[None]}
            text = coop.towers.texts(frozen, classes, before=before, **given)[:, 0]
            return coop.cross_entropy(text, numbers["image_features"]), text

        return jax.grad(loss, has_aux=True)(context)

    gradient, text = compute(context, coop.frozen, classes)
    coop.equal(f"{name}/text_features", text)
    coop.equal(f"{name}/grad/ctx", gradient)


def test_embeddings_equal_coop(coop):
    ids = coop.numbers["tokens_m4"][0, 1:5]
    np.testing.assert_array_equal(coop.towers.embed(coop.frozen, ids), coop.numbers["ctx_init_m4"])


def test_the_class_token_equals_coop(coop):
    shapes = (coop.numbers[f"ctx_{k}"].shape for k in ("shared_m16", "csc_m16", "shared_m5"))
    coop.equal("image_features", coop.vision(coop.images(*shapes))["cls"])


@pytest.fixture(scope="module")
def promptsrc_images(promptsrc):
    return promptsrc.images(*(promptsrc.numbers[f"param/{t}_prompts"].shape for t in TOWERS))


TOWERS = ("text", "vision")


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
