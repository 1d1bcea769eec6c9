"""CLIP weights from OpenAI's, open_clip's and Hugging Face's tensor names to our tree.

A rename table says for each of our tensors which source tensor it comes from and how. The table
must account for every tensor on both sides; whatever does not fit is listed in one error.
"""

import contextlib
import dataclasses
import hashlib
import math
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from sotglp_jax.clip import torchscript
from sotglp_jax.clip.config import Stated
from sotglp_jax.errors import InputError

HEAD_WIDTH = 64  # of OpenAI's CLIPs


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A CLIP's dimensions, as read off its weights.

    Heads are 64 wide unless the weights' own config says otherwise.
    """

    patch_size: int
    image_tokens: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    vision_mlp: int
    vocab_size: int
    context_length: int
    text_width: int
    text_layers: int
    text_heads: int
    text_mlp: int
    embed_dim: int

    def __str__(self) -> str:
        return (
            f"{self.image_size} pixels in patches of {self.patch_size}, vision "
            f"{self.vision_layers} x {self.vision_width}, text {self.text_layers} x "
            f"{self.text_width}"
        )

    @property
    def image_size(self) -> int:
        """Pixels along a side of the square input."""
        return self.patch_size * math.isqrt(self.image_tokens - 1)

    @property
    def patches(self) -> int:
        """P, patches of one image."""
        return self.image_tokens - 1


# How a source tensor becomes ours, and the shape that it must have for ours to have `s`.
Transform = tuple[Callable[[np.ndarray], np.ndarray], Callable[[tuple], tuple]]
SAME: Transform = (lambda x: x, lambda s: s)
TRANSPOSE: Transform = (lambda x: x.T, lambda s: s[::-1])
PATCH_KERNEL: Transform = (  # (W, 3, p, p) -> (p p 3, W)
    lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
    lambda s: (s[1], 3, math.isqrt(s[0] // 3), math.isqrt(s[0] // 3)),
)


def _third(i: int) -> Transform:
    """Part i of a fused query, key and value matrix or bias."""
    return (lambda x: np.split(x, 3)[i].T, lambda s: (3 * s[-1], *s[:-1]))


_MLP_AND_NORMS = {
    "ln_1/scale": ("{ln_1}.weight", SAME),
    "ln_1/bias": ("{ln_1}.bias", SAME),
    "ln_2/scale": ("{ln_2}.weight", SAME),
    "ln_2/bias": ("{ln_2}.bias", SAME),
    "c_fc/kernel": ("{c_fc}.weight", TRANSPOSE),
    "c_fc/bias": ("{c_fc}.bias", SAME),
    "c_proj/kernel": ("{c_proj}.weight", TRANSPOSE),
    "c_proj/bias": ("{c_proj}.bias", SAME),
    "out/kernel": ("{out}.weight", TRANSPOSE),
    "out/bias": ("{out}.bias", SAME),
}


def _block(**names: str) -> dict[str, tuple[str, Transform]]:
    return {ours: (name.format(**names), t) for ours, (name, t) in _MLP_AND_NORMS.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """The names that one code base gives to CLIP's tensors.

    Attributes:
      vision_block: prefix of vision layer {}.
      text_block: prefix of text layer {}.
      block: our name within a layer -> their name, transform.
      outside: our name elsewhere -> their name, transform.
      ignored: pattern of buffers that carry no weights.
    """

    vision_block: str
    text_block: str
    block: Mapping[str, tuple[str, Transform]]
    outside: Mapping[str, tuple[str, Transform]]
    ignored: str


OPENAI = Layout(
    vision_block="visual.transformer.resblocks.{}.",
    text_block="transformer.resblocks.{}.",
    block=_block(
        ln_1="ln_1", ln_2="ln_2", c_fc="mlp.c_fc", c_proj="mlp.c_proj", out="attn.out_proj"
    )
    | {f"{x}/kernel": ("attn.in_proj_weight", _third(i)) for i, x in enumerate("qkv")}
    | {f"{x}/bias": ("attn.in_proj_bias", _third(i)) for i, x in enumerate("qkv")},
    outside={
        "vision/patch_embed/kernel": ("visual.conv1.weight", PATCH_KERNEL),
        "vision/class_embedding": ("visual.class_embedding", SAME),
        "vision/positional_embedding": ("visual.positional_embedding", SAME),
        "vision/ln_pre/scale": ("visual.ln_pre.weight", SAME),
        "vision/ln_pre/bias": ("visual.ln_pre.bias", SAME),
        "vision/ln_post/scale": ("visual.ln_post.weight", SAME),
        "vision/ln_post/bias": ("visual.ln_post.bias", SAME),
        "vision/proj": ("visual.proj", SAME),
        "text/token_embedding": ("token_embedding.weight", SAME),
        "text/positional_embedding": ("positional_embedding", SAME),
        "text/ln_final/scale": ("ln_final.weight", SAME),
        "text/ln_final/bias": ("ln_final.bias", SAME),
        "text/text_projection": ("text_projection", SAME),
        "logit_scale": ("logit_scale", SAME),
    },
    ignored=r"(.+\.)?(attn_mask|input_resolution|context_length|vocab_size)",
)

HUGGING_FACE = Layout(
    vision_block="vision_model.encoder.layers.{}.",
    text_block="text_model.encoder.layers.{}.",
    block=_block(
        ln_1="layer_norm1",
        ln_2="layer_norm2",
        c_fc="mlp.fc1",
        c_proj="mlp.fc2",
        out="self_attn.out_proj",
    )
    | {f"{x}/kernel": (f"self_attn.{x}_proj.weight", TRANSPOSE) for x in "qkv"}
    | {f"{x}/bias": (f"self_attn.{x}_proj.bias", SAME) for x in "qkv"},
    outside={
        "vision/patch_embed/kernel": (
            "vision_model.embeddings.patch_embedding.weight",
            PATCH_KERNEL,
        ),
        "vision/class_embedding": ("vision_model.embeddings.class_embedding", SAME),
        "vision/positional_embedding": (
            "vision_model.embeddings.position_embedding.weight",
            SAME,
        ),
        "vision/ln_pre/scale": ("vision_model.pre_layrnorm.weight", SAME),
        "vision/ln_pre/bias": ("vision_model.pre_layrnorm.bias", SAME),
        "vision/ln_post/scale": ("vision_model.post_layernorm.weight", SAME),
        "vision/ln_post/bias": ("vision_model.post_layernorm.bias", SAME),
        "vision/proj": ("visual_projection.weight", TRANSPOSE),
        "text/token_embedding": ("text_model.embeddings.token_embedding.weight", SAME),
        "text/positional_embedding": ("text_model.embeddings.position_embedding.weight", SAME),
        "text/ln_final/scale": ("text_model.final_layer_norm.weight", SAME),
        "text/ln_final/bias": ("text_model.final_layer_norm.bias", SAME),
        "text/text_projection": ("text_projection.weight", TRANSPOSE),
        "logit_scale": ("logit_scale", SAME),
    },
    ignored=r"(vision_model|text_model)\.embeddings\.position_ids",
)


BUFFERS = f"{OPENAI.ignored}|{HUGGING_FACE.ignored}"  # which carry no weights


def load(paths: tuple[Path, ...]) -> dict[str, np.ndarray]:
    """All tensors of some files by name, in float32.

    Args:
      paths: `.safetensors` files that share no name, or one TorchScript `.pt` of OpenAI.

    Raises:
      InputError: a file is missing, truncated, of another format, or repeats a name.
    """
    if paths[0].suffix == ".pt":
        return _read_torchscript(paths[0])
    tensors: dict[str, np.ndarray] = {}
    for path in paths:
        part = _read_safetensors(path)
        if twice := sorted(tensors.keys() & part.keys()):
            raise InputError(
                f"{path} repeats tensors of another file in its folder, {twice[0]} for one: keep "
                "one CLIP a folder."
            )
        tensors |= part
    return tensors


def _what_else(path: Path, error: Exception) -> str:
    """What a file is that is no safetensors, and what to do."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(20)
        if start.startswith(b"version https://git-"):
            return "is a pointer of Git LFS and not the weights: run `git lfs pull` beside it"
        if start.lstrip().startswith(b"<"):
            return "is a web page and not the weights: log in to the hub, and download it again"
    return (
        f"is not a readable safetensors file ({error}), perhaps cut short: copy or download it "
        "again"
    )


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        path.open("rb").close()  # of what may not be read the library says that it is missing
        with safe_open(path, framework="numpy") as file:
            return {name: _float32(path, name, _tensor(path, file, name)) for name in file.keys()}
    except FileNotFoundError:
        raise InputError(f"{path} is missing: put all shards of the weights there.") from None
    except PermissionError as error:
        raise InputError(
            f"{path} may not be read ({error.strerror}): give yourself the right to."
        ) from None
    except (SafetensorError, OSError, struct.error) as error:
        raise InputError(f"{path} {_what_else(path, error)}.") from None


