"""PromptSRC: the teacher, the loss, and the average over the epochs."""

import jax
import numpy as np
from goldens import compute as function_of
from goldens import descend, draw_images, generator, load_clip, normal, packed, rates

from sotglp_jax.methods.promptsrc import TEMPLATES, PromptSrc

INPUTS = {"tokens", "template_tokens"}
# Epochs, μ and σ of the authors' configurations.
SETTINGS = {
    "fewshot_a": (50, 30.0, 30.0),
    "fewshot_b": (50, 45.0, 5.0),
    "base2new": (20, 15.0, 1.0),
    "cross": (20, 6.0, 10.0),
}
PARAMS = ("text_prompts", "vision_prompts")


def make(case: dict) -> tuple[PromptSrc, dict]:
    """The method of a case and its frozen weights."""
    towers, frozen = load_clip(case)
    method = PromptSrc(
        towers,
        n_text=case["n_ctx_text"],
        n_vision=case["n_ctx_vision"],
        text_depth=case["depth_text"],
        vision_depth=case["depth_vision"],
        text_weight=case["text_weight"],
        image_weight=case["image_weight"],
        average_mean=case["gpa_mean"],
        average_std=case["gpa_std"],
    )
    return method, frozen


def averaging(method: PromptSrc, epochs: int) -> np.ndarray:
    """The weights of the parameters after each epoch in their average."""
    train = {"epochs": epochs, "lr": 0, "schedule": "dassl", "warmup_epochs": 0, "warmup_lr": 0}
    return np.array(method.stages(train)[0].average)


def under(prefix: str, params: dict) -> dict:
    """Parameters as keys of a golden."""
    return {f"{prefix}/{name}": params[name] for name in PARAMS}


def cross_entropy_gradient(method: PromptSrc):
    """A function that gives the gradient of the first term of the loss alone."""

    def objective(params, frozen, names, images, labels):
        image = method.encode_images(params, frozen, images)
        text = method.encode_classes(params, frozen, names)
        logits = method.score(params, frozen, text, image).logits["prompted"]
        return -jax.nn.log_softmax(logits)[np.arange(len(labels)), labels].mean()

    return jax.jit(jax.grad(objective))


def trained(case: dict, run, params: dict, rest: tuple, averaging: np.ndarray):
    """Losses and parameters by epoch, and the average of the latter."""
    steps, sgd = case["steps_per_epoch"], (case["lr"], case["momentum"], case["weight_decay"])
    ends, losses = [], []
    for epoch in range(1, case["epochs"] + 1):  # momentum goes on, so from the start each time
        end, losses = descend(run, params, rest, epoch * steps, *sgd)
        ends.append(end)
    average = jax.tree.map(lambda *x: sum(w * p for w, p in zip(averaging, x, strict=True)), *ends)
    return losses, ends, average


def compute(case: dict, golden) -> dict[str, np.ndarray]:
    """Ours for every key."""
    method, frozen = make(case)
    assert TEMPLATES.read_text().splitlines() == case["templates"]
    rng, (text_width, width) = generator(case), (case["text_width"], case["vision_width"])
    params = {
        "text_prompts": normal(rng, 0.1, case["depth_text"], case["n_ctx_text"], text_width),
        "vision_prompts": normal(rng, 0.1, case["depth_vision"], case["n_ctx_vision"], width),
    }
    images, labels = draw_images(case, rng)
    names = {"names": packed(golden["tokens"], case["n_ctx_text"])}
    sentences = golden["template_tokens"].swapaxes(0, 1)  # class by class
    teacher = packed(sentences.reshape(-1, sentences.shape[-1]))
    frozen = frozen | {"fixed": method.fixed(frozen, teacher)}
    rest, run = (frozen, names, images, labels), function_of(method)
    image, text, scores, means, gradient = run(params, *rest)
    losses, ends, average = trained(case, run, params, rest, averaging(method, case["epochs"]))
    decayed, _ = descend(
        run,
        params,
        rest,
        case["decay_steps"],
        case["lr"],
        case["momentum"],
        case["decay_weight_decay"],
    )
    plain = method.towers.texts(frozen, teacher)[:, 0].reshape(*sentences.shape[:2], -1)
    cls = method.towers.project(frozen, image["cls"])
    scale = np.exp(frozen["logit_scale"])
    unit = cls / np.linalg.norm(cls, axis=-1, keepdims=True)
    ours = {
        "labels": labels,
        **under("param", params),
        **under("grad", gradient),
        **under("grad_ce", cross_entropy_gradient(method)(params, *rest)),
        "teacher/text_mean": plain.mean(1),
        "teacher/image_features": cls,
        "teacher/logits": scale * unit @ frozen["fixed"]["text"].T,
        "text_features": text[:, 0],
        "image_features": method.towers.project(frozen, image["prompted"]),
        "logits": scores.logits["prompted"],
        **{f"loss/{part}": means[f"loss_{part}"] for part in ("ce", "text", "image", "kl")},
        "loss/total": means["loss"],
        "sgd/losses": losses,
        **{k: x for i, end in enumerate(ends, 1) for k, x in under(f"epoch{i}", end).items()},
        "gpa/weights": averaging(method, case["epochs"]),
        **under("gpa", average),
        "test/logits_gpa": run(average, *rest)[2].logits["prompted"],
        "test/logits_last": run(ends[-1], *rest)[2].logits["prompted"],
        "lr/fewshot": rates(50, 0.0025),
        **under("decay", decayed),
    }
    for name, (epochs, mean, std) in SETTINGS.items():
        other = PromptSrc(
            method.towers, average_mean=mean, average_std=std, text_depth=1, vision_depth=1
        )
        ours[f"gpa/weights_{name}"] = averaging(other, epochs)
    return {key: np.asarray(x) for key, x in ours.items()}
