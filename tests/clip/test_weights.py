"""Weights by every supported name and format, and what is said of those that do not fit."""

import json
import pickle

import clips
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from sotglp_jax import clip
from sotglp_jax.clip import hub
from sotglp_jax.clip.config import parse
from sotglp_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    return clips.write(tmp_path / "clip")


def same(a: clip.Clip, b: clip.Clip) -> None:
    assert a.arch == b.arch
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def rewrite(folder, tensors):
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


def state(folder, config: str, name: str = "config.json") -> None:
    """Leaves one config beside the weights."""
    (folder / "open_clip_config.json").unlink(missing_ok=True)
    (folder / name).write_text(config)


def refusal(name, **options) -> str:
    with pytest.raises(InputError) as caught:
        clip.load(str(name), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_dimension_is_read_off_the_weights(folder):
    arch = clip.load(str(folder)).arch
    assert (arch.image_size, arch.patch_size, arch.patches) == (32, 8, 16)
    assert (arch.vision_width, arch.vision_layers, arch.vision_heads) == (64, 3, 1)
    assert (arch.text_width, arch.text_layers, arch.context_length) == (64, 2, 77)
    assert (arch.vision_mlp, arch.text_mlp, arch.embed_dim) == (256, 256, 32)


def test_hugging_face_names_give_the_same_tree(folder, tmp_path):
    other = clips.write(tmp_path / "hf")
    rewrite(other, clips.to_hugging_face(clips.tensors()))
    same(clip.load(str(folder)), clip.load(str(other)))


def test_shards_a_lone_file_and_buffers_give_the_same_tree(folder, tmp_path):
    whole, tensors = clip.load(str(folder)), clips.tensors()
    same(whole, clip.load(str(folder / "model.safetensors")))
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    save_file({n: tensors[n] for n in names[:20]}, folder / "model-1-of-2.safetensors")
    rest = {n: tensors[n] for n in names[20:]} | {"input_resolution": np.array(32)}
    save_file(rest, folder / "model-2-of-2.safetensors")
    same(whole, clip.load(str(folder)))
    index = {
        "weight_map": {n: f"model-{1 + (i >= 20)}-of-2.safetensors" for i, n in enumerate(names)}
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    same(whole, clip.load(str(folder)))


def test_half_precision_files_become_float32(folder):
    tensors = {n: x.astype(np.float16) for n, x in clips.tensors().items()}
    loaded = clip.load(rewrite(folder, tensors))
    assert {x.dtype for x in jax.tree.leaves(loaded.params)} == {np.dtype(np.float32)}


def test_bfloat16_files_are_read(folder):
    whole = clip.load(str(folder))
    rewrite(folder, {n: x.astype(ml_dtypes.bfloat16) for n, x in clips.tensors().items()})
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8),
        clip.load(str(folder)).params,
        whole.params,
    )


def test_weights_of_other_types_are_refused_by_name(folder):
    """The library writes no eight-bit floats from numpy: that file is written by hand."""
    name, x = "visual.proj", clips.tensors()["visual.proj"]
    spoiled = clips.tensors() | {name: np.where(x == x.max(), np.nan, x).astype(np.float32)}
    assert "holds visual.proj with values that are not finite" in refusal(rewrite(folder, spoiled))
    said = refusal(rewrite(folder, clips.tensors() | {name: x.astype(np.int8)}))
    assert "holds visual.proj as int8" in said
    header = {name: {"dtype": "F8_E4M3", "shape": list(x.shape), "data_offsets": [0, x.size]}}
    head = json.dumps(header).encode()
    content = len(head).to_bytes(8, "little") + head + bytes(x.size)
    (folder / "model.safetensors").write_bytes(content)
    assert "holds visual.proj as F8_E4M3" in refusal(folder)


def test_every_fault_is_in_one_error(folder):
    tensors = clips.tensors()
    del tensors["ln_final.bias"], tensors["visual.transformer.resblocks.1.ln_2.weight"]
    tensors["extra.thing"] = np.zeros(3, np.float32)
    tensors["transformer.resblocks.0.attn.in_proj_bias"] = np.zeros(100, np.float32)
    said = refusal(rewrite(folder, tensors))
    assert "missing ln_final.bias, visual.transformer.resblocks.1.ln_2.weight;" in said
    assert "left over extra.thing" in said
    assert "wrong shape transformer.resblocks.0.attn.in_proj_bias (100,) instead of (192,)" in said


