"""How well a run tells its test images from those of other data sets.

Scores are high in distribution. A method without local features has no score that needs them.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Array, Float

from sotglp_jax.evaluators import detection as ood
from sotglp_jax.methods.contract import Scores

ORDER = ("mcm", "l_mcm", "gl_mcm", "lsn")
MOST = 1000  # images that a threshold is taken from; more would hardly move it


def compute(scores: Scores, deciding: str, temperature: float) -> dict[str, Float[Array, " B"]]:
    """What the scores of every image are made of, float32.

    MCM and L-MCM are of the raw cosines, averaged over the prompts; L-MCM is the largest over all
    patches, without top-K and transport.

    Args:
      scores: of a batch.
      deciding: name of the logits whose largest value is a score too.
      temperature: T of the softmax over the classes.

    Returns:
      "mcm" and "l_mcm" as `ood.deviation`, as far as there are cosines; by its name the largest of
      the deciding logits; "lsn", MCM at T = 1 and what negative texts add; "transport", the largest
      of what plans carry (equation 10 of SOT-GLP); "single", see `single`.
    """
    found = _deviations(scores, temperature)
    found[deciding] = scores.logits[deciding].max(-1)
    if "phi" in scores.parts:
        found["transport"] = scores.parts["phi"].max(-1)
    if "negative" in scores.parts:
        found["lsn"] = single(scores)
    if scores.sims:
        found["single"] = single(scores)
    return found


def single(scores: Scores) -> Float[Array, " B"]:
    """What single images are flagged by: GL-MCM at T = 1, or MCM without local features.

    Where negative texts add something (LSN), MCM and that. At T = 1 float32 is enough; a high
    temperature would make ties.
    """
    classes, found = scores.sims["global"].shape[1], _deviations(scores, 1.0)
    if "negative" in scores.parts:
        return ood.concept_matching(found["mcm"], classes) + scores.parts["negative"]
    return sum(ood.concept_matching(x, classes) for x in found.values())


def single_name(values: Mapping[str, np.ndarray]) -> str:
    """The name of the score that `single` is, by what `compute` gave."""
    return "lsn" if "lsn" in values else "gl_mcm" if "l_mcm" in values else "mcm"


def _deviations(scores: Scores, temperature: float) -> dict[str, Float[Array, " B"]]:
    found = {}
    if "global" in scores.sims:
        found["mcm"] = ood.deviation(scores.sims["global"].mean(-1), temperature)
    if "local" in scores.sims:
        # The score falls as the deviation rises, and the largest over the patches is asked for.
        found["l_mcm"] = ood.deviation(scores.sims["local"].mean(-1), temperature).min(-1)
    return found


def collect(values: Mapping[str, np.ndarray], classes: int) -> dict[str, np.ndarray]:
    """The scores of a set of images by name, float64, from what `compute` gave of them."""
    whole = {name: x.astype(np.float64) for name, x in values.items()}
    for name in whole.keys() & {"mcm", "l_mcm"}:
        whole[name] = ood.concept_matching(whole[name], classes)
    if {"mcm", "l_mcm"} <= whole.keys():
        whole["gl_mcm"] = whole["mcm"] + whole["l_mcm"]
    order = [*ORDER, *(whole.keys() - {*ORDER, "transport", "single"}), "transport"]
    return {name: whole[name] for name in order if name in whole}


def evaluate(
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
