"""LoCoOp: its loss, where the background is, and its detection."""

import jax
import numpy as np
from goldens import compute as function_of
from goldens import descend, draw_images, generator, load_clip, normal, packed, rates
from sklearn.metrics import average_precision_score

from sotglp_jax.evaluators import detection, ood
from sotglp_jax.methods.locoop import LoCoOp, background

from . import measured

INPUTS = {"tokens", "measure/in", "measure/out"}


def detected(scores, temperature: float) -> dict[str, np.ndarray]:
    """Theirs is the negative, lower in distribution."""
    classes = scores.sims["global"].shape[1]
    values = jax.device_get(ood.compute(scores, "prompted", temperature))
    found = ood.collect(values, classes)
    names = {"mcm": "mcm", "gl_mcm": "gl_mcm"}
    return {f"ood/{ours}_T{temperature:g}": -found[name] for ours, name in names.items()}


def entropy_gradient(method: LoCoOp):
    """A function that gives the gradient of the entropy's term alone."""

    def objective(params, frozen, names, images, labels):
        image = method.encode_images(params, frozen, images)
        text = method.encode_classes(params, frozen, names)
        return method.loss(params, frozen, text, image, labels, None)[1]["loss_en"].mean()

    return jax.jit(jax.grad(objective))


def losses(run, params: dict, rest: tuple, steps: int, optim: dict, name: str) -> list[float]:
    """A part of the loss before each step."""
    settings = optim["lr"], optim["momentum"], optim["weight_decay"]
    starts = (descend(run, params, rest, i, *settings)[0] for i in range(steps))
    return [run(start, *rest)[3][name] for start in starts]


def compute(case: dict, golden) -> dict[str, np.ndarray]:
    """Ours for every key."""
    (towers, frozen), rng = load_clip(case), generator(case)
    m = golden["ctx"].shape[0]
    params = {"ctx": normal(rng, 0.1, m, case["text_width"])}
    images, labels = draw_images(case, rng)
    method = LoCoOp(towers, n_ctx=m, topk=case["topk"], weight=case["lambda"])
    rest = (frozen, {"names": packed(golden["tokens"], m)}, images, labels)
    run, optim = function_of(method), case["optim"]
    image, text, scores, means, gradient = run(params, *rest)
    steps, settings = optim["steps"], (optim["lr"], optim["momentum"], optim["weight_decay"])
    after, totals = descend(run, params, rest, steps, *settings)
    scale = np.exp(frozen["logit_scale"])
    local = scale * scores.sims["local"][..., 0]
    none = function_of(LoCoOp(towers, n_ctx=m, topk=len(case["names"]), weight=case["lambda"]))
    without = none(params, *rest)[3]
    inside, outside = -golden["measure/in"], -golden["measure/out"]
    truth = np.repeat([1, 0], [len(inside), len(outside)])
    ours = {
        **params,
        "labels": labels,
        "image_features": towers.project(frozen, image["cls"]),
        "local_features": towers.project(frozen, image["patches"]),
        "text_features": text[:, 0],
        "logits": scores.logits["prompted"],
        "logits_local": local,
        "ood_patches": np.asarray(background(local, labels, case["topk"])).astype(float),
        **{key: means[key] for key in ("loss", "loss_id", "loss_en")},
        "grad/ctx": gradient["ctx"],
        "grad_en/ctx": entropy_gradient(method)(params, *rest)["ctx"],
        "sgd/losses": totals,
        "sgd/losses_id": losses(run, params, rest, steps, optim, "loss_id"),
        "sgd/losses_en": losses(run, params, rest, steps, optim, "loss_en"),
        "sgd/ctx": after["ctx"],
        "none/loss": without["loss"],
        "none/loss_en": without["loss_en"],
        "measure/auroc_aupr_fpr95": [
            detection.auroc(inside, outside),
            average_precision_score(truth, np.concatenate([inside, outside])),
            measured.fpr95(inside, outside),
        ],
        "lr/50": rates(50),
    }
    for temperature in case["T"]:
        ours |= detected(scores, temperature)
    return {key: np.asarray(x) for key, x in ours.items()}
