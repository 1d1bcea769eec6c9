"""What golden files have in common: CLIP's drawn weights, and a method computed on them.

A golden file is a .npz of numbers that the authors' code of a method gives for a small CLIP of
random weights; its key "case" says the sizes.
"""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from sotglp_jax import clip
from sotglp_jax.clip import weights
from sotglp_jax.clip.config import Stated
from sotglp_jax.clip.packing import PackedClasses, pack
from sotglp_jax.clip.tokenizer import Tokens
from sotglp_jax.methods.contract import Method, Moment, Stage, masked_mean
from sotglp_jax.optimizers import sgd
from sotglp_jax.schedules import learning_rate


def source_shapes(case: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state dict that the case's weights are drawn for."""
    width, text, dim = case["vision_width"], case["text_width"], case["embed_dim"]
    p = case["vision_patch_size"]
    shapes = {
        "visual.conv1.weight": (width, 3, p, p),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((case["image_resolution"] // p) ** 2 + 1, width),
        "visual.proj": (width, dim),
        "token_embedding.weight": (49408, text),
        "positional_embedding": (77, text),
        "text_projection": (text, dim),
        "logit_scale": (),
    }
    for name, size in (("visual.ln_pre", width), ("visual.ln_post", width), ("ln_final", text)):
        shapes |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    for tower, size, layers in (
        ("visual.transformer", width, case["vision_layers"]),
        ("transformer", text, case["text_layers"]),
    ):
        for i in range(layers):
            shapes |= _block_shapes(f"{tower}.resblocks.{i}.", size)
    return shapes


def _block_shapes(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    matrices = {
        "attn.in_proj_": (3 * width, width),
        "attn.out_proj.": (width, width),
        "mlp.c_fc.": (4 * width, width),
        "mlp.c_proj.": (width, 4 * width),
        "ln_1.": (width,),
        "ln_2.": (width,),
    }
    return {f"{prefix}{name}weight": shape for name, shape in matrices.items()} | {
        f"{prefix}{name}bias": shape[:1] for name, shape in matrices.items()
    }


def draw(name: str, shape: tuple[int, ...], seed: list[int]) -> np.ndarray:
    """One tensor of the case's weights."""
    x = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    if name == "logit_scale":
        return np.array(np.log(100), np.float32)
    if name.endswith("bias"):
        return np.float32(0.05) * x
    if ".ln_" in name or name.startswith("ln_"):
        return np.float32(1) + np.float32(0.1) * x
    if name.endswith(("positional_embedding", "class_embedding", "token_embedding.weight")):
        return np.float32(0.1) * x
    if name == "visual.conv1.weight":
        return x * np.float32((3 * shape[-1] ** 2) ** -0.5)
    fan = shape[0] if name in ("visual.proj", "text_projection") else shape[-1]
    return x * np.float32(fan**-0.5)


def draw_weights(case: dict) -> dict[str, np.ndarray]:
    """All source tensors of the case by name."""
    shapes = sorted(source_shapes(case).items())
    return {name: draw(name, s, [case["seed"], i]) for i, (name, s) in enumerate(shapes)}


def load_clip(case: dict) -> tuple[clip.Towers, dict]:
    """The case's towers, which take normalised images as they are, and their weights."""
    tensors = draw_weights(case)
    layout = weights.layout_of(tensors)
    arch = weights.architecture(tensors, layout, Stated())
    towers = clip.build(arch, "quick_gelu")
    towers = dataclasses.replace(towers, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    return towers, weights.port(tensors, layout, clip.shapes(arch), arch)


def generator(case: dict) -> np.random.Generator:
    """Draws what is not CLIP's weights, in the order that a golden's page says."""
    return np.random.default_rng([case["seed"], 10000])


def normal(rng: np.random.Generator, scale: float, *shape: int) -> np.ndarray:
    """Normal numbers of a standard deviation, float32."""
    return np.float32(scale) * rng.standard_normal(shape, dtype=np.float32)


def draw_images(case: dict, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Normalised images (B, R, R, 3) and labels."""
    side, batch = case["image_resolution"], case["batch"]
    images = normal(rng, 1, batch, 3, side, side).transpose(0, 2, 3, 1)
    return images, rng.integers(0, len(case["names"]), batch)


def packed(ids: np.ndarray, context: int = 0, split: np.ndarray | int = 0) -> PackedClasses:
    """Texts whose slots for context, behind [SOS], are taken out.

    Args:
      ids: tokenized texts (C, 77).
      context: number of the slots.
      split: see `Tokens`.
    """
    eot = ids.argmax(1).astype(np.int32) - context
    ids = np.concatenate([ids[:, :1], ids[:, 1 + context :]], axis=1)[:, : eot.max() + 1]
    return pack(Tokens(ids, eot, np.broadcast_to(np.int32(split), eot.shape)))


def compute(method: Method) -> Callable:
    """A jitted function of (params, frozen, names, images, labels).

    It gives image features, text features, scores, the means of loss and metrics, and the gradient
    of the loss.
    """

    @jax.jit
    def run(params, frozen, names, images, labels):
        def objective(params):
            image = method.encode_images(params, frozen, images)
            text = method.encode_classes(params, frozen, names)
            moment = Moment(jax.random.key(0), jnp.int32(0), jnp.int32(0))
            values, metrics = method.loss(params, frozen, text, image, labels, moment)
            means = {k: masked_mean(x, labels) for k, x in ({"loss": values} | metrics).items()}
            return means["loss"], (image, text, method.score(params, frozen, text, image), means)

        gradient, found = jax.grad(objective, has_aux=True)(params)
        return *found, gradient

    return run


def follow(
    step: Callable, params: dict, inputs: Iterable, lr: float, momentum: float, decay: float
) -> tuple[dict, list]:
    """Parameters after a step of SGD with each input, and the loss before each.

    Args:
      step: a function of the parameters and an input that gives a loss and its gradient, of all
        parameters or of some.
      params: to start from.
      inputs: of the steps.
      lr: constant.
      momentum: of the gradients.
      decay: of the weights.
    """
    optimizer, losses = sgd(momentum, decay), []
    state = optimizer.init(params)
    for given in inputs:
        loss, gradient = step(params, given)
        direction, state = optimizer.update(gradient, state, params)
        params = params | {name: params[name] - lr * d for name, d in direction.items()}
        losses.append(loss)
    return params, losses


def descend(
    run: Callable, params: dict, rest: tuple, steps: int, lr: float, momentum: float, decay: float
) -> tuple[dict, list]:
    """Parameters after full-batch steps of SGD, and the loss before each."""

    def step(params: dict, _: int) -> tuple:
        *_, means, gradient = run(params, *rest)
        return means["loss"], gradient

    return follow(step, params, range(steps), lr, momentum, decay)


def rates(epochs: int, lr: float = 0.002, schedule: str = "dassl") -> list[float]:
    """The learning rate of every epoch; the first one of "dassl" is its warm-up."""
    stage = Stage(epochs, lr, schedule, warmup_epochs=int(schedule == "dassl"), warmup_lr=1e-5)
    return [float(learning_rate(stage, epoch)) for epoch in range(epochs)]