def test_another_model_is_refused(folder):
    said = refusal(rewrite(folder, {"conv1.weight": np.zeros((4, 4), np.float32)}))
    assert "not those of a CLIP" in said and "conv1.weight" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        *((x, "not a readable safetensors file") for x in (b"", b"not tensors", b"\xff" * 64)),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "pointer of Git LFS"),
        (b"<!DOCTYPE html><html>Access is restricted</html>", "is a web page"),
    ],
)
def test_no_safetensors_is_refused(folder, content, said):
    (folder / "model.safetensors").write_bytes(content)
    assert said in refusal(folder)


def test_a_truncated_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "perhaps cut short" in refusal(folder)


def test_missing_things_are_named(folder, tmp_path, monkeypatch):
    assert "no file or folder here" in refusal(tmp_path / "nowhere.safetensors")
    assert "ViT-B/16" in refusal("ViT-B-16")
    (tmp_path / "empty").mkdir()
    assert "holds no .safetensors" in refusal(tmp_path / "empty")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer.json beside it" in refusal(folder)
    (folder / "tokenizer.json").write_text("{}")
    assert "cannot be read as a tokenizer.json" in refusal(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"logit_scale": "model-1-of-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-1-of-2.safetensors is missing" in refusal(folder)


def test_other_files_by_that_name_are_no_archive(folder):
    (folder / "model.safetensors").rename(folder / "model.pt")
    assert "not a TorchScript archive" in refusal(folder)
    (folder / "model.pt").write_bytes(pickle.dumps({"a": 1}))
    assert "not a TorchScript archive" in refusal(folder)


@pytest.mark.parametrize(
    ("config", "activation"),
    [
        ({"vision_config": {"hidden_act": "gelu"}}, "gelu"),
        ({"text_config": {}}, "quick_gelu"),
        ({"model_cfg": {"quick_gelu": True}}, "quick_gelu"),
        ({"model_cfg": {}}, "gelu"),
    ],
)
def test_activation_comes_from_the_source_and_can_be_set(folder, config, activation):
    name = "open_clip_config.json" if "model_cfg" in config else "config.json"
    state(folder, json.dumps(config), name)
    assert clip.load(str(folder)).activation == activation
    assert clip.load(str(folder), activation="gelu").activation == "gelu"


def test_an_unsupported_activation_is_refused(folder):
    state(folder, '{"vision_config": {"hidden_act": "relu"}}')
    assert "relu" in refusal(folder)
    state(folder, "[")
    assert "is no JSON object" in refusal(folder)


def test_pixel_statistics_come_from_the_config(folder):
    assert clip.load(str(folder)).towers().mean[0] == pytest.approx(0.48145466)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    towers = clip.load(str(folder)).towers()
    assert towers.mean == (0.5, 0.5, 0.5) and towers.std[2] == pytest.approx(0.27577711)
    pixels = {"model_cfg": {}, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 2, 4]}}
    (folder / "open_clip_config.json").write_text(json.dumps(pixels))
    white = clip.load(str(folder)).towers().normalise(np.full((1, 1, 1, 3), 255, np.uint8))
    np.testing.assert_allclose(white[0, 0, 0], [0.9, 0.4, 0.175], rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "mode", "interpolation"),
    [
        ({"model_cfg": {}}, "shortest", "bicubic"),
        ({"model_cfg": {}, "preprocess_cfg": {"resize_mode": "squash"}}, "squash", "bicubic"),
        (
            {"model_cfg": {}, "preprocess_cfg": {"interpolation": "bilinear"}},
            "shortest",
            "bilinear",
        ),
        ({"preprocessor": {"size": {"height": 32, "width": 32}}}, "squash", "bicubic"),
        ({"preprocessor": {"size": {"shortest_edge": 32}, "resample": 2}}, "shortest", "bilinear"),
        ({"preprocessor": {"size": 32, "crop_size": 32, "resample": 3}}, "shortest", "bicubic"),
    ],
)
def test_resizing_comes_from_the_config(config, mode, interpolation):
    stated = parse(config)
    assert (stated.resize_mode, stated.interpolation) == (mode, interpolation)


