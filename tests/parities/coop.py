"""CoOp: where its context stands, and what that starts from."""

import numpy as np
from goldens import compute as function_of
from goldens import descend, draw_images, generator, load_clip, normal, packed, rates

from sotglp_jax.methods.coop import CoOp

INPUTS = {"name_len", "tokens_m4", "tokens_m5", "tokens_m16"}


def draw_contexts(case: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The contexts that are drawn."""
    width = case["text_width"]
    return {
        "ctx_shared_m16": normal(rng, 0.1, 16, width),
        "ctx_csc_m16": normal(rng, 0.1, len(case["names"]), 16, width),
        "ctx_shared_m5": normal(rng, 0.1, 5, width),
    }


def of_variant(case: dict, golden, clip: tuple, variant: dict, inputs: tuple) -> dict:
    """Ours for every key of a variant."""
    (towers, frozen), (context, images, labels) = clip, inputs
    m = context.shape[-2]
    options = {"class_specific": variant["class_specific"], "position": variant["position"]}
    method = CoOp(towers, n_ctx=m, **options)
    names = {"names": packed(golden[f"tokens_m{m}"], m, golden["name_len"])}
    run, rest, params = function_of(method), (frozen, names, images, labels), {"ctx": context}
    _, text, scores, means, gradient = run(params, *rest)
    optim = case["optim"]
    after, losses = descend(
        run, params, rest, optim["steps"], optim["lr"], optim["momentum"], optim["weight_decay"]
    )
    return {
        "text_features": text[:, 0],
        "logits": scores.logits["prompted"],
        "loss": means["loss"],
        "grad/ctx": gradient["ctx"],
        "sgd/losses": losses,
        "sgd/ctx": after["ctx"],
        "sgd/logits": run(after, *rest)[2].logits["prompted"],
    }


def compute(case: dict, golden) -> dict[str, np.ndarray]:
    """Ours for every key."""
    (towers, frozen), rng = clip, _ = load_clip(case), generator(case)
    contexts = draw_contexts(case, rng)
    images, labels = draw_images(case, rng)
    contexts["ctx_init_m4"] = np.asarray(towers.embed(frozen, golden["tokens_m4"][0, 1:5]))
    cls = towers.images(frozen, images)["cls"]
    ours = contexts | {"labels": labels, "image_features": towers.project(frozen, cls)}
    ours |= {f"lr/{epochs}": rates(epochs) for epochs in (50, 100, 200)}
    for name, variant in case["variants"].items():
        inputs = contexts[variant["context"]], images, labels
        found = of_variant(case, golden, clip, variant, inputs)
        ours |= {f"{name}/{key}": x for key, x in found.items()}
    return {key: np.asarray(x) for key, x in ours.items()}