def _tensor(path: Path, file: Any, name: str) -> np.ndarray:
    try:
        return file.get_tensor(name)
    except AttributeError:  # of numpy, which lacks the type
        raise _of_wrong_type(path, name, file.get_slice(name).get_dtype()) from None


def _float32(path: Path, name: str, x: np.ndarray) -> np.ndarray:
    floating = x.dtype in (np.float16, np.float32, np.float64) or x.dtype.name == "bfloat16"
    if not floating and not re.fullmatch(BUFFERS, name):
        raise _of_wrong_type(path, name, x.dtype.name)
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise InputError(
            f"{path} holds {name} with values that are not finite: copy or download it again."
        )
    return x


def _of_wrong_type(path: Path, name: str, kind: str) -> InputError:
    return InputError(
        f"{path} holds {name} as {kind}, and only float16, bfloat16 and float32 weights are "
        "loaded: take the model's weights before they were quantised."
    )


def _read_torchscript(path: Path) -> dict[str, np.ndarray]:
    try:
        return {name: _float32(path, name, x) for name, x in torchscript.load(path).items()}
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} is missing: put the weights there.") from None
    except Exception as error:  # a damaged pickle may raise any
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"{path} is not a TorchScript archive as OpenAI publishes ({reason}), and other "
            "pickles are never loaded: convert it to safetensors."
        ) from None


