"""ProDA: the bound of its loss by blocks of prompts, and its test. Not of official code."""

import jax
import numpy as np
from goldens import draw_images, follow, generator, load_clip, normal, packed

from sotglp_jax.methods import proda
from sotglp_jax.methods.proda import ProDA
from sotglp_jax.methods.similarity import cosines, unit

INPUTS = {"tokens", "tokens_no_class", "name_len", "permutations", "batches", "positions"}


def step_of(method: ProDA, part: str):
    """A jitted function: the loss of a block of prompts, or a part of it, and its gradient."""

    def objective(params, chosen, frozen, names, images, labels):
        image = method.encode_images(params, frozen, images)
        text = method.texts_of(params, frozen, names, chosen)
        values, metrics = method.loss(params, frozen, text, image, labels, None)
        means = {key: x.mean() for key, x in (metrics | {"loss": values}).items()}
        return means[part], (text, means)

    return jax.jit(jax.value_and_grad(objective, has_aux=True))


def compute(case: dict, golden) -> dict[str, np.ndarray]:
    """Ours for every key."""
    (towers, frozen), rng = load_clip(case), generator(case)
    k, m, n = case["n_prompts"], case["n_ctx"], case["prompt_batch"]
    params = {"ctx": normal(rng, 0.1, k, m, case["text_width"])}
    images, labels = draw_images(case, rng)
    method = ProDA(towers, n_prompts=k, n_ctx=m, block=n, weight=case["lambda"])
    empty = golden["tokens_no_class"][None]
    names = {"names": packed(golden["tokens"], m, golden["name_len"]), "empty": packed(empty, m)}
    rest, batches = (frozen, names, images, labels), golden["batches"]
    step = step_of(method, "loss")
    (loss, (text, means)), gradient = step(params, batches[0], *rest)
    feature, scale = (
        towers.project(frozen, towers.images(frozen, images)["cls"]),
        np.exp(frozen["logit_scale"]),
    )
    encode = jax.jit(method.encode_classes)
    whole, prompts = encode(params, frozen, names), unit(text.block)
    logits_mean = scale * cosines("bd,cd->bc", unit(feature), prompts.mean(1))
    spread = proda.variance(unit(feature), prompts, labels)

    def tested(params: dict) -> np.ndarray:
        scores = method.score(params, frozen, encode(params, frozen, names), {"cls": cls})
        return scores.logits["prompted"]

    cls = towers.images(frozen, images)["cls"]
    ours = {
        **params,
        "labels": labels,
        "image_features": feature,
        "text_features": whole,
        "no_class_features": text.no_class,
        "prompt_mean": prompts.mean(1),
        "logits_mean": logits_mean,
        "variance": spread,
        "logits": logits_mean + 0.5 * scale**2 * spread,
        "loss": loss,
        "loss_upper": means["loss_upper"],
        "loss_ortho": means["loss_ortho"],
        "grad/ctx": gradient["ctx"],
        "grad_upper/ctx": step_of(method, "loss_upper")(params, batches[0], *rest)[1]["ctx"],
        "grad_ortho/ctx": step_of(method, "loss_ortho")(params, batches[0], *rest)[1]["ctx"],
        "variance_all": proda.variance(unit(feature), unit(whole), labels),
        "test_mean": unit(whole).mean(1),
        "test_logits": tested(params),
    }

    def block_step(params: dict, chosen: np.ndarray) -> tuple:
        (loss, _), gradient = step(params, chosen, *rest)
        return loss, gradient

    for name, optim in (("sgd", case["optim"]), ("sgd_momentum", case["optim2"])):
        settings = optim["lr"], optim["momentum"], optim["weight_decay"]
        after, losses = follow(block_step, params, batches, *settings)
        found = {"losses": losses, "ctx": after["ctx"], "test_logits": tested(after)}
        ours |= {f"{name}/{key}": x for key, x in found.items()}
    return {key: np.asarray(x) for key, x in ours.items()}
