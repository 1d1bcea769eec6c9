"""Compares this package with the numbers of the official SOT-GLP code.

    python tests/parity.py FILE...

Each FILE is a .npz of golden numbers for a CLIP of random weights. Prints the largest absolute
and relative difference of every key and exits with 1 if one exceeds the tolerance, 1e-4 of the
key's largest absolute value.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sotglp_jax import clip, official
from sotglp_jax import ood as ood_scores
from sotglp_jax.clip import weights
from sotglp_jax.clip.config import Stated
from sotglp_jax.clip.packing import PackedClasses, pack
from sotglp_jax.clip.tokenizer import Tokens
from sotglp_jax.methods.sotglp import SotGlp
from sotglp_jax.state import sgd

TOLERANCE = 1e-4
CONTEXT = 4

RECIPES = {
    "paper": {"fusion_weight": 0.25},
    "official": {"fusion_weight": 1.0, "mean_over_prompts": True, "mean_of_branches": True},
}


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


def draw_prompts(case: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What is learned, under the official code's names and in its layouts."""
    tenth, width, text = np.float32(0.1), case["vision_width"], case["text_width"]

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    return {
        "global_prompt": tenth * normal(case["n_global"], CONTEXT, text),
        "local_prompts": tenth * normal(len(case["names"]), case["n_local"], CONTEXT, text),
        "local_proj.linear.weight": np.eye(width, dtype=np.float32)
        + np.float32(0.02) * normal(width, width),
    }


def draw_inputs(case: dict) -> tuple[dict, np.ndarray, np.ndarray]:
    """Trainable tree, normalised images (B, R, R, 3) and labels of the case."""
    rng = np.random.default_rng([case["seed"], 10000])
    trainable = tree_of(draw_prompts(case, rng))
    side, shape = case["image_resolution"], (case["batch"], 3)
    images = rng.standard_normal((*shape, side, side), dtype=np.float32).transpose(0, 2, 3, 1)
    return trainable, images, rng.integers(0, len(case["names"]), case["batch"])