# Side of patches and images, vision width and layers, text width, and D.
_OPENAI_SIZES = {
    (32, 224, 768, 12, 512, 512),
    (16, 224, 768, 12, 512, 512),
    (14, 224, 1024, 24, 768, 768),
    (14, 336, 1024, 24, 768, 768),
}
# Ours -> the ranks of the tensors that sizes are read off.
_SIZED = {
    "vision/patch_embed/kernel": 4,
    "vision/positional_embedding": 2,
    "vision/proj": 2,
    "text/token_embedding": 2,
    "text/positional_embedding": 2,
}


def layout_of(tensors: Mapping[str, np.ndarray]) -> Layout:
    """Whose names these are.

    Raises:
      InputError: the tensors that sizes are read off are not there, or are no CLIP's.
    """
    lacking = {
        known: sorted({name for name, _ in known.outside.values()} - tensors.keys())
        for known in (OPENAI, HUGGING_FACE)
    }
    best = min(lacking, key=lambda known: len(lacking[known]))
    sized = {best.outside[ours][0]: rank for ours, rank in _SIZED.items()}
    if sized.keys() & set(lacking[best]):
        raise InputError(
            f"the weights are not those of a CLIP with a vision transformer: "
            f"{_some('missing', lacking[best])}; the file has {len(tensors)} tensors"
            f"{_some(', such as', sorted(tensors), 3)}. Give a file with OpenAI's or Hugging "
            "Face's tensor names."
        )
    for name, rank in sized.items():
        if tensors[name].ndim != rank:
            raise InputError(
                f"{name} has shape {tensors[name].shape} instead of {rank} dimensions, so the "
                "weights are no CLIP's: give a file with OpenAI's or Hugging Face's tensor names."
            )
    return best


