"""GalLoP: its losses with the draws of a golden, its predictions, and its detection."""

import jax
import numpy as np
from goldens import draw_images, generator, load_clip, normal, packed

from sotglp_jax.evaluators import detection, ood
from sotglp_jax.methods import gallop
from sotglp_jax.methods.contract import Moment, Stage, masked_mean
from sotglp_jax.methods.gallop import GalLoP
from sotglp_jax.schedules import learning_rate
from sotglp_jax.state import sgd

from . import measured

INPUTS = {"tokens", "tokens_raw", "dropout_index", "other_dropout_index"}
INPUTS |= {"ood_metric/id", "ood_metric/ood"}
OURS = {
    "global_prompt": "global_prompts",
    "local_prompts": "local_prompts",
    "local_proj": "local_projection",
}


def stored_draws(images: int, n_global: int, share: float, key) -> jax.Array:
    """In place of `keep_prompts`: the key is what was drawn."""
    keep = max(n_global - int(share * n_global), 1)
    assert key.shape == (images, keep), (key.shape, images, keep)
    return jax.nn.one_hot(key, n_global).mean(1)


def function_of(method: GalLoP):
    """A jitted function of parameters, stored draws and the rest."""

    @jax.jit
    def run(params, drawn, frozen, names, images, labels):
        def objective(params):
            image = method.encode_images(params, frozen, images)
            text = method.encode_classes(params, frozen, names)
            moment = Moment(drawn, np.int32(0), np.int32(0))
            values, metrics = method.loss(params, frozen, text, image, labels, moment)
            means = {k: masked_mean(x, labels) for k, x in ({"loss": values} | metrics).items()}
            scores = method.score(params, frozen, text, image)
            topk = method._similarities(params, frozen, text, image)[2]
            return means["loss"], (image, text, scores, topk, means)

        gradient, found = jax.grad(objective, has_aux=True)(params)
        return *found, gradient

    return run


def theirs(params: dict) -> dict[str, np.ndarray]:
    """Parameters by the golden's names; their projection is y = A x."""
    found = {name: params[ours] for name, ours in OURS.items()}
    return found | {"local_proj": found["local_proj"].T}


def probabilities(scores) -> dict[str, np.ndarray]:
    """Of the classifiers at test time."""
    return {f"prob_{name}": jax.nn.softmax(x) for name, x in scores.logits.items()}


def detected(scores, temperature: float) -> dict[str, np.ndarray]:
    """Theirs is the negative, lower in distribution."""
    values = jax.device_get(ood.compute(scores, "fused", temperature))
    found = ood.collect(values, scores.sims["global"].shape[1])
    return {f"ood/{name}_T{temperature:g}": -found[name] for name in ("mcm", "l_mcm", "gl_mcm")}


def descended(run, params: dict, draws: np.ndarray, rest: tuple, optim: dict) -> tuple[dict, list]:
    """Parameters after a step of SGD with each draw, and the loss before each."""
    optimizer, losses = sgd(optim["momentum"], optim["weight_decay"]), []
    state = optimizer.init(params)
    for drawn in draws:
        *_, means, gradient = run(params, drawn, *rest)
        direction, state = optimizer.update(gradient, state, params)
        params = jax.tree.map(lambda x, d: x - optim["lr"] * d, params, direction)
        losses.append(means["loss"])
    return params, losses


def rates(epochs: int) -> list[float]:
    """The learning rate of every epoch."""
    stage = Stage(epochs, 0.002, "paper", warmup_epochs=0, warmup_lr=0.0)
    return [float(learning_rate(stage, epoch)) for epoch in range(epochs)]


def compute(case: dict, golden) -> dict[str, np.ndarray]:
    """Ours for every key."""
    before, gallop.keep_prompts = gallop.keep_prompts, stored_draws
    try:
        return _compute(case, golden)
    finally:
        gallop.keep_prompts = before


def _compute(case: dict, golden) -> dict[str, np.ndarray]:
    (towers, frozen), rng = load_clip(case), generator(case)
    width, text_width = case["vision_width"], case["text_width"]
    m, n_local = golden["prompt_init"].shape[0], case["n_local"]
    params = {
        "global_prompts": normal(rng, 0.1, case["n_global"], m, text_width),
        "local_prompts": normal(rng, 0.1, n_local, m, text_width),
        "local_projection": (np.eye(width, dtype=np.float32) + normal(rng, 0.02, width, width)).T,
    }
    images, labels = draw_images(case, rng)
    names = {"names": packed(golden["tokens"])}
    options = {"n_global": case["n_global"], "n_local": n_local}
    method = GalLoP(towers, **options, topk=tuple(case["topk"]), global_dropout=case["dropout_p"])
    rest, run = (frozen, names, images, labels), function_of(method)
    draws = golden["dropout_index"]
    image, text, scores, topk, means, gradient = run(params, draws[0], *rest)
    after, losses = descended(run, params, draws, rest, case["optim"])
    other = GalLoP(
        towers,
        **options,
        topk=tuple(case["other_topk"]),
        global_dropout=case["other_dropout_p"],
    )
    _, _, others, other_topk, other_means, _ = function_of(other)(
        params, golden["other_dropout_index"], *rest
    )
    empty = np.array([[49406, 49407]])
    prompts = np.concatenate([params["global_prompts"], params["local_prompts"]])
    no_class = towers.texts(frozen, packed(empty), prompts)
    adapted = image["patches"] @ params["local_projection"]
    found = probabilities(scores) | detected(scores, case["ood_T"][0])
    found |= detected(scores, case["ood_T"][1])
    of_other = probabilities(others)
    inside, outside = golden["ood_metric/id"], golden["ood_metric/ood"]
    ours = {
        **theirs(params),
        "labels": labels,
        "prompt_init": prompt_init(towers, frozen),
        "image_cls_pre_proj": image["cls"],
        "image_local_pre_proj": image["patches"],
        "image_features": towers.project(frozen, image["cls"]),
        "local_features": towers.project(frozen, adapted),
        "text_global": text.global_,
        "text_local": text.local,
        "no_class_global": no_class[:, : case["n_global"]],
        "no_class_local": no_class[:, case["n_global"] :],
        "global_sim": scores.sims["global"],
        "local_sim": scores.sims["local"],
        "topk_mean": topk,
        **{key: means[key] for key in ("loss", "loss_global", "loss_local")},
        **{f"grad/{name}": x for name, x in theirs(gradient).items()},
        **found,
        **{f"other/{key}": other_means[key] for key in ("loss", "loss_global", "loss_local")},
        "other/topk_mean": other_topk,
        **{f"other/{name}": x for name, x in of_other.items()},
        "sgd/losses": losses,
        **{f"sgd/{name}": x for name, x in theirs(after).items()},
        **{f"sgd/{k}": x for k, x in probabilities(run(after, draws[0], *rest)[2]).items()},
        "lr/50": rates(50),
        "lr/200": rates(200),
        "ood_metric/fpr95": measured.strict_fpr95(inside, outside),
        "ood_metric/auroc": detection.auroc(-inside, -outside),
    }
    return {key: np.asarray(x) for key, x in ours.items()}


def prompt_init(towers, frozen: dict) -> np.ndarray:
    """Embeddings of "a photo of a" by the ids of CLIP's vocabulary."""
    return towers.embed(frozen, np.array([320, 1125, 539, 320]))