def tree_of(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The trainable tree of the official code's tensors."""
    shapes = {"global_prompts": tensors["global_prompt"].shape}
    shapes["local_prompts"] = tensors["local_prompts"].shape
    shapes["local_projection"] = tensors["local_proj.linear.weight"].shape
    return official.from_official(tensors, shapes)


def make(case: dict, recipe: str, **options) -> tuple[SotGlp, dict]:
    """The method of a recipe and the case's frozen weights."""
    tensors = draw_weights(case)
    layout = weights.layout_of(tensors)
    arch = weights.architecture(tensors, layout, Stated())
    towers = clip.build(arch, "quick_gelu", vv_first_layer_leak=recipe == "official")
    method = SotGlp(
        towers,
        template_ids=(0,) * CONTEXT,
        n_global=case["n_global"],
        n_local=case["n_local"],
        topk=case["topk"],
        global_dropout=0.0,
        **RECIPES[recipe] | options,
    )
    return method, weights.port(tensors, layout, clip.shapes(arch), arch)


def classes_of(golden) -> PackedClasses:
    """The bare class names, cut to the length that they need."""
    ids = golden["tokens"]
    eot = ids.argmax(1)
    return pack(Tokens(ids[:, : eot.max() + 1], eot.astype(np.int32)))


def ood(scores) -> dict[str, np.ndarray]:
    """The *negative* of MCM, L-MCM and GL-MCM at T = 1, as the official code has them."""
    classes = scores.phi.shape[-1]
    mcm = ood_scores.concept_matching(ood_scores.deviation(scores.sim_global.mean(-1), 1), classes)
    deviations = ood_scores.deviation(scores.sim_local.mean(-1), 1).min(-1)
    l_mcm = ood_scores.concept_matching(deviations, classes)
    return {"mcm": -mcm, "l_mcm": -l_mcm, "gl_mcm": -(mcm + l_mcm)}


def forward_and_gradient(method: SotGlp):
    """Jitted: features, scores, and gradient and metrics of the loss without dropout."""

    @jax.jit
    def compute(trainable, frozen, classes, images, labels):
        image = method.towers.vision.apply({"params": frozen["vision"]}, images)
        text = method.encode_classes(trainable, frozen, classes)
        scores = method.score(trainable, frozen, text, image)
        mask, key = jnp.ones(len(labels), bool), jax.random.key(0)
        sums = jax.grad(method.loss, has_aux=True)(
            trainable, frozen, classes, image, labels, mask, key
        )
        grads, metrics = jax.tree.map(lambda x: x / len(labels), sums)
        return image, text, scores, grads, metrics

    return compute


def compute(case: dict, golden, recipe: str) -> dict[str, np.ndarray]:
    """Ours for every key of a recipe, and of the five SGD steps for recipe official."""
    method, frozen = make(case, recipe)
    trainable, images, labels = draw_inputs(case)
    run = forward_and_gradient(method)
    image, text, scores, grads, metrics = run(trainable, frozen, classes_of(golden), images, labels)
    ours = {
        "image_cls_pre_proj": image.cls,
        "image_local_pre_proj": image.patches,
        "text_global": text.global_,
        "text_local": text.local,
        "global_sim": scores.sim_global,
        "local_sim": scores.sim_local,
        "topk_indices": scores.support,
        "plan": scores.plan,
        "phi": scores.phi,
    }
    ours |= {k: metrics[k] for k in ("loss", "loss_global", "loss_local")}
    ours |= {f"prob_{k}": jax.nn.softmax(x) for k, x in scores.logits.items()}
    ours |= {f"ood/{k}": x for k, x in ood(scores).items()}
    ours |= {f"grad/{k}": x for k, x in official_names(grads).items()}
    ours = {f"{recipe}/{k}": np.asarray(x) for k, x in ours.items()}
    if recipe == "official":
        ours |= five_steps(run, trainable, (frozen, classes_of(golden), images, labels))
    return ours


def official_names(trainable: dict) -> dict:
    """Our trainable tree under the goldens' names; PyTorch keeps the projection transposed."""
    return {
        "global_prompt": trainable["global_prompts"],
        "local_prompts": trainable["local_prompts"],
        "local_proj": trainable["local_projection"].T,
    }


def five_steps(run, trainable: dict, rest: tuple) -> dict[str, np.ndarray]:
    """Losses before and parameters after five full-batch steps of SGD."""
    optimizer = sgd(learning_rate=0.05, momentum=0.9, weight_decay=0.01)
    state, losses = optimizer.init(trainable), []
    for _ in range(5):
        *_, grads, metrics = run(trainable, *rest)
        updates, state = optimizer.update(grads, state, trainable)
        trainable = optax.apply_updates(trainable, updates)
        losses.append(metrics["loss"])
    ours = {"losses": losses} | official_names(trainable)
    return {f"sgd/{k}": np.asarray(x) for k, x in ours.items()}


def differences(path: Path) -> dict[str, tuple[float, float]]:
    """Largest absolute and relative difference of every key of a golden file."""
    golden = np.load(path, allow_pickle=False)
    case = json.loads(str(golden["case"]))
    with jax.default_matmul_precision("highest"):
        ours = compute(case, golden, "official") | compute(case, golden, "paper")
    unknown = set(golden) - set(ours) - {"case", "tokens"}  # those two are inputs
    assert not unknown, f"{path} holds keys that nothing here computes: {sorted(unknown)}"
    result = {}
    for key in sorted(set(golden) - {"case", "tokens"}):
        assert ours[key].shape == golden[key].shape, (key, ours[key].shape, golden[key].shape)
        absolute = float(np.abs(ours[key] - golden[key]).max())
        result[key] = absolute, absolute / float(np.abs(golden[key]).max())
    return result


def print_table(differences: dict[str, tuple[float, float]]) -> bool:
    """Prints a row a key; True if one exceeds the tolerance."""
    print(f"{'key':<34}{'absolute':>12}{'relative':>12}")
    failed = False
    for key, (absolute, relative) in differences.items():
        exceeds = not relative <= TOLERANCE
        failed |= exceeds
        print(f"{key:<34}{absolute:>12.2e}{relative:>12.2e}{'  FAIL' if exceeds else ''}")
    return failed


def main(paths: list[str]) -> int:
    """Prints the table of each file; 1 if a key exceeds the tolerance."""
    failed = False
    for path in paths:
        print(path)
        failed |= print_table(differences(Path(path)))
    return int(failed)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
