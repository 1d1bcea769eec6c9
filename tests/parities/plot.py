"""PLOT: both ways to stop Sinkhorn, with and without the pooled logits."""

import dataclasses

import numpy as np
from goldens import compute as function_of
from goldens import descend, draw_images, generator, load_clip, normal, packed, rates

from sotglp_jax.methods.plot import Plot

from .sinkhorn import stopped

INPUTS = {"tokens", "sinkhorn/sim"}


@dataclasses.dataclass(frozen=True)
class Stopped(Plot):
    """PLOT whose plans stop as the authors' do, by the mean change over the batch."""

    def plan(self, sim):
        """By the authors' solver."""
        return stopped(sim, self.epsilon)[0]


def of_solver(method: Plot, params: dict, rest: tuple, optim: dict) -> tuple[dict, list]:
    """Ours for every key of a solver, and the similarities before every step."""
    run, sims = function_of(method), []

    def noted(*arguments):
        found = run(*arguments)
        sims.append(by_class(found[2]))
        return found

    *_, scores, means, gradient = run(params, *rest)
    settings = optim["lr"], optim["momentum"], optim["weight_decay"]
    after, losses = descend(noted, params, rest, optim["steps"], *settings)
    found = {
        "logits": scores.logits["transport"],
        "loss": means["loss"],
        "grad/ctx": gradient["ctx"],
        "sgd/losses": losses,
        "sgd/ctx": after["ctx"],
        "sgd/logits": run(after, *rest)[2].logits["transport"],
    }
    return found, sims


def by_class(scores) -> np.ndarray:
    """Local cosines as (B, C, P, N)."""
    return np.asarray(scores.sims["local"]).transpose(0, 2, 1, 3)


def alone(sim: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Plans of problems that stop by themselves, and their iterations."""
    plans, counts = zip(*(stopped(x[None], epsilon) for x in sim), strict=True)
    return np.concatenate(plans), np.array([int(count) for count in counts])


def of_sinkhorn(values: np.ndarray, method: Plot) -> dict:
    """Ours for the solver alone: by the mean change, row by row, and of our iterations."""
    together, count = stopped(values, method.epsilon)
    rows, of_rows = alone(values, method.epsilon)
    plans = {"": together, "_row_by_row": rows, "_converged": np.asarray(method.plan(values))}
    return {
        "iterations": count,
        "iterations_row_by_row": of_rows,
        **{f"plan{end}": plan for end, plan in plans.items()},
        **{f"value{end}": (plan * values).sum((-2, -1)) for end, plan in plans.items()},
    }


def compute(case: dict, golden) -> dict[str, np.ndarray]:
    """Ours for every key."""
    (towers, frozen), rng = load_clip(case), generator(case)
    n, m, epsilon = case["n_prompts"], case["n_ctx"], case["eps"]
    params = {"ctx": normal(rng, 0.1, n, m, case["text_width"])}
    images, labels = draw_images(case, rng)
    rest = (frozen, {"names": packed(golden["tokens"], m)}, images, labels)
    options = {"n_prompts": n, "n_ctx": m, "epsilon": epsilon}
    ours = params | {"labels": labels}
    for name, kind in (("official", Stopped), ("converged", Plot)):
        for pooled, prefix in ((False, name), (True, f"{name}/imagenet")):
            method = kind(towers, **options, add_pooled=pooled)
            found, sims = of_solver(method, params, rest, case["optim"])
            ours |= {f"{prefix}/{key}": x for key, x in found.items()}
            if prefix == "official":
                ours["official/iterations"] = [int(stopped(x, epsilon)[1]) for x in sims]
    method = Plot(towers, **options)
    image, text, scores, *_ = function_of(method)(params, *rest)
    sim, scale = by_class(scores), np.exp(frozen["logit_scale"])
    single, counts = alone(sim, epsilon)
    tokens = np.concatenate([image["cls"][:, None], image["patches"]], axis=1)
    ours |= {
        "image_tokens": towers.project(frozen, tokens),
        "text_features": text,
        "sim": sim,
        "official/plan": stopped(sim, epsilon)[0],
        "converged/plan": scores.parts["plan"],
        "official/logits_one_by_one": scale * (single * sim).sum((-2, -1)),
        "official/iterations_one_by_one": counts,
        **{f"sinkhorn/{k}": x for k, x in of_sinkhorn(golden["sinkhorn/sim"], method).items()},
        **{f"lr/{epochs}": rates(epochs) for epochs in (50, 100, 200)},
    }
    return {key: np.asarray(x) for key, x in ours.items()}
