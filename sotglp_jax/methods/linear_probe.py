"""Linear probe: logistic regression on CLIP's image features, no text at all.

Source: CLIP, https://arxiv.org/abs/2103.00020, appendix A.3, in the form of CoOp's code,
https://github.com/KaiyangZhou/CoOp/tree/main/lpclip.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Int, PRNGKeyArray

from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import Images, Method, Params, Scores, at_least, one_of

STRENGTHS = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
STEPS = 8  # of the search between two of them
SOLVERS = {
    "converged": {"solver": "newton-cg", "tol": 1e-10, "max_iter": 1000},
    # lbfgs with the tolerance that means something else since scikit-learn 1.4
    "scikit-learn": {"solver": "lbfgs", "max_iter": 1000},
}


@dataclasses.dataclass(frozen=True)
class LinearProbe(Method):
    """W f + b of features behind CLIP's projection, not normalised.

    Attributes:
      c: C, the weight of the losses against ½|W|²; 0 searches it on the validation shots.
      solver: "converged" goes to the optimum; "scikit-learn" stops where its usual tolerance does,
        which depends on its version.
    """

    c: float = 0.0
    solver: str = "converged"

    title: ClassVar[str] = "linear probe"
    logits: ClassVar[Mapping[str, str]] = {"probe": ""}
    symbols: ClassVar[Mapping[str, str]] = {"c": "C"}

    def __post_init__(self):
        at_least(0, c=self.c)
        one_of(tuple(SOLVERS), solver=self.solver)

    @property
    def validation(self) -> str:
        """The search is on validation images."""
        return "" if self.c else "method.c=0"

    def stages(self, train: Mapping[str, Any]) -> tuple:
        """The fit is a single one, in `finish`."""
        return ()

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """weight (C, D), bias (C,), and c (), the C that they were fitted with."""
        classes, width = len(names["names"].places), self.towers.vision.embed_dim
        return {
            "weight": jnp.zeros((classes, width)),
            "bias": jnp.zeros(classes),
            "c": jnp.float32(self.c),
        }

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> dict[str, Array]:
        """The classes' rows of the probe."""
        return {name: params[name] for name in ("weight", "bias")}

    def score(self, params: Params, frozen: dict, text: dict, image: dict) -> Scores:
        """W f + b; there are no cosines, so no detection score is defined."""
        feature = self.towers.project(frozen, image["cls"])
        product = jnp.matmul(feature, text["weight"].T, precision="highest")
        return Scores({"probe": product + text["bias"]})

    def finish(self, params: Params, frozen: dict, text: dict, images: Images) -> Params:
        """The fit to the training shots, in float64."""

        def gather(part: str) -> tuple[np.ndarray, np.ndarray]:
            batches = [(self.towers.project(frozen, x["cls"]), y) for x, y in images(part)]
            features, labels = (np.concatenate(x) for x in zip(*batches, strict=True))
            return features.astype(np.float64), labels

        classes = len(text["bias"])
        if classes < 2:
            raise InputError("a linear probe needs two classes or more: choose another method.")
        fit = functools.cache(fitter(*gather("train"), classes, self.solver))
        c = self.c
        if not c:
            features, labels = gather("val")
            *_, (_, _, c) = search(lambda c: accuracy(fit(c), features, labels))
        weight, bias = fit(c)
        found = {"weight": weight, "bias": bias, "c": np.array(c)}
        return {name: x.astype(np.float32) for name, x in found.items()}

    def on(self, params: Params, labels: tuple[int, ...]) -> tuple[Method, Params] | None:
        """The rows of classes that were trained on; there is nothing to say of others."""
        if not labels:
            return None
        rows = np.array(labels)
        return self, params | {name: params[name][rows] for name in ("weight", "bias")}

    def summary(self, params: Params, classes: int) -> dict[str, dict[str, float]]:
        """The C of the fit."""
        return {"regularisation": {"C": float(params["c"])}}


Probe = tuple[Float64[np.ndarray, "C D"], Float64[np.ndarray, " C"]]


def fitter(
    features: Float64[np.ndarray, "n D"], labels: Int[np.ndarray, " n"], classes: int, solver: str
) -> Callable[[float], Probe]:
    """A function that minimises C Σ CE + ½|W|² for a C.

    Args:
      features: of the shots.
      labels: of the shots, every class among them.
      classes: their number.
      solver: a key of `SOLVERS`.
    """
    from sklearn.linear_model import LogisticRegression

    def fit(c: float) -> Probe:
        with warnings.catch_warnings():  # one shot a class looks like a regression to it
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            model = LogisticRegression(C=c, **SOLVERS[solver]).fit(features, labels)
        weight, bias = model.coef_, model.intercept_
        if classes == 2:  # the library fits and penalises the difference of both rows
            weight, bias = (np.concatenate([-x, x]) / 2 for x in (weight, bias))
        return weight, bias

    return fit


def accuracy(
    probe: Probe, features: Float64[np.ndarray, "n D"], labels: Int[np.ndarray, " n"]
) -> float:
    """The share of images whose largest logit is their label's."""
    weight, bias = probe
    return float(np.mean(np.argmax(features @ weight.T + bias, axis=1) == labels))


def search(accuracy_of: Callable[[float], float]) -> Iterator[tuple[tuple, tuple, float]]:
    """CoOp's search for C: the best of `STRENGTHS`, then halvings of its neighbourhood.

    Args:
      accuracy_of: the validation accuracy that a C gives.

    Yields:
      For each of the halvings the two C, their accuracies, and the better one (the smaller one of
      a tie); the last better one is the result.
    """
    peak = max(STRENGTHS, key=accuracy_of)
    low, high = np.log10(peak) - 1, np.log10(peak) + 1
    for _ in range(STEPS):
        ends = 10.0**low, 10.0**high
        found = tuple(map(accuracy_of, ends))
        middle = (low + high) / 2
        if found[0] < found[1]:
            low, better = middle, ends[1]
        else:
            high, better = middle, ends[0]
        yield ends, found, better
