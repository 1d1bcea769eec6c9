"""The towers: causality, lengths, streams, precision."""

import dataclasses
import itertools
from functools import partial

import clips
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sotglp_jax import clip
from sotglp_jax.benchmark.cases import SIZES, flops
from sotglp_jax.clip.layers import Dense, product


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return clip.load(str(clips.write(tmp_path_factory.mktemp("clip"))))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((3, 32, 32, 3), dtype=np.float32)


def encode_text(loaded, tokens, **options):
    towers = clip.build(loaded.arch, loaded.activation, **options)

    @jax.jit
    def encode(params, ids, eot):
        return towers.text.apply(params, towers.text.apply(params, ids, method="embed"), eot)

    return encode({"params": loaded.params["text"]}, tokens.ids, tokens.eot)


def encode_image(loaded, images, local="vv", leak=False, **options):
    towers = clip.build(loaded.arch, loaded.activation, **options)
    apply = jax.jit(partial(towers.vision.apply, local=local, leak=leak))
    return apply({"params": loaded.params["vision"]}, images)


def test_short_text_equals_length_77(loaded):
    tokens = loaded.tokenizer(["a cat", "a very old tree"])
    assert tokens.ids.shape[1] % 8 == 0 and tokens.ids.shape[1] < 77
    full = tokens.replace(ids=np.pad(tokens.ids, ((0, 0), (0, 77 - tokens.ids.shape[1]))))
    short, long = encode_text(loaded, tokens), encode_text(loaded, full)
    np.testing.assert_allclose(short, long, atol=1e-5)


def test_text_is_causal(loaded):
    tokens = loaded.tokenizer(["a cat"])
    after, before = np.array(tokens.ids), np.array(tokens.ids)
    after[0, tokens.eot[0] + 1 :] = 7
    before[0, tokens.eot[0] - 1] = 7
    plain = encode_text(loaded, tokens)
    np.testing.assert_array_equal(encode_text(loaded, tokens.replace(ids=after)), plain)
    assert np.abs(encode_text(loaded, tokens.replace(ids=before)) - plain).max() > 1e-3


def test_each_text_reads_its_own_eot(loaded):
    both = encode_text(loaded, loaded.tokenizer(["a cat", "a very old tree"]))
    alone = encode_text(loaded, loaded.tokenizer(["a cat"]))
    np.testing.assert_allclose(both[:1], alone, atol=1e-5)


def test_local_features_leave_the_class_token_alone(loaded, images):
    alone = encode_image(loaded, images, local="")
    assert set(alone) == {"cls"}
    kinds = [encode_image(loaded, images, local=kind) for kind in ("vv", "tokens", "value")]
    for one, other in itertools.combinations(kinds, 2):
        assert one["patches"].shape == (3, 16, 64)
        assert np.abs(one["patches"] - other["patches"]).max() > 1e-2
        np.testing.assert_allclose(one["cls"], alone["cls"], atol=1e-5)


def test_pixels_are_normalised(loaded):
    pixels, towers = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)), loaded.towers()
    plain = encode_image(loaded, (pixels / 255 - towers.mean) / towers.std, local="")
    ours = jax.jit(towers.images)(loaded.params, pixels.astype(np.uint8))
    np.testing.assert_allclose(ours["cls"], plain["cls"], atol=1e-5)


def test_a_single_layer_is_a_clip_too(tmp_path, images):
    one = clip.load(str(clips.write(tmp_path, vision_layers=1, text_layers=1)))
    plain, leak = encode_image(one, images), encode_image(one, images, leak=True)
    np.testing.assert_allclose(plain["cls"], leak["cls"], atol=1e-5)
    assert np.abs(plain["patches"] - leak["patches"]).max() > 1e-2
    assert encode_text(one, one.tokenizer(["a cat"])).shape == (1, 32)


def test_a_changed_patch_changes_its_own_feature_most(loaded, images):
    changed = images.copy()
    changed[:, :8, :8] += 1.0
    moved = encode_image(loaded, changed)["patches"] - encode_image(loaded, images)["patches"]
    assert np.abs(moved).mean((0, 2)).argmax() == 0


def test_bf16_stays_close_and_returns_float32(loaded, images):
    exact, rough = encode_image(loaded, images), encode_image(loaded, images, dtype=jnp.bfloat16)
    for key in ("cls", "patches"):
        a, b = exact[key], rough[key]
        assert b.dtype == jnp.float32 and 0 < np.abs(a - b).max() < 0.1 * np.abs(a).max()


@pytest.mark.parametrize("name", SIZES)
def test_dual_stream_costs_at_most_13_percent(name):
    size = SIZES[name]
    assert flops.vision(size, dual=True) <= 1.13 * flops.vision(size, dual=False)
    assert SIZES["ViT-L/14@336"].image_size == 336


# Two layers, of which the scan holds one, are what XLA counts right.
TWO_LAYERS = {
    "vision_layers": 2,
    "vision_width": 256,
    "vision_heads": 4,
    "vision_mlp": 1024,
    "text_layers": 2,
    "text_width": 256,
    "text_heads": 4,
    "text_mlp": 1024,
    "embed_dim": 64,
}


def counted_by_xla(size, tower, *inputs, **options):
    apply = partial(getattr(clip.build(size, "quick_gelu"), tower).apply, **options)
    compiled = jax.jit(apply).lower({"params": clip.shapes(size)[tower]}, *inputs).compile()
    return compiled.cost_analysis()["flops"]


@pytest.mark.parametrize("local", ["", "vv", "tokens", "value"])
def test_what_is_not_read_of_an_image_is_not_computed(local):
    size = dataclasses.replace(SIZES["ViT-B/16"], **TWO_LAYERS)
    w, p, mlp = size.vision_width, size.patches, size.vision_mlp
    whole, halves = flops.vision(size, dual=False), 2 * p * w * (w + 2 * mlp)  # out and MLP
    unread = halves + 2 * p * w * w + 4 * p * size.image_tokens * w
    ours = {
        "": whole - unread,
        "vv": flops.vision(size, dual=True),
        "tokens": whole,
        "value": whole - unread + halves,
    }
    xla = counted_by_xla(size, "vision", jnp.zeros((1, 224, 224, 3)), local=local)
    assert ours[local] == pytest.approx(xla, rel=0.04)


def test_flops_of_texts_agree_with_xla():
    size = dataclasses.replace(SIZES["ViT-B/16"], **TWO_LAYERS)
    xla = counted_by_xla(size, "text", jnp.zeros((1, 64, 256)), jnp.zeros(1, int))
    assert flops.text(size, 64) == pytest.approx(xla, rel=0.04)


def test_bf16_products_leave_the_bias_and_round_the_cotangent():
    layer = Dense(3, jnp.bfloat16)
    params = {"kernel": jnp.eye(3) * 1.001, "bias": jnp.full(3, 1.001)}
    x = jnp.zeros((2, 3))
    np.testing.assert_array_equal(layer.apply({"params": params}, x), np.float32(1.001))
    gradient = jax.grad(lambda x: (layer.apply({"params": params}, x) * 1.001).sum())(x)
    assert gradient.dtype == jnp.float32 and set(np.unique(gradient)) == {1.0}


def test_float32_products_have_the_exact_gradient():
    x, kernel = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(((4, 3), (3, 5))))

    def ours(x, kernel):
        return jnp.sum(jnp.sin(product("...i,io->...o", x, kernel)))

    def plain(x, kernel):
        return jnp.sum(jnp.sin(x @ kernel))

    for a, b in zip(*(jax.grad(f, (0, 1))(x, kernel) for f in (ours, plain)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
