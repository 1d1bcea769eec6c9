"""SOT-GLP, recipes official and paper."""

import jax
import numpy as np
from goldens import compute as function_of
from goldens import descend, draw_images, generator, load_clip, normal, packed

from sotglp_jax.evaluators import detection as ood_scores
from sotglp_jax.methods.sotglp import SotGlp
from sotglp_jax.trained import official

INPUTS = {"tokens"}
CONTEXT = 4
RECIPES = {
    "paper": {"fusion_weight": 0.25},
    "official": {
        "fusion_weight": 1.0,
        "mean_over_prompts": True,
        "mean_of_branches": True,
        "vv_first_layer_leak": True,
    },
}
KEYS = {"global_prompts": "global_prompt", "local_prompts": "local_prompts"}


def draw_prompts(case: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What is learned, under the official code's names and in its layouts."""
    width, text = case["vision_width"], case["text_width"]
    return {
        "global_prompt": normal(rng, 0.1, case["n_global"], CONTEXT, text),
        "local_prompts": normal(rng, 0.1, len(case["names"]), case["n_local"], CONTEXT, text),
        "local_proj.linear.weight": np.eye(width, dtype=np.float32)
        + normal(rng, 0.02, width, width),
    }


def tree_of(method: SotGlp, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters that the official code's tensors stand for."""
    shapes = {
        ours: tensors[theirs].shape
        for ours, (theirs, _) in method.torch_names.items()
        if theirs in tensors
    }
    return official.from_official(method, tensors, shapes)


def make(case: dict, recipe: str, **options) -> tuple[SotGlp, dict]:
    """The method of a recipe and the case's frozen weights."""
    towers, frozen = load_clip(case)
    sizes = {name: case[name] for name in ("n_global", "n_local", "topk")}
    return SotGlp(towers, global_dropout=0.0, **sizes | RECIPES[recipe] | options), frozen


def draw_inputs(case: dict, method: SotGlp) -> tuple[dict, np.ndarray, np.ndarray]:
    """Parameters, images and labels of the case."""
    rng = generator(case)
    params = tree_of(method, draw_prompts(case, rng))
    return params, *draw_images(case, rng)


def ood(scores) -> dict[str, np.ndarray]:
    """The *negative* of MCM, L-MCM and GL-MCM at T = 1, as the official code has them."""
    of_global, of_local = (scores.sims[name].mean(-1) for name in ("global", "local"))
    classes = of_global.shape[-1]
    mcm = ood_scores.concept_matching(ood_scores.deviation(of_global, 1), classes)
    l_mcm = ood_scores.concept_matching(ood_scores.deviation(of_local, 1).min(-1), classes)
    return {"mcm": -mcm, "l_mcm": -l_mcm, "gl_mcm": -(mcm + l_mcm)}


def named(params: dict) -> dict:
    """Parameters under the goldens' names; PyTorch keeps the projection transposed."""
    found = {theirs: params[ours] for ours, theirs in KEYS.items()}
    return found | {"local_proj": params["local_projection"].T}


def of_recipe(case: dict, golden, recipe: str) -> dict[str, np.ndarray]:
    """Ours for every key of a recipe, and of the five SGD steps for recipe official."""
    method, frozen = make(case, recipe)
    params, images, labels = draw_inputs(case, method)
    run, rest = function_of(method), (frozen, {"names": packed(golden["tokens"])}, images, labels)
    image, text, scores, means, gradient = run(params, *rest)
    ours = {
        "image_cls_pre_proj": image["cls"],
        "image_local_pre_proj": image["patches"],
        "text_global": text.global_,
        "text_local": text.local,
        "global_sim": scores.sims["global"],
        "local_sim": scores.sims["local"],
        "topk_indices": scores.parts["support"],
        "plan": scores.parts["plan"],
        "phi": scores.parts["phi"],
    }
    ours |= {k: means[k] for k in ("loss", "loss_global", "loss_local")}
    ours |= {f"prob_{k}": jax.nn.softmax(x) for k, x in scores.logits.items()}
    ours |= {f"ood/{k}": x for k, x in ood(scores).items()}
    ours |= {f"grad/{k}": x for k, x in named(gradient).items()}
    ours = {f"{recipe}/{k}": np.asarray(x) for k, x in ours.items()}
    if recipe == "official":
        params, losses = descend(run, params, rest, steps=5, lr=0.05, momentum=0.9, decay=0.01)
        ours |= {f"sgd/{k}": np.asarray(x) for k, x in ({"losses": losses} | named(params)).items()}
    return ours


def compute(case: dict, golden) -> dict[str, np.ndarray]:
    """Ours for every key of both recipes."""
    return of_recipe(case, golden, "official") | of_recipe(case, golden, "paper")
