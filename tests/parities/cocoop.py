"""CoCoOp: texts that wait for the image."""

import jax
import numpy as np
from goldens import compute as function_of
from goldens import descend, draw_images, follow, generator, load_clip, normal, packed, rates

from sotglp_jax.methods.cocoop import CoCoOp
from sotglp_jax.methods.similarity import unit

INPUTS = {"tokens"}
THEIRS = {ours: theirs for ours, (theirs, _) in CoCoOp.torch_names.items()}


def draw_params(case: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The parameters in the order of the golden's page."""
    width, hidden, text_width = case["embed_dim"], case["hidden"], case["text_width"]
    return {
        "ctx": normal(rng, 0.1, 4, text_width),
        "linear1_weight": normal(rng, 1, hidden, width),
        "linear1_bias": normal(rng, 0.1, hidden),
        "linear2_weight": normal(rng, 0.1, text_width, hidden),
        "linear2_bias": normal(rng, 0.1, text_width),
    }


def under(prefix: str, params: dict) -> dict:
    """Parameters as keys of the golden."""
    return {f"{prefix}/{THEIRS[name]}": x for name, x in params.items()}


def compute(case: dict, golden) -> dict[str, np.ndarray]:
    """Ours for every key."""
    (towers, frozen), rng = load_clip(case), generator(case)
    method, params = CoCoOp(towers), draw_params(case, rng)
    images, labels = draw_images(case, rng)
    names = packed(golden["tokens"], 4)
    rest, run, optim = (
        (frozen, {"names": names}, images, labels),
        function_of(method),
        case["optim"],
    )
    image, _, scores, means, gradient = run(params, *rest)
    features = towers.project(frozen, image["cls"])
    settings = optim["lr"], optim["momentum"], optim["weight_decay"]
    after, losses = descend(run, params, rest, optim["steps"], *settings)

    def single_step(params: dict, i: int) -> tuple:
        *_, means, gradient = run(params, *rest[:2], images[i : i + 1], labels[i : i + 1])
        return means["loss"], gradient

    in_turn = [step % len(labels) for step in range(optim["steps"])]
    single, of_single = follow(single_step, params, in_turn, *settings)
    ours = {
        **under("param", params),
        **under("grad", gradient),
        **under("sgd", after),
        **under("sgd_b1", single),
        "ctx_init": towers.embed(frozen, golden["tokens"][0, 1:5]),
        "labels": labels,
        "image_features": features,
        "bias": method.shift(params, unit(features)),
        "text_features": jax.jit(method.texts)(params, frozen, names, unit(features)),
        "logits": scores.logits["prompted"],
        "loss": means["loss"],
        "sgd/losses": losses,
        "sgd/logits": run(after, *rest)[2].logits["prompted"],
        "sgd_b1/losses": of_single,
        "lr/10": rates(10),
    }
    return {key: np.asarray(x) for key, x in ours.items()}