def test_what_decides_the_features_beside_the_weights_tells_clips_apart(folder):
    found = {clip.load(str(folder)).fingerprint}
    model = {"quick_gelu": True}
    for pixels in (
        {},
        {"resize_mode": "squash"},
        {"interpolation": "bilinear"},
        {"std": [1, 1, 1]},
    ):
        stated = {"model_cfg": model, "preprocess_cfg": pixels}
        (folder / "open_clip_config.json").write_text(json.dumps(stated))
        found.add(clip.load(str(folder)).fingerprint)
    assert len(found) == 4


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("[1]", "is no JSON object"),
        ('{"model_cfg": 3}', "must be an object"),
        ('{"vision_config": "x"}', "must be an object"),
        (
            '{"vision_config": {"num_attention_heads": "4"}}',
            "vision_config.num_attention_heads='4'",
        ),
        ('{"vision_config": {"num_attention_heads": true}}', "must be a whole number above 0"),
        (
            '{"vision_config": {"layer_norm_eps": "tiny"}}',
            "layer_norm_eps='tiny', which must be a nu",
        ),
        ('{"vision_config": {"layer_norm_eps": NaN}}', "must be a number above 0"),
        ('{"text_config": {"hidden_act": 1}}', "text_config.hidden_act=1, which must be a text"),
        ('{"text_config": {"vocab_size": [190]}}', "text_config.vocab_size=[190], which must be"),
        (
            '{"model_cfg": {"quick_gelu": "yes"}}',
            "model_cfg.quick_gelu='yes', which must be true or",
        ),
        ('{"vision_config": {"num_attention_heads": 5}}', "5 heads do not divide"),
        ('{"text_config": {"num_hidden_layers": 7}}', "text_layers=2 but their config says 7"),
        ('{"preprocessor": {"image_mean": [0.5, 1]}}', "image_mean=[0.5, 1], which must be three"),
        ('{"preprocessor": {"image_std": [0, 1, 1]}}', "three numbers above 0"),
        ('{"preprocessor": {"image_std": 0.5}}', "preprocessor.image_std=0.5, which must be three"),
        ('{"preprocessor": {"size": 48, "crop_size": 32}}', "crop_size=32, which is not done here"),
        ('{"preprocessor": {"size": 48}}', "image_size=32 but their config says 48"),
        (
            '{"preprocessor": {"size": {"height": 32, "width": 48}}}',
            "size={'height': 32, 'width': 48}",
        ),
        ('{"preprocessor": {"resample": 0}}', "preprocessor.resample=0, which is not done here"),
        (
            '{"model_cfg": {}, "preprocess_cfg": {"resize_mode": "longest"}}',
            "resize_mode='longest'",
        ),
        ('{"model_cfg": {}, "preprocess_cfg": {"interpolation": ["x"]}}', "interpolation=['x']"),
    ],
)
def test_a_wrong_config_is_refused(folder, config, said):
    state(folder, config)
    assert said in refusal(folder)


def test_a_tokenizer_of_another_clip_is_refused(folder):
    tensors = clips.tensors()
    tensors["token_embedding.weight"] = tensors["token_embedding.weight"][:100]
    assert "190 tokens but the weights have 100" in refusal(rewrite(folder, tensors))


def test_shards_lie_beside_their_index(folder):
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = {"weight_map": {"logit_scale": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "no index of safetensors shards beside it" in refusal(folder)


def test_head_counts_come_from_the_config(folder):
    config = {
        "vision_config": {"num_attention_heads": 4},
        "text_config": {"num_attention_heads": 2},
    }
    state(folder, json.dumps(config))
    arch = clip.load(str(folder)).arch
    assert (arch.vision_heads, arch.text_heads) == (4, 2)
    config = {"model_cfg": {"vision_cfg": {"head_width": 32}, "text_cfg": {"heads": 8}}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    arch = clip.load(str(folder)).arch
    assert (arch.vision_heads, arch.text_heads) == (2, 8)


def test_the_embedded_clip_loads_by_name():
    assert clip.load("tiny").arch.image_size == 64
    assert sum(f.stat().st_size for f in hub.TINY.iterdir()) <= 4e6
