"""GalLoP: its losses with the draws of a golden, its predictions, and its detection."""

import jax
import numpy as np
from goldens import draw_images, follow, generator, load_clip, normal, packed, rates

from sotglp_jax.evaluators import detection, ood
from sotglp_jax.methods.contract import Moment, masked_mean
from sotglp_jax.methods.gallop import GalLoP, largest_mean

from . import measured

INPUTS = {"tokens", "tokens_raw", "dropout_index", "other_dropout_index"}
INPUTS |= {"ood_metric/id", "ood_metric/ood"}
LOSSES = ("loss", "loss_global", "loss_local")
EMPTY = np.array([[49406, 49407]])  # its first and its last token, and no name
PROMPT_INIT = np.array([320, 1125, 539, 320])  # "a photo of a" in CLIP's vocabulary
OURS = {
    "global_prompt": "global_prompts",
    "local_prompts": "local_prompts",
    "local_proj": "local_projection",
}


class WithStoredDraws(GalLoP):
    """Takes the golden's draws of the global prompts in place of a key."""

    def kept(self, images, key):
        assert key.shape == (
            images,
            max(self.n_global - int(self.global_dropout * self.n_global), 1),
        )
        return jax.nn.one_hot(key, self.n_global).mean(1)


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
            return means["loss"], (image, text, scores, means)

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


def topk_mean(method: GalLoP, scores) -> np.ndarray:
    """The means over the patches of each local prompt, of the cosines that evaluation has."""
    topk = method.topk * method.n_local if len(method.topk) == 1 else method.topk
    sims = np.moveaxis(np.asarray(scores.sims["local"]), (3, 1), (0, 3))
    return np.stack([largest_mean(x, k) for x, k in zip(sims, topk, strict=True)], axis=-1)


def draw_params(case: dict, rng: np.random.Generator, m: int) -> dict[str, np.ndarray]:
    """What is learned, in the order of the golden's page."""
    width, text_width = case["vision_width"], case["text_width"]
    return {
        "global_prompts": normal(rng, 0.1, case["n_global"], m, text_width),
        "local_prompts": normal(rng, 0.1, case["n_local"], m, text_width),
        "local_projection": (np.eye(width, dtype=np.float32) + normal(rng, 0.02, width, width)).T,
    }


def of_other(method: GalLoP, params: dict, draws: np.ndarray, rest: tuple) -> dict:
    """The keys of the case's other settings."""
    _, _, scores, means, _ = function_of(method)(params, draws, *rest)
    found = {name: means[name] for name in LOSSES} | {"topk_mean": topk_mean(method, scores)}
    found |= probabilities(scores)
    return {f"other/{name}": x for name, x in found.items()}


def compute(case: dict, golden) -> dict[str, np.ndarray]:
    """Ours for every key."""
    (towers, frozen), rng = load_clip(case), generator(case)
    params = draw_params(case, rng, len(golden["prompt_init"]))
    images, labels = draw_images(case, rng)
    rest = (frozen, {"names": packed(golden["tokens"])}, images, labels)
    sizes = {"n_global": case["n_global"], "n_local": case["n_local"]}
    method, other = (
        WithStoredDraws(towers, **sizes, topk=tuple(topk), global_dropout=dropout)
        for topk, dropout in (
            (case["topk"], case["dropout_p"]),
            (case["other_topk"], case["other_dropout_p"]),
        )
    )
    run, draws = function_of(method), golden["dropout_index"]
    image, text, scores, means, gradient = run(params, draws[0], *rest)

    def step(params: dict, drawn: np.ndarray) -> tuple:
        *_, means, gradient = run(params, drawn, *rest)
        return means["loss"], gradient

    optim = case["optim"]
    settings = optim["lr"], optim["momentum"], optim["weight_decay"]
    after, losses = follow(step, params, draws, *settings)
    prompts = np.concatenate([params["global_prompts"], params["local_prompts"]])
    no_class = np.asarray(towers.texts(frozen, packed(EMPTY), prompts))
    ours = {
        **theirs(params),
        "labels": labels,
        "prompt_init": towers.embed(frozen, PROMPT_INIT),
        "image_cls_pre_proj": image["cls"],
        "image_local_pre_proj": image["patches"],
        "image_features": towers.project(frozen, image["cls"]),
        "local_features": towers.project(frozen, image["patches"] @ params["local_projection"]),
        "text_global": text.global_,
        "text_local": text.local,
        "no_class_global": no_class[:, : case["n_global"]],
        "no_class_local": no_class[:, case["n_global"] :],
        "global_sim": scores.sims["global"],
        "local_sim": scores.sims["local"],
        "topk_mean": topk_mean(method, scores),
        **{name: means[name] for name in LOSSES},
        **{f"grad/{name}": x for name, x in theirs(gradient).items()},
        **probabilities(scores),
        **of_other(other, params, golden["other_dropout_index"], rest),
        "sgd/losses": losses,
        **{f"sgd/{name}": x for name, x in theirs(after).items()},
        **{f"sgd/{k}": x for k, x in probabilities(run(after, draws[0], *rest)[2]).items()},
        **{f"lr/{epochs}": rates(epochs, schedule="paper") for epochs in (50, 200)},
        "ood_metric/fpr95": measured.strict_fpr95(
            golden["ood_metric/id"], golden["ood_metric/ood"]
        ),
        "ood_metric/auroc": detection.auroc(-golden["ood_metric/id"], -golden["ood_metric/ood"]),
    }
    for temperature in case["ood_T"]:
        ours |= detected(scores, temperature)
    return {key: np.asarray(x) for key, x in ours.items()}
