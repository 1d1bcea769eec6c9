"""Independent prompts of both towers, of the text tower, and of the vision tower."""

import numpy as np
from goldens import compute as function_of
from goldens import descend, draw_images, generator, load_clip, normal, packed

from sotglp_jax.methods.ivlp import Ivlp, Language, Vpt

INPUTS = {"tokens"}


def methods(case: dict, towers) -> dict:
    """The three by the golden's names."""
    text = {"n_text": case["n_ctx_text"], "text_depth": case["depth_text"]}
    vision = {"n_vision": case["n_ctx_vision"], "vision_depth": case["depth_vision"]}
    return {
        "both": Ivlp(towers, **text, **vision),
        "language": Language(towers, **text),
        "vpt": Vpt(towers, **vision),
    }


def compute(case: dict, golden) -> dict[str, np.ndarray]:
    """Ours for every key."""
    (towers, frozen), rng = load_clip(case), generator(case)
    drawn = {
        "text_prompts": normal(
            rng, 0.1, case["depth_text"], case["n_ctx_text"], case["text_width"]
        ),
        "vision_prompts": normal(
            rng, 0.1, case["depth_vision"], case["n_ctx_vision"], case["vision_width"]
        ),
    }
    images, labels = draw_images(case, rng)
    ours = {"labels": labels}
    for name, method in methods(case, towers).items():
        learned = {"both": list(drawn), "language": ["text_prompts"], "vpt": ["vision_prompts"]}
        params = {key: drawn[key] for key in learned[name]}
        words = packed(golden["tokens"], 0 if name == "vpt" else case["n_ctx_text"])
        rest, run = (frozen, {"names": words}, images, labels), function_of(method)
        image, text, scores, means, gradient = run(params, *rest)
        settings = case["lr"][name], case["momentum"], case["weight_decay"]
        after, losses = descend(run, params, rest, case["steps"], *settings)
        found = {
            "text_features": text[:, 0],
            "image_features": towers.project(frozen, image.get("prompted", image.get("cls"))),
            "logits": scores.logits["prompted"],
            "loss": means["loss"],
            "sgd/losses": losses,
            **{f"grad/{key}": x for key, x in gradient.items()},
            **{f"sgd/{key}": x for key, x in after.items()},
        }
        ours |= {f"{name}/{key}": x for key, x in found.items()}
    return {key: np.asarray(x) for key, x in ours.items()}
