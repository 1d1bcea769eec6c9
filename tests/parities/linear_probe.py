"""Linear probe: the subsets, the search for C, and the accuracies on the way."""

import functools

import numpy as np

from sotglp_jax.data import fewshot
from sotglp_jax.methods.linear_probe import STRENGTHS, accuracy, fitter, search

INPUTS = {f"{part}/{kind}" for part in ("train", "val", "test") for kind in ("feature", "label")}
SOLVERS = {"sklearn": "scikit-learn", "converged": "converged"}


def searched(pools: dict, subset: tuple, classes: int, solver: str) -> dict[str, np.ndarray]:
    """What the search finds of one subset, by the ends of the golden's keys."""
    train, val = map(list, subset)
    features, labels = pools["train"]
    fit = functools.cache(fitter(features[train], labels[train], classes, solver))
    judged = functools.cache(lambda c: accuracy(fit(c), *(x[val] for x in pools["val"])))
    ends, found, better = zip(*search(judged), strict=True)
    return {
        "search_val_acc": [judged(c) for c in STRENGTHS],
        "step_c": ends,
        "step_val_acc": found,
        "step_c_final": better,
        "step_test_acc": [100 * accuracy(fit(c), *pools["test"]) for c in better],
    }


def compute(case: dict, golden) -> dict[str, np.ndarray]:
    """Ours for every key."""
    pools = {
        part: (golden[f"{part}/feature"].astype(np.float64), golden[f"{part}/label"])
        for part in ("train", "val", "test")
    }
    ours = {}
    subsets = {}
    for k, of_val in zip(case["shots"], case["val_shots"], strict=True):
        drawn = [
            fewshot.lpclip([pools["train"][1], pools["val"][1]], [k, of_val], seed)
            for seed in case["seeds"]
        ]
        subsets[k] = drawn
        ours[f"select/train_{k}"], ours[f"select/val_{k}"] = zip(*drawn, strict=True)
    for name, solver in SOLVERS.items():
        rows = [
            [searched(pools, subset, case["classes"], solver) for subset in drawn]
            for drawn in subsets.values()
        ]
        for key in rows[0][0]:
            ours[f"{name}/{key}"] = np.array([[of_seed[key] for of_seed in row] for row in rows])
        last = ours[f"{name}/step_test_acc"][..., -1]
        ours[f"{name}/mean"], ours[f"{name}/std"] = last.mean(1), last.std(1)
    return {key: np.asarray(x) for key, x in ours.items()}
