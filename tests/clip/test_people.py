"""The towers and the tokenizer against other people's code: transformers and open_clip.

Needs the extra `parity`: pip install -e '.[parity]'
"""

import importlib.util
import json
import sys
from unittest import mock

import clips
import jax
import numpy as np
import pytest
from conftest import ROOT

from sotglp_jax import clip
from sotglp_jax.clip.tokenizer import END, START, Tokenizer

torch = pytest.importorskip("torch", reason="needs the extra: pip install -e '.[parity]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's code

# Of Caltech101, Oxford Pets, DTD and EuroSAT; open_clip brings ImageNet's.
NAMES = (ROOT / "tests" / "data" / "class_names.txt").read_text().splitlines()
NAMES += ["crème brûlée", "707-320", "m&m's", "C-130  Hercules"]


TORCHVISION = ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional")


def import_open_clip():
    """open_clip; torchvision, unused here, may have no build that fits the torch at hand."""
    pytest.importorskip("transformers", reason="needs the extra parity")  # looks for torchvision
    if "torchvision" not in sys.modules and not importlib.util.find_spec("torchvision"):
        sys.modules.update({f"torchvision{name}": mock.MagicMock() for name in TORCHVISION})
    return pytest.importorskip("open_clip", reason="needs the extra parity")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((3, 32, 32, 3), dtype=np.float32)


def ours(loaded, images, ids):
    towers = clip.build(loaded.arch, loaded.activation)

    @jax.jit
    def encode(params, images, ids, eot):
        vision = {"params": params["vision"]}
        image = towers.vision.apply(vision, images, local="tokens")
        text = {"params": params["text"]}
        embeddings = towers.text.apply(text, ids, method="embed")
        return (
            towers.vision.apply(vision, image["cls"], method="project"),
            towers.text.apply(text, embeddings, eot),
            image["patches"],
        )

    return encode(loaded.params, images, ids, ids.argmax(1))


def torch_images(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_equals_transformers(tmp_path, images, act):
    transformers = pytest.importorskip("transformers", reason="needs the extra parity")
    shared = {"hidden_act": act, "num_attention_heads": 4, "hidden_size": 64}
    text = {"vocab_size": 200, "num_hidden_layers": 2, "intermediate_size": 128}
    text |= {"eos_token_id": 199, "bos_token_id": 198}
    vision = {"image_size": 32, "patch_size": 8, "num_hidden_layers": 3, "intermediate_size": 96}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=shared | text, vision_config=shared | vision, projection_dim=24
    )
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():  # the default initialisation hides mistakes behind tiny numbers
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(tmp_path)
    clips.tokenizer(tmp_path)
    loaded = clip.load(str(tmp_path))
    assert loaded.activation == act and loaded.arch.vision_heads == 4
    ids = np.random.default_rng(1).integers(0, 190, (4, 16)).astype(np.int32)
    ids[np.arange(4), [5, 9, 12, 15]] = 199
    image, sentence, patches = ours(loaded, images, ids)
    with torch.no_grad():
        out = model(input_ids=torch.from_numpy(ids).long(), pixel_values=torch_images(images))
        tokens = out.vision_model_output.last_hidden_state[:, 1:]
        tokens = model.vision_model.post_layernorm(tokens).numpy()
    np.testing.assert_allclose(patches, tokens, atol=1e-4 * np.abs(tokens).max())
    for a, b in ((image, out.image_embeds), (sentence, out.text_embeds)):
        a = a / np.linalg.norm(a, axis=-1, keepdims=True)
        np.testing.assert_allclose(a, b.numpy(), atol=2e-5)


@pytest.mark.parametrize("quick", [True, False])
def test_equals_open_clip(tmp_path, images, quick):
    open_clip = import_open_clip()
    from safetensors.torch import save_file

    torch.manual_seed(0)
    cfg = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 3,
            "width": 64,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {"context_length": 77, "vocab_size": 200, "width": 64, "heads": 2, "layers": 2},
        "quick_gelu": quick,
    }
    model = open_clip.CLIP(
        cfg["embed_dim"], cfg["vision_cfg"], cfg["text_cfg"], quick_gelu=quick
    ).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()},
        tmp_path / "open_clip_model.safetensors",
    )
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
    clips.tokenizer(tmp_path)
    loaded = clip.load(str(tmp_path))
    ids = np.random.default_rng(1).integers(0, 190, (4, 77)).astype(np.int32)
    ids[np.arange(4), [5, 9, 12, 76]] = 199
    image, sentence, _ = ours(loaded, images, ids)
    with torch.no_grad():
        theirs = (
            model.encode_image(torch_images(images)),
            model.encode_text(torch.from_numpy(ids).long()),
        )
    for a, b in zip((image, sentence), theirs, strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-4 * float(b.abs().max()))


def openai_tokenizer(open_clip, path):
    """OpenAI's vocabulary as open_clip ships it, in Hugging Face's format."""
    import tokenizers
    from tokenizers import normalizers, pre_tokenizers

    theirs = open_clip.SimpleTokenizer()
    named = {"<start_of_text>": START, "<end_of_text>": END}
    vocabulary = {named.get(token, token): i for token, i in theirs.encoder.items()}
    merges = sorted(theirs.bpe_ranks, key=theirs.bpe_ranks.get)
    bpe = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, merges, unk_token=END, end_of_word_suffix="</w>")
    )
    bpe.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    split = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(split), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.save(str(path))
    return theirs


def test_ids_equal_openais(tmp_path):
    open_clip = import_open_clip()
    theirs = openai_tokenizer(open_clip, tmp_path / "tokenizer.json")
    names = [*NAMES, *(n.replace("_", " ") for n in NAMES), *open_clip.IMAGENET_CLASSNAMES]
    assert len(names) > 1300
    tokens = Tokenizer(tmp_path / "tokenizer.json", context_length=77)(names)
    expected = theirs(names).numpy()
    np.testing.assert_array_equal(tokens.ids, expected[:, : tokens.ids.shape[1]])
    np.testing.assert_array_equal(tokens.eot, expected.argmax(1))


def test_openais_archive_is_read_and_a_pickle_is_not(tmp_path):
    folder = clips.write(tmp_path / "clip")
    reference = clip.load(str(folder))

    class Archive(torch.nn.Module):
        def forward(self, x):
            return x

    archive = Archive()
    for name, x in clips.tensors().items():
        module = archive
        *path, leaf = name.split(".")
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, Archive())
            module = getattr(module, part)
        module.register_parameter(leaf, torch.nn.Parameter(torch.from_numpy(x.copy()).half()))
    torch.jit.script(archive).save(str(tmp_path / "OpenAI.pt"))
    clips.tokenizer(tmp_path)
    loaded = clip.load(str(tmp_path / "OpenAI.pt"))
    assert loaded.arch == reference.arch
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), loaded.params, reference.params
    )
    torch.save({"a": torch.zeros(3)}, tmp_path / "pickle.pt")
    with pytest.raises(clip.InputError, match="not a TorchScript archive"):
        clip.load(str(tmp_path / "pickle.pt"))
