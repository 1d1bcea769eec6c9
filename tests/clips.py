"""Small CLIPs of random weights, written to folders for the tests."""

from pathlib import Path

import numpy as np
import tokenizers
from goldens import draw_weights
from safetensors.numpy import save_file

CASE = {
    "seed": 3,
    "embed_dim": 32,
    "image_resolution": 32,
    "vision_layers": 3,
    "vision_width": 64,
    "vision_patch_size": 8,
    "text_width": 64,
    "text_layers": 2,
    "names": ["cat", "dog", "annual crop land", "tree"],
    "batch": 4,
    "n_global": 4,
    "n_local": 2,
    "topk": 5,
}
ASCII = [chr(i) for i in range(33, 127)]


def tokenizer(folder: Path) -> Path:
    """Writes a tokenizer.json of single characters in CLIP's format."""
    vocab = ["<|startoftext|>", "<|endoftext|>", *ASCII, *(f"{c}</w>" for c in ASCII)]
    bpe = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {token: i for i, token in enumerate(vocab)},
            [],
            unk_token="<|endoftext|>",
            end_of_word_suffix="</w>",
        )
    )
    bpe.normalizer = tokenizers.normalizers.Lowercase()
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    bpe.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def tensors(**changes) -> dict[str, np.ndarray]:
    """Random weights under OpenAI's names, the vocabulary cut to the tokenizer's size."""
    drawn = draw_weights(CASE | changes)
    drawn["token_embedding.weight"] = drawn["token_embedding.weight"][: 2 + 2 * len(ASCII)]
    return {name: np.asarray(x, order="C") for name, x in drawn.items()}


def write(folder: Path, config: str = '{"model_cfg": {"quick_gelu": true}}', **changes) -> Path:
    """A CLIP folder as users have them."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(**changes), folder / "model.safetensors")
    (folder / "open_clip_config.json").write_text(config)
    tokenizer(folder)
    return folder


def to_hugging_face(openai: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights under the names of `transformers.CLIPModel`, written out by hand."""
    renamed = {
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.proj": "visual_projection.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "text_projection": "text_projection.weight",
        "logit_scale": "logit_scale",
    }
    within = {
        "visual.ln_pre.": "vision_model.pre_layrnorm.",
        "visual.ln_post.": "vision_model.post_layernorm.",
        "ln_final.": "text_model.final_layer_norm.",
        "visual.transformer.resblocks.": "vision_model.encoder.layers.",
        "transformer.resblocks.": "text_model.encoder.layers.",
        "attn.out_proj.": "self_attn.out_proj.",
        "ln_1.": "layer_norm1.",
        "ln_2.": "layer_norm2.",
        "mlp.c_fc.": "mlp.fc1.",
        "mlp.c_proj.": "mlp.fc2.",
    }
    out = {}
    for name, x in openai.items():
        if name in renamed:
            out[renamed[name]] = x.T if name in ("visual.proj", "text_projection") else x
            continue
        for theirs, hf in within.items():
            if theirs.startswith(("visual", "transformer")):
                name = hf + name.removeprefix(theirs) if name.startswith(theirs) else name
            else:
                name = name.replace(theirs, hf)
        if "attn.in_proj_" in name:
            stem, kind = name.split("attn.in_proj_")
            for letter, part in zip("qkv", np.split(x, 3), strict=True):
                out[f"{stem}self_attn.{letter}_proj.{kind}"] = part
        else:
            out[name] = x
    return {name: np.asarray(x, order="C") for name, x in out.items()}
