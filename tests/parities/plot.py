"""PLOT: both ways to stop Sinkhorn, with and without the pooled logits."""

import dataclasses

import jax
import numpy as np
from goldens import compute as function_of
from goldens import descend, draw_images, generator, load_clip, normal, packed

from sotglp_jax.methods import transport
from sotglp_jax.methods.plot import Plot

from .coop import rates
from .sinkhorn import stopped

INPUTS = {"tokens", "sinkhorn/sim"}
MANY = 300  # iterations after which nothing changes any more


@dataclasses.dataclass(frozen=True)
class Stopped(Plot):
    """PLOT whose plans stop as the authors' do, by the mean change over the batch."""

    def score(self, params, frozen, text, image):
        """As the base's, with another solver."""
        own, transport.plan = transport.plan, lambda sim, epsilon, _: stopped(sim, epsilon)[0]
        try:
            return super().score(params, frozen, text, image)
        finally:
            transport.plan = own


def of_solver(method: Plot, params: dict, rest: tuple, optim: dict) -> tuple[dict, list]:
    """Ours for every key of a solver, and the similarities before every step."""
    run = function_of(method)
    settings = optim["lr"], optim["momentum"], optim["weight_decay"]
    *_, scores, means, gradient = run(params, *rest)
    after, losses = descend(run, params, rest, optim["steps"], *settings)
    found = {
        "logits": scores.logits["transport"],
        "loss": means["loss"],
        "grad/ctx": gradient["ctx"],
        "sgd/losses": losses,
        "sgd/ctx": after["ctx"],
        "sgd/logits": run(after, *rest)[2].logits["transport"],
    }
    starts = [descend(run, params, rest, i, *settings)[0] for i in range(optim["steps"])]
    return found, [by_class(run(start, *rest)[2]) for start in starts]


def by_class(scores) -> np.ndarray:
    """Local cosines as (B, C, P, N)."""
    return np.asarray(scores.sims["local"]).transpose(0, 2, 1, 3)


def alone(sim: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Plans of images that stop by themselves, and their iterations."""
    plans, counts = zip(*(stopped(x[None], 0.1) for x in sim), strict=True)
    return np.concatenate(plans), np.array([int(count) for count in counts])


def compute(case: dict, golden) -> dict[str, np.ndarray]:
    """Ours for every key."""
    (towers, frozen), rng = load_clip(case), generator(case)
    n, m = case["n_prompts"], case["n_ctx"]
    params = {"ctx": normal(rng, 0.1, n, m, case["text_width"])}
    images, labels = draw_images(case, rng)
    rest = (frozen, {"names": packed(golden["tokens"], m)}, images, labels)
    options = {"n_prompts": n, "n_ctx": m, "epsilon": case["eps"], "iterations": MANY}
    ours, optim = dict(params) | {"labels": labels}, case["optim"]
    for name, kind in (("official", Stopped), ("converged", Plot)):
        for pooled, prefix in ((False, name), (True, f"{name}/imagenet")):
            method = kind(towers, **options, add_pooled=pooled)
            found, sims = of_solver(method, params, rest, optim)
            ours |= {f"{prefix}/{key}": x for key, x in found.items()}
            if prefix == "official":
                ours["official/iterations"] = [int(stopped(x, case["eps"])[1]) for x in sims]
    image, text, scores, *_ = function_of(Plot(towers, **options))(params, *rest)
    sim, scale = by_class(scores), np.exp(frozen["logit_scale"])
    single, counts = alone(sim)
    tokens = np.concatenate([image["cls"][:, None], image["patches"]], axis=1)
    values = golden["sinkhorn/sim"]
    together, count = stopped(values, case["eps"])
    rows, of_rows = alone(values)
    converged = transport.plan(values, case["eps"], MANY)
    ours |= {
        "image_tokens": towers.project(frozen, tokens),
        "text_features": text,
        "sim": sim,
        "official/plan": stopped(sim, case["eps"])[0],
        "converged/plan": scores.parts["plan"],
        "official/logits_one_by_one": scale * (single * sim).sum((-2, -1)),
        "official/iterations_one_by_one": counts,
        "sinkhorn/plan": together,
        "sinkhorn/iterations": count,
        "sinkhorn/plan_row_by_row": rows,
        "sinkhorn/iterations_row_by_row": of_rows,
        "sinkhorn/plan_converged": converged,
        "sinkhorn/value": (together * values).sum((-2, -1)),
        "sinkhorn/value_row_by_row": (rows * values).sum((-2, -1)),
        "sinkhorn/value_converged": (np.asarray(converged) * values).sum((-2, -1)),
        **{f"lr/{epochs}": rates(epochs) for epochs in (50, 100, 200)},
    }
    return {key: np.asarray(jax.device_get(x)) for key, x in ours.items()}
