"""The tiny CLIP: its renderings, its script and the shipped asset."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from sotglp_jax import clip
from sotglp_jax.clip import hub
from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.data.digits import CLASS_NAMES, digits
from sotglp_jax.errors import InputError
from sotglp_jax.pretrain import glyphs
from sotglp_jax.pretrain import training as pretrain

FLOAT16 = 2.0**-11  # relative rounding error


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("tiny")
    return folder, pretrain.pretrain(folder, steps=2, batch=4, seed=1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(hub.TINY / "tokenizer.json", pretrain.CONTEXT_LENGTH)


def test_same_seed_same_batch():
    first, again, other = (pretrain.draw(seed, 3, 16) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.images, again.images)
    assert first.captions == again.captions
    assert not np.array_equal(first.images, other.images)


def test_batches_do_not_depend_on_drawing_ahead():
    ahead = list(pretrain._batches(seed=2, steps=11, size=2))
    assert len(ahead) == 11
    for step, batch in enumerate(ahead):
        np.testing.assert_array_equal(batch.images, pretrain.draw(2, step, 2).images)


@pytest.mark.parametrize("face", glyphs._FACES)
def test_every_face_draws_every_character(face):
    font = glyphs._face(face)
    shapes = {bytes(font.getmask(character)) for character in glyphs.CHARACTERS}
    assert bytes(font.getmask("\uffff")) not in shapes
    assert len(shapes) > 55  # a few pairs look alike


def test_images_are_drawn_and_captions_are_the_character_s():
    rng = np.random.default_rng(0)
    for _ in range(200):
        glyph = glyphs.render(rng)
        assert glyph.image.shape == (glyphs.SIZE, glyphs.SIZE) and glyph.image.dtype == np.uint8
        assert np.ptp(glyph.image.astype(int)) > 30
        assert glyph.ink.shape == glyph.image.shape
        assert pretrain.inked(glyph.ink).any() and not pretrain.inked(glyph.ink).all()
        assert glyph.caption in glyphs.captions(glyphs.CHARACTERS[glyph.character])


def test_no_caption_belongs_to_two_characters():
    every = [
        text.lower() if len(text) else text
        for c in glyphs.CHARACTERS
        for text in glyphs.captions(c)
    ]
    assert len(every) == len(set(every))


def test_downstream_prompts_are_captions():
    for digit, word in enumerate(CLASS_NAMES):
        prompts = {f"a photo of the number {word}.", f"a photo of a {word}"}
        assert prompts <= set(glyphs.captions(str(digit)))


def test_soft_targets_share_equal_characters():
    same = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    perfect = np.log(same / same.sum(1) + 1e-9)
    entropy = np.log(2) * 2 / 3
    assert pretrain.contrastive_loss(perfect, same) == pytest.approx(entropy, abs=1e-5)
    assert pretrain.contrastive_loss(np.zeros((3, 3)), same) == pytest.approx(np.log(3), abs=1e-5)


def test_patches_that_strokes_cover_are_inked():
    ink = np.zeros((64, 64), np.uint8)
    ink[:8, 8:10] = ink[8:16, :1] = 255  # a quarter and an eighth
    assert np.flatnonzero(pretrain.inked(ink)).tolist() == [1]
    ink[:8, 8:10] = 0
    assert np.flatnonzero(pretrain.inked(ink)).tolist() == [8]  # of a thin stroke the thickest


def test_best_patches_are_drawn_to_the_ink():
    logits, inked = np.array([[9.0, 0, 0], [0, 0, 0]]), np.array([[1, 0, 0], [0, 1, 0]], bool)
    right, even = (pretrain.locating_loss(logits[[i]], inked[[i]]) for i in (0, 1))
    assert right < 1e-3 and even == pytest.approx(np.log(3))
    both = pretrain.locating_loss(logits, inked)
    assert both == pytest.approx((right + even) / 2)
    assert pretrain.locating_loss(logits[:1], ~inked[:1]) > 8


def test_names_round_trip(written):
    folder, params = written
    model = clip.load(str(folder))
    tensors = load_file(folder / "model.safetensors")
    assert {x.dtype for x in tensors.values()} == {np.dtype(np.float16)}
    again = pretrain.openai_tensors(model.params, model.arch)
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name].ravel(), tensor.ravel(), err_msg=name)
    assert tensors["visual.conv1.weight"].shape == (128, 3, 8, 8)
    assert model.activation == pretrain.ACTIVATION


def test_written_features_are_the_trained_ones(written):
    folder, params = written
    model, batch = clip.load(str(folder)), pretrain.draw(0, 0, 4)
    towers = clip.build(model.arch, model.activation)
    tokens = model.tokenizer(batch.captions)
    for features, inputs in (
        (pretrain.image_features, batch.images),
        (pretrain.text_features, tokens),
    ):
        run = jax.jit(partial(features, towers))
        jax.tree.map(
            partial(np.testing.assert_allclose, atol=8 * FLOAT16),
            run(model.params, inputs),
            run(params, inputs),
        )


def test_shipped_asset_is_small_and_loads():
    assert sum(file.stat().st_size for file in hub.TINY.iterdir()) <= 4e6
    model = clip.load("tiny")
    assert model.arch == pretrain.architecture(model.arch.vocab_size)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(model.params))


def test_shipped_tokenizer_is_the_script_s(tokenizer):
    assert pretrain.train_tokenizer().to_str() == tokenizer._bpe.to_str()


def test_shipped_tokenizer_writes_any_name(tokenizer):
    assert len(tokenizer.encode("a photo of a")) == 4
    assert len(tokenizer.encode("number")) == len(tokenizer.encode("Seven")) == 1
    unknown = tokenizer._bpe.token_to_id("<|endoftext|>")
    for character in map(chr, (*range(33, 127), 0xE9, 0x4E09)):
        assert unknown not in tokenizer.encode(f"{character} x{character}x")


def test_shipped_asset_knows_printed_digits():
    """A floor far above chance (1/62) that only a trained model passes."""
    model, batch = clip.load("tiny"), pretrain.draw(7, 0, 64)
    towers = clip.build(model.arch, model.activation)
    names = [f"a photo of {glyphs._names(c)[0]}" for c in glyphs.CHARACTERS]
    classes, _ = jax.jit(partial(pretrain.image_features, towers))(model.params, batch.images)
    texts = jax.jit(partial(pretrain.text_features, towers))(model.params, model.tokenizer(names))
    found = [glyphs._names(glyphs.CHARACTERS[i])[0] for i in np.argmax(classes @ texts.T, axis=1)]
    right = [name in caption for name, caption in zip(found, batch.captions, strict=True)]
    assert np.mean(right) > 0.1


def test_shipped_asset_looks_at_the_strokes():
    """Of eight digits of each class the ten patches most like the class's text are of ink."""
    model, data = clip.load("tiny"), digits()
    labels = np.array(data.test.labels)
    rows = [np.flatnonzero(labels == label)[:8] for label in range(len(CLASS_NAMES))]
    images = np.stack([np.asarray(data.test[i]["image"])[..., 0] for i in np.concatenate(rows)])
    towers = clip.build(model.arch, model.activation)
    _, patches = jax.jit(partial(pretrain.image_features, towers))(model.params, images)
    tokens = model.tokenizer([data.template.format(name) for name in CLASS_NAMES])
    texts = jax.jit(partial(pretrain.text_features, towers))(model.params, tokens)
    own = np.einsum("cipd,cd->cip", np.reshape(patches, (10, 8, 64, -1)), texts)
    best = np.argsort(-own, axis=-1)[..., :10]
    ink = images.reshape(10, 8, 8, 8, 8, 8).mean((3, 5)).reshape(10, 8, 64) > 255 / 8
    on_ink = np.take_along_axis(ink, best, -1).mean((1, 2))
    assert np.sum(on_ink > 0.9) >= 8, on_ink


def test_bad_input_is_said_in_one_sentence(tmp_path):
    blocker = tmp_path / "file"
    blocker.touch()
    with pytest.raises(InputError, match="--batch=1 leaves nothing to contrast"):
        pretrain.pretrain(tmp_path, steps=1, batch=1, seed=0)
    with pytest.raises(InputError, match="cannot be written"):
        pretrain.pretrain(blocker / "out", steps=1, batch=2, seed=0)