def architecture(tensors: Mapping[str, np.ndarray], layout: Layout, stated: Stated) -> Architecture:
    """All dimensions, read off the weights; head counts from the config where it has them.

    Args:
      tensors: source tensors by name.
      layout: whose names they are.
      stated: what the weights' config says.

    Raises:
      InputError: sizes that cannot be CLIP's, or that contradict the config.
    """
    shapes = {ours: tensors[layout.outside[ours][0]].shape for ours in _SIZED}
    width, _, _, patch = shapes["vision/patch_embed/kernel"]
    vocab, text_width = shapes["text/token_embedding"]
    tokens = shapes["vision/positional_embedding"][0]
    if math.isqrt(tokens - 1) ** 2 != tokens - 1:
        raise InputError(f"{tokens - 1} patch positions are no square: not a CLIP's weights.")
    vision_layers, vision_mlp = _layers_and_mlp(tensors, layout.vision_block, layout)
    text_layers, text_mlp = _layers_and_mlp(tensors, layout.text_block, layout)
    head_width = stated.vision_head_width or HEAD_WIDTH
    found = Architecture(
        patch_size=patch,
        image_tokens=tokens,
        vision_width=width,
        vision_layers=vision_layers,
        vision_heads=_heads("vision", width, stated.vision_heads or width / head_width),
        vision_mlp=vision_mlp,
        vocab_size=vocab,
        context_length=shapes["text/positional_embedding"][0],
        text_width=text_width,
        text_layers=text_layers,
        text_heads=_heads("text", text_width, stated.text_heads or text_width / HEAD_WIDTH),
        text_mlp=text_mlp,
        embed_dim=shapes["vision/proj"][0 if layout is HUGGING_FACE else 1],
    )
    for name, value in stated.sizes:
        if value != getattr(found, name):
            raise InputError(
                f"the weights have {name}={getattr(found, name)} but their config says {value}: "
                "copy both again from one model."
            )
    return found


def are_openai(tensors: Mapping[str, np.ndarray], arch: Architecture) -> bool:
    """Whether weights without a config may be OpenAI's: of their sizes, and once in float16.

    Other CLIPs of the same sizes were trained and published in float32.
    """
    sizes = arch.patch_size, arch.image_size, arch.vision_width, arch.vision_layers, arch.text_width
    return (*sizes, arch.embed_dim) in _OPENAI_SIZES and all(
        np.array_equal(x, x.astype(np.float16).astype(np.float32))
        for x in tensors.values()
        if x.ndim > 1
    )


def _layers_and_mlp(tensors, prefix: str, layout: Layout) -> tuple[int, int]:
    pattern = re.compile(re.escape(prefix).replace(r"\{\}", r"(\d+)"))
    found = {int(m[1]) for name in tensors if (m := pattern.match(name))}
    fc = prefix.format(0) + layout.block["c_fc/bias"][0]
    if not found or fc not in tensors:
        raise InputError(f"{fc} is missing: the weights hold no transformer under this name.")
    return max(found) + 1, len(tensors[fc])


def _heads(tower: str, width: int, heads: float) -> int:
    if heads < 1 or width % heads:
        raise InputError(
            f"{heads:g} heads do not divide the {tower} width of {width}: put the config.json "
            "that belongs to the weights beside them."
        )
    return int(heads)


