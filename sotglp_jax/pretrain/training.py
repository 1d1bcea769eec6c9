"""Pre-trains the tiny CLIP on drawn characters: `python -m sotglp_jax.pretrain --out=DIR`."""

import dataclasses
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers
from absl import flags
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Bool, Float, UInt8
from safetensors.numpy import save_file
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers
from tqdm import tqdm

from sotglp_jax import clip
from sotglp_jax.clip import weights
from sotglp_jax.clip.tokenizer import END, START, Tokenizer
from sotglp_jax.data.digits import CLASS_NAMES, digits, source
from sotglp_jax.errors import InputError
from sotglp_jax.methods.similarity import unit
from sotglp_jax.paths import local
from sotglp_jax.pretrain import glyphs

_OUT = flags.DEFINE_string("out", None, "Folder for the weights, tokenizer and config.")
_STEPS = flags.DEFINE_integer("steps", 2500, "Optimiser steps.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 64, "Images a step.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights, images and captions.")

ACTIVATION = "quick_gelu"
CONTEXT_LENGTH = 32
PATCH = 8  # pixels along a side
INK = 0.25  # of a patch, from which on it shows the character
_AHEAD = 8  # batches drawn while a step runs
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # CLIP's


def architecture(vocab_size: int) -> clip.Architecture:
    """The tiny CLIP's dimensions: 64 patches of 8 by 8 pixels, joint width 64."""
    return clip.Architecture(
        patch_size=PATCH,
        image_tokens=(glyphs.SIZE // PATCH) ** 2 + 1,
        vision_width=128,
        vision_layers=3,
        vision_heads=2,
        vision_mlp=512,
        vocab_size=vocab_size,
        context_length=CONTEXT_LENGTH,
        text_width=64,
        text_layers=2,
        text_heads=1,
        text_mlp=256,
        embed_dim=64,
    )


def train_tokenizer() -> tokenizers.Tokenizer:
    """Learns CLIP's kind of byte-pair encoding from the captions.

    Every byte is a token of its own, within and at the end of a word, so that any class name
    can be written.
    """
    bpe = tokenizers.Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alone = sorted(byte_level.alphabet())
    # Named as special tokens, because the trainer numbers other word ends in random order.
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=[START, END, *(f"{character}</w>" for character in alone)],
        initial_alphabet=alone,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(glyphs.every_caption(), trainer)
    return tokenizers.Tokenizer.from_str(
        json.dumps(json.loads(bpe.to_str()) | {"added_tokens": []})
    )


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images with captions.

    Attributes:
      images: grey.
      inked: True of the patches that show the character, row by row.
      captions: one an image.
      same: True where two images show the same character.
    """

    images: UInt8[np.ndarray, "B R R"]
    inked: Bool[np.ndarray, "B P"]
    captions: list[str]
    same: Bool[np.ndarray, "B B"]


def draw(seed: int, step: int, size: int) -> Batch:
    """The batch of one step, which depends on nothing else."""
    rng = np.random.default_rng([seed, step])
    drawn = [glyphs.render(rng) for _ in range(size)]
    characters = np.array([glyph.character for glyph in drawn])
    return Batch(
        np.stack([glyph.image for glyph in drawn]),
        np.stack([inked(glyph.ink) for glyph in drawn]),
        [glyph.caption for glyph in drawn],
        characters[:, None] == characters,
    )


def inked(ink: UInt8[np.ndarray, "R R"]) -> Bool[np.ndarray, " P"]:
    """Whether strokes cover `INK` of each patch; of the most covered one in any case."""
    side = len(ink) // PATCH
    share = ink.reshape(side, PATCH, side, PATCH).mean((1, 3)).ravel() / 255
    return share >= min(INK, share.max())


def _batches(seed: int, steps: int, size: int) -> Iterator[Batch]:
    """Draws ahead in a thread: JAX holds no interpreter lock while it computes."""
    with ThreadPoolExecutor(1) as pool:
        ahead: deque = deque()
        for step in range(steps + _AHEAD):
            if step < steps:
                ahead.append(pool.submit(draw, seed, step, size))
            if step >= _AHEAD:
                yield ahead.popleft().result()


def image_features(
    towers: clip.Towers, params: dict, images: UInt8[Array, "B R R"]
) -> tuple[Float[Array, "B D"], Float[Array, "B P D"]]:
    """Unit features of the class token and of the V-V patches."""
    features = towers.images(params, images[..., None], local="vv")  # grey as RGB
    return tuple(unit(towers.project(params, features[x])) for x in ("cls", "patches"))


def text_features(towers: clip.Towers, params: dict, tokens) -> Float[Array, "n D"]:
    """Unit features of tokenised texts."""
    embeddings = towers.embed(params, tokens.ids)
    return unit(towers.text.apply({"params": params["text"]}, embeddings, tokens.eot))


def contrastive_loss(logits: Float[Array, "B B"], same: Bool[Array, "B B"]) -> Float[Array, ""]:
    """CLIP's symmetric cross-entropy; captions of equal characters share the target."""
    targets = same / same.sum(axis=1, keepdims=True)
    both = (optax.softmax_cross_entropy(x, targets) for x in (logits, logits.T))
    return sum(x.mean() for x in both) / 2


def locating_loss(logits: Float[Array, "B P"], inked: Bool[Array, "B P"]) -> Float[Array, ""]:
    """-log of the share that a softmax over the patches leaves to those with ink, in the mean."""
    chances = jax.nn.log_softmax(logits)
    return -jax.nn.logsumexp(chances, axis=-1, where=inked).mean()


def _loss(params, towers, images, inked, tokens, same):
    scale = jnp.exp(jnp.minimum(params["logit_scale"], jnp.log(100.0)))
    texts = text_features(towers, params, tokens)
    classes, patches = image_features(towers, params, images)
    # SOT-GLP's local branch compares patches with texts and keeps the best. Without the last loss
    # these are of the background, since attention brings there what the strokes show.
    strokes = unit(jnp.sum(patches * inked[..., None], axis=1))
    of_own_text = scale * jnp.einsum("bpd,bd->bp", patches, texts)
    losses = [contrastive_loss(scale * x @ texts.T, same) for x in (classes, strokes)]
    return (sum(losses) + locating_loss(of_own_text, inked)) / 3


def initialise(towers: clip.Towers, seed: int) -> dict:
    """Random parameters, as in `Clip.params`; the temperature starts at 1/10."""
    keys = jax.random.split(jax.random.key(seed))
    images = jnp.zeros((1, glyphs.SIZE, glyphs.SIZE, 3))
    embeddings = jnp.zeros((1, 8, towers.text.width))
    return {
        "vision": towers.vision.init(keys[0], images)["params"],
        "text": towers.text.init(keys[1], embeddings, jnp.zeros(1, int))["params"],
        "logit_scale": jnp.log(10.0),
    }


def _optimiser(steps: int) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(0, 1e-3, min(300, steps // 2), steps)

    def kernels(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)

    adamw = optax.adamw(rate, b2=0.98, weight_decay=0.1, mask=kernels)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


def train(towers: clip.Towers, tokenizer: Tokenizer, steps: int, batch: int, seed: int) -> dict:
    """Trains both towers.

    Args:
      towers: modules of the tiny architecture.
      tokenizer: encodes the captions.
      steps: optimiser steps.
      batch: images a step.
      seed: of weights, images and captions.

    Returns:
      The parameters, as in `Clip.params`.
    """
    params, optimiser = jax.jit(partial(initialise, towers, seed))(), _optimiser(steps)
    state = optimiser.init(params)

    @jax.jit
    def update(params, state, images, inked, tokens, same):
        loss, gradient = jax.value_and_grad(_loss)(params, towers, images, inked, tokens, same)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    texts, report = glyphs.every_caption(), _Report(steps)
    table, row = tokenizer(texts), {text: i for i, text in enumerate(texts)}
    for data in _batches(seed, steps, batch):
        rows = [row[text] for text in data.captions]
        tokens = jax.tree.map(lambda column, rows=rows: column[rows], table)
        params, state, loss = update(params, state, data.images, data.inked, tokens, data.same)
        report(float(loss))
    return jax.device_get(params)


class _Report:
    """The loss and the time left: a bar on a terminal, elsewhere a line every 100 steps."""

    def __init__(self, steps: int):
        self._steps, self._start, self._losses = steps, time.monotonic(), []
        self._bar = tqdm(total=steps, disable=not sys.stderr.isatty())

    def __call__(self, loss: float) -> None:
        self._losses.append(loss)
        done, recent = len(self._losses), np.mean(self._losses[-100:])
        self._bar.set_postfix(loss=f"{recent:.3f}", refresh=False)
        self._bar.update()
        if self._bar.disable and (done % 100 == 0 or done == self._steps):
            left = (time.monotonic() - self._start) * (self._steps / done - 1)
            print(f"step {done}/{self._steps} loss {recent:.3f} {left:.0f} s left", flush=True)
        if done == self._steps:
            self._bar.close()


def openai_tensors(params: dict, arch: clip.Architecture) -> dict[str, np.ndarray]:
    """Parameters in float16 under OpenAI's names; the inverse of `weights.port`."""
    ours = flatten_dict(params, sep="/")
    kernel = ours.pop("vision/patch_embed/kernel")
    side = arch.patch_size
    tensors = {"visual.conv1.weight": kernel.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)}
    for tower, prefix, layers in (
        ("vision", weights.OPENAI.vision_block, arch.vision_layers),
        ("text", weights.OPENAI.text_block, arch.text_layers),
    ):
        for i in range(layers):
            layer = _layer(ours, tower, i, layers)
            tensors |= {prefix.format(i) + name: x for name, x in layer.items()}
    outside = {
        name: ours[path] for path, (name, _) in weights.OPENAI.outside.items() if path in ours
    }
    return {k: np.array(x, np.float16, order="C") for k, x in (tensors | outside).items()}


def _layer(ours: dict, tower: str, i: int, layers: int) -> dict[str, np.ndarray]:
    """One layer's tensors; queries, keys and values go into one matrix, in this order."""
    parts: dict[str, list] = {}
    for path, (name, _) in weights.OPENAI.block.items():
        last = i == layers - 1
        x = ours[f"{tower}/last/{path}"] if last else ours[f"{tower}/blocks/{path}"][i]
        parts.setdefault(name, []).append(x.T)
    return {name: np.concatenate(xs) for name, xs in parts.items()}


def config(arch: clip.Architecture) -> dict:
    """The `open_clip_config.json` of these dimensions."""
    vision = {
        "image_size": arch.image_size,
        "patch_size": arch.patch_size,
        "width": arch.vision_width,
        "layers": arch.vision_layers,
        "head_width": arch.vision_width // arch.vision_heads,
    }
    text = {
        "context_length": arch.context_length,
        "vocab_size": arch.vocab_size,
        "width": arch.text_width,
        "heads": arch.text_heads,
        "layers": arch.text_layers,
    }
    return {
        "model_cfg": {
            "embed_dim": arch.embed_dim,
            "quick_gelu": ACTIVATION == "quick_gelu",
            "vision_cfg": vision,
            "text_cfg": text,
        }
    }


def digits_accuracy(folder: Path) -> float:
    """Zero-shot accuracy of a written CLIP on scikit-learn's handwritten digits, in [0, 1]."""
    pool, model = source(range(1797)), clip.load(str(folder))
    towers = clip.build(model.arch, model.activation)
    images = [np.asarray(example["image"])[..., 0] for example in pool]
    names = [digits().template.format(word) for word in CLASS_NAMES]
    texts = jax.jit(partial(text_features, towers))(model.params, model.tokenizer(names))
    classes, _ = jax.jit(partial(image_features, towers))(model.params, np.stack(images))
    return float(np.mean(np.argmax(classes @ texts.T, axis=1) == np.array(pool.labels)))


def pretrain(out: Path, steps: int, batch: int, seed: int) -> dict:
    """Trains and writes a tiny CLIP.

    Args:
      out: folder for `model.safetensors`, `tokenizer.json` and `open_clip_config.json`.
      steps: optimiser steps.
      batch: images a step, at least 2.
      seed: of weights, images and captions.

    Returns:
      The trained parameters in float32.

    Raises:
      InputError: the folder cannot be written, or the batch has no pair to contrast.
    """
    if batch < 2:
        raise InputError(f"--batch={batch} leaves nothing to contrast: set it to 2 or more.")
    bpe = train_tokenizer()
    arch = architecture(bpe.get_vocab_size())
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "open_clip_config.json").write_text(
            json.dumps(config(arch), indent=1) + "\n", "utf-8"
        )
    except OSError as error:
        raise InputError(
            f"--out={out} cannot be written ({error.strerror}): name a folder that you may write."
        ) from None
    bpe.save(str(out / "tokenizer.json"))
    tokenizer = Tokenizer(out / "tokenizer.json", CONTEXT_LENGTH)
    params = train(clip.build(arch, ACTIVATION), tokenizer, steps, batch, seed)
    save_file(openai_tensors(params, arch), out / "model.safetensors")
    return params


def main(_: list[str]) -> None:
    """Trains, writes and evaluates as the flags say."""
    out = local(_OUT.value, "--out")
    pretrain(out, _STEPS.value, _BATCH.value, _SEED.value)
    print(f"zero-shot accuracy on scikit-learn's digits: {digits_accuracy(out):.1%}")
