"""How well a run tells its test images from those of other data sets."""

from collections.abc import Iterable, Iterator, Mapping

import jax
import numpy as np
from jaxtyping import Array, Float

from sotglp_jax import ood
from sotglp_jax.cache import image_features
from sotglp_jax.methods.sotglp import ClassFeatures, Scores, SotGlp
from sotglp_jax.methods.zeroshot import ZeroShot
from sotglp_jax.tables import OOD_SCORES

MOST = 1000  # images that a threshold is taken from; more would hardly move it


def score(scores: Scores) -> Float[Array, " B"]:
    """GL-MCM at T = 1, float32: what single images are told to be out of distribution by.

    It is the paper's score, and the one that looks at both branches. At T = 1 float32 is enough; a
    high temperature would make ties.
    """
    classes = scores.sim_global.shape[1]
    return sum(ood.concept_matching(x, classes) for x in _deviations(scores, 1.0).values())


def rate(
    frozen: dict, trained: dict, text: ClassFeatures, batch: Mapping, method: SotGlp
) -> dict[str, jax.Array]:
    """`score` of a batch and its mask; arguments as in `measure`."""
    scores = method.score(trained, frozen, text, image_features(method.towers, frozen, batch))
    return {"score": score(scores), "mask": batch["mask"]}


def limit(parts: Iterable[Mapping]) -> float:
    """The threshold at 95 % recall, from what `rate` gave for batches in distribution."""
    return ood.threshold(np.concatenate([part["score"][part["mask"]] for part in parts]))


def measure(
    frozen: dict,
    trained: dict,
    text: ClassFeatures | Float[Array, "C D"],
    batch: Mapping,
    temperature: float,
    method: SotGlp | ZeroShot,
) -> dict[str, jax.Array]:
    """What the scores of a batch are made of, float32 (B,) each, and its mask.

    MCM and L-MCM are of the raw cosines, averaged over the prompts; L-MCM is the largest over all
    patches, without top-K and transport. What SOT-GLP adds comes last: the maximum over the
    classes of the fused logit, and of φ (equation 10).

    Args:
      frozen: CLIP's weights.
      trained: the trainable tree.
      text: class features.
      batch: see `loader.Batch`, or of a cache.
      temperature: T of the softmax over the classes.
      method: the method; static.
    """
    scores = method.score(trained, frozen, text, image_features(method.towers, frozen, batch))
    parts = _deviations(scores, temperature) | {"mask": batch["mask"]}
    if isinstance(scores, Scores):
        parts |= {"fused": scores.logits["fused"].max(-1), "transport": scores.phi.max(-1)}
    return parts


def _deviations(scores: Scores, temperature: float) -> dict[str, Float[Array, " B"]]:
    """What MCM and L-MCM are made of."""
    return {
        "mcm": ood.deviation(scores.sim_global.mean(-1), temperature),
        # The score falls as the deviation rises, and the largest over the patches is asked for.
        "l_mcm": ood.deviation(scores.sim_local.mean(-1), temperature).min(-1),
    }


def collect(parts: Iterable[Mapping], classes: int) -> dict[str, np.ndarray]:
    """The scores of a set of images, float64, from what `measure` gave for its batches."""
    parts = list(parts)
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    whole = {name: x[whole["mask"]].astype(np.float64) for name, x in whole.items()}
    for name in ("mcm", "l_mcm"):
        whole[name] = ood.concept_matching(whole[name], classes)
    whole["gl_mcm"] = whole["mcm"] + whole["l_mcm"]
    return {name: whole[name] for name in OOD_SCORES if name in whole}


def judge(
    inside: Mapping[str, np.ndarray], others: Mapping[str, Mapping[str, np.ndarray]]
) -> Iterator[tuple[str, dict]]:
    """Yields (score, its threshold at 95 % recall, FPR95 and AUROC per set and their means).

    Args:
      inside: scores of the test images.
      others: scores of each out-of-distribution set.
    """
    for name in inside:
        sets = {
            title: {
                "fpr95": ood.fpr95(inside[name], scores[name]),
                "auroc": ood.auroc(inside[name], scores[name]),
            }
            for title, scores in others.items()
        }
        mean = {key: float(np.mean([s[key] for s in sets.values()])) for key in ("fpr95", "auroc")}
        yield name, {"threshold": ood.threshold(inside[name]), "sets": sets, "mean": mean}
