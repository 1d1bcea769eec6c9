"""MaPLe: both towers' prompts, and the gradient through both."""

import numpy as np
from goldens import compute as function_of
from goldens import descend, draw_images, generator, load_clip, normal, packed, rates

from sotglp_jax.methods.maple import MaPLe

INPUTS = {"tokens"}


def draw_params(case: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The parameters in the order of the golden's page."""
    rows, n = case["depth"], case["n_ctx"]
    text_width, width = case["text_width"], case["vision_width"]
    return {
        "text_prompts": normal(rng, 0.1, rows, n, text_width),
        "proj_w": normal(rng, text_width**-0.5, rows, width, text_width),
        "proj_b": normal(rng, 0.05, rows, width),
    }


def compute(case: dict, golden) -> dict[str, np.ndarray]:
    """Ours for every key."""
    (towers, frozen), rng = load_clip(case), generator(case)
    method = MaPLe(towers, n_ctx=case["n_ctx"], depth=case["depth"])
    params = draw_params(case, rng)
    images, labels = draw_images(case, rng)
    rest = (frozen, {"names": packed(golden["tokens"], case["n_ctx"])}, images, labels)
    run = function_of(method)
    image, text, scores, means, gradient = run(params, *rest)
    settings = case["lr"], case["momentum"]
    after, losses = descend(run, params, rest, case["steps"], *settings, case["weight_decay"])
    decayed, _ = descend(
        run, params, rest, case["decay_steps"], *settings, case["decay_weight_decay"]
    )
    ours = {
        "labels": labels,
        **{f"param/{name}": x for name, x in params.items()},
        **{f"grad/{name}": x for name, x in gradient.items()},
        **{f"sgd/{name}": x for name, x in after.items()},
        **{f"decay/{name}": decayed[name] for name in ("text_prompts", "proj_b")},
        "vision_prompts": method.vision_prompts(params),
        "text_features": text[:, 0],
        "image_features": towers.project(frozen, image["prompted"]),
        "logits": scores.logits["prompted"],
        "loss": means["loss"],
        "sgd/losses": losses,
        "test/logits": run(after, *rest)[2].logits["prompted"],
        "lr/fewshot": rates(5, 0.0035),
        "lr/cross": rates(2, 0.0026),
    }
    return {key: np.asarray(x) for key, x in ours.items()}
