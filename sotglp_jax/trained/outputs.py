"""What a finished run says of a batch of pixels, as one function of arrays."""

from typing import Any

import jax
from jaxtyping import Array, UInt8

from sotglp_jax.devices import sharding
from sotglp_jax.evaluators import maps, ood
from sotglp_jax.methods.contract import Method, Params
from sotglp_jax.trained.finished import Finished


def threshold(run: Finished) -> float | None:
    """The OOD score below which images look out of distribution; None where there is no score."""
    return run.results.get("ood_threshold", {}).get("value")


def known_scores(run: Finished) -> list[float]:
    """OOD scores of images of the classes that were not trained on, sorted; [] of older runs."""
    return run.results.get("ood_threshold", {}).get("scores", [])


def temperatures(run: Finished) -> dict[str, float]:
    """What the logits by name are divided by, as the run's eval.calibrate asked; {} without it."""
    return run.results.get("calibration", {}).get("temperature", {})


def arguments(finished: Finished) -> tuple[dict, Params, Any]:
    """The first arguments of `compute`, without the text tower where its work is done."""
    run, mesh = finished.run, sharding.make_mesh(1)
    names = run.names_on(mesh, run.method)
    text = jax.jit(run.method.encode_classes)(finished.params, run.frozen, names)
    needed = ("vision", "logit_scale", *["text"] * run.method.text_waits)
    frozen = {name: run.frozen[name] for name in needed}
    frozen |= {"temperatures": temperatures(finished)}
    return jax.device_get((frozen, finished.params, text))


def compute(
    frozen: dict, params: Params, text: Any, pixels: UInt8[Array, "B R R 3"], *, method: Method
) -> dict:
    """Probabilities (B, C) by classifier; "ood_score" (B,) and the fields of "maps" if there are.

    Args:
      frozen: CLIP's vision tower and scale, its text tower where texts wait for the image, and
        "temperatures", see there.
      params: the finished parameters.
      text: what `encode_classes` gave.
      pixels: images as evaluation sees them.
      method: what was trained, or zero-shot CLIP; static.
    """
    scores = method.score(params, frozen, text, method.encode_images(params, frozen, pixels))
    found = {name: x / frozen["temperatures"].get(name, 1.0) for name, x in scores.logits.items()}
    found = {name: jax.nn.softmax(x) for name, x in found.items()}
    if scores.sims:
        found["ood_score"] = ood.single(scores)
    labels = scores.logits[next(iter(method.logits))].argmax(-1)
    if shown := maps.compute(scores, labels):
        found["maps"] = vars(shown)
    return found