def port(
    tensors: Mapping[str, np.ndarray], layout: Layout, shapes: dict, arch: Architecture
) -> dict:
    """Moves source tensors into our tree.

    Args:
      tensors: source tensors by name.
      layout: whose names they are.
      shapes: our tree, whose leaves have a `.shape`.
      arch: the dimensions read off the tensors.

    Returns:
      The tree in float32, layers before the last one stacked under `blocks`.

    Raises:
      InputError: lists every missing, left-over and misshapen tensor.
    """
    targets = {path: leaf.shape for path, leaf in flatten_dict(shapes, sep="/").items()}
    table = _table(layout, targets, arch)
    expected = {}
    for path, sources in table.items():
        stacked = "/blocks/" in path
        for name, (_, source_shape) in sources:
            shape = targets[path][1:] if stacked else targets[path]
            expected[name] = source_shape(shape)
    _check(tensors, expected, layout.ignored)
    tree = {}
    for path, sources in table.items():
        parts = [forward(tensors[name]) for name, (forward, _) in sources]
        tree[path] = np.stack(parts) if "/blocks/" in path else np.asarray(parts[0], order="C")
    return unflatten_dict(tree, sep="/")


def openai_names(arch: Architecture) -> set[str]:
    """The names of all tensors of a CLIP of these dimensions, as OpenAI has them."""
    blocks = ((OPENAI.vision_block, arch.vision_layers), (OPENAI.text_block, arch.text_layers))
    return {name for name, _ in OPENAI.outside.values()} | {
        prefix.format(i) + name
        for prefix, layers in blocks
        for i in range(layers)
        for name, _ in OPENAI.block.values()
    }


# Facts of a config that neither the weights nor a run's settings tell.
_BESIDE = ("vision_epsilon", "text_epsilon", "mean", "std", "resize_mode", "interpolation")


def fingerprint(params: dict, stated: Stated) -> str:
    """SHA-256 over all weights of our tree, whatever file and layout they came from.

    What their config states of layer norms, pixels and resizing is part of it where it is not as
    CLIP has it.
    """
    digest = hashlib.sha256()
    usual = Stated()
    for name in _BESIDE:
        if (value := getattr(stated, name)) != getattr(usual, name):
            digest.update(f"{name}={value}".encode())
    for path, x in sorted(flatten_dict(params, sep="/").items()):
        digest.update(path.encode())
        digest.update(x.tobytes())
    return digest.hexdigest()


def _table(layout: Layout, targets: dict, arch: Architecture) -> dict:
    """Our path -> the source tensors of its layers, [(name, transform)], complete on our side."""
    table = {ours: [source] for ours, source in layout.outside.items()}
    for tower, prefix, layers in (
        ("vision", layout.vision_block, arch.vision_layers),
        ("text", layout.text_block, arch.text_layers),
    ):
        for ours, (name, transform) in layout.block.items():
            rows = [(prefix.format(i) + name, transform) for i in range(layers)]
            table[f"{tower}/last/{ours}"] = rows[-1:]
            if layers > 1:
                table[f"{tower}/blocks/{ours}"] = rows[:-1]
    if table.keys() != targets.keys():
        raise AssertionError(f"rename table and modules differ: {table.keys() ^ targets.keys()}")
    return table


def _check(tensors, expected: dict[str, tuple], ignored: str) -> None:
    if faults := mismatch(tensors, expected, ignored):
        raise InputError(
            f"the weights do not fit a CLIP of these dimensions: {faults}. Give the whole file of "
            "one model."
        )


def mismatch(tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple], ignored: str) -> str:
    """Every missing, left-over and misshapen tensor; "" where all is as expected.

    Args:
      tensors: by name.
      expected: shapes by name.
      ignored: pattern of names that may be left over.
    """
    missing = sorted(expected.keys() - tensors.keys())
    left_over = sorted(n for n in tensors.keys() - expected.keys() if not re.fullmatch(ignored, n))
    misshapen = [
        f"{name} {tensors[name].shape} instead of {tuple(shape)}"
        for name, shape in sorted(expected.items())
        if name in tensors and tensors[name].shape != tuple(shape)
    ]
    faults = {"missing": missing, "left over": left_over, "wrong shape": misshapen}
    return "; ".join(_some(word, names, len(names)) for word, names in faults.items() if names)


def _some(word: str, names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{word} {shown}" + (f" and {len(names) - most} more" if len(names) > most else "")
