"""PLOT++: both stages, and what each data set's prompts start from."""

import json
from pathlib import Path

import jax
import numpy as np
from goldens import draw_images, follow, generator, load_clip, normal

from sotglp_jax.clip.packing import pack
from sotglp_jax.clip.tokenizer import Tokens
from sotglp_jax.methods.contract import Moment
from sotglp_jax.methods.plotpp import PlotPlusPlus
from sotglp_jax.methods.similarity import cosines, unit

from .sinkhorn import stopped

DATA = Path(__file__).parent.parent / "data"
SETS = (
    "Caltech101 DescribableTextures EuroSAT FGVCAircraft Food101 ImageNet OxfordFlowers OxfordPets "
    "StanfordCars SUN397 UCF101"
).split()
INPUTS = {f"tokens/{name}" for name in SETS}
PLACEHOLDER, END = 343, 49407  # "X" and [EOT] in OpenAI's vocabulary
MANY = 300  # iterations after which nothing changes any more


def sentences() -> dict[str, list[int]]:
    """Ids of names with their full stop, from the goldens that have them behind placeholders."""
    found = {}
    for path in sorted(DATA.glob("*_dev.npz")):
        golden = np.load(path, allow_pickle=False)
        names = json.loads(str(golden["case"])).get("names", ())
        rows = golden["tokens"] if "tokens" in golden else ()
        for name, row in zip(names, rows, strict=False):
            ids = row[1 : row.argmax()].tolist()
            if ids and ids[0] == PLACEHOLDER:
                found[name] = [i for i in ids if i != PLACEHOLDER]
    return found


def words_of(golden, name: str, templates: list[str]) -> list[list[int]]:
    """Ids of a data set's templates."""
    rows = golden[f"tokens/{name}"][:, 0]
    return [row[1 : 1 + len(t.split())].tolist() for row, t in zip(rows, templates, strict=True)]


def inputs(case: dict, words: list[list[int]], known: dict) -> tuple[int, dict]:
    """K, and what `PlotPlusPlus.tokenize` would give."""
    k = len(words[0])
    tree = {"start": np.array([(ids + [END] + [0] * k)[:k] for ids in words], np.int32)}
    groups = {}
    for number, ids in enumerate(words):
        groups.setdefault((min(len(ids), k), *ids[k:]), []).append(number)
    for members in groups.values():
        rows = [[*words[members[0]], *known[name], END][k:] for name in case["names"]]
        longest = max(map(len, rows))
        ids = np.array([[49406, *row] + [0] * (longest - len(row)) for row in rows], np.int32)
        eot = np.array([len(row) for row in rows], np.int32)
        key = " ".join(["rest of", *map(str, members)])
        tree[key] = pack(Tokens(ids, eot, np.zeros_like(eot)))
    return k, tree


def step_of(method: PlotPlusPlus, stage: int):
    """A jitted function of parameters: features, scores, the loss and its gradient."""
    learned = ("ctx_vision",) if stage == 0 else ("ctx", "ctx_vision")

    @jax.jit
    def run(params, frozen, names, images, labels):
        def objective(moving):
            now = params | moving
            image = method.encode_images(now, frozen, images)
            moment = Moment(jax.random.key(0), 0, 0, stage)
            text = method.encode_step(now, frozen, names, moment)
            values, _ = method.loss(now, frozen, text, image, labels, moment)
            scores = method.score(now, frozen, text, image)
            logits = scores.logits["transport"]
            if stage == 0:
                logits = logits + method.pooled(frozen, text, image)
            return values.mean(), (image, text, logits, scores.parts["match"])

        moving = {name: params[name] for name in learned}
        return jax.value_and_grad(objective, has_aux=True)(moving)

    return run


def of_stage(method, stage: int, params: dict, rest: tuple, optim: dict) -> tuple[dict, dict]:
    """Ours for every key of a stage, and the parameters after it."""
    frozen, names, images, labels = rest
    text = method.encode_classes(params, frozen, names)
    rest = (frozen | {"fixed": {"text": text}}, names, images, labels)
    run = step_of(method, stage)
    (loss, (image, text, logits, plan)), gradient = run(params, *rest)
    counts = []

    def step(params: dict, _: int) -> tuple:
        (value, (seen, texts, *_)), gradient = run(params, *rest)
        counts.append(int(stopped(similarities(method, frozen, seen, texts), 0.1)[1]))
        return value, gradient

    settings = optim["lr"], optim["momentum"], optim["weight_decay"]
    params, losses = follow(step, params, range(optim["steps"]), *settings)
    sim = similarities(method, frozen, image, text)
    found = {
        **forward(method, frozen, image, text, logits),
        "plan": stopped(sim, 0.1)[0],
        "plan_converged": plan,
        "loss": loss,
        **{f"grad/{name}": x for name, x in gradient.items()},
        "iterations": counts,
        "sgd/losses": losses,
        **{f"sgd/{name}": params[name] for name in gradient},
        "sgd/logits": run(params, *rest)[0][1][2],
    }
    return found, params


def similarities(method, frozen: dict, image: dict, text) -> jax.Array:
    """Cosines (B, C, M, N)."""
    feature = method.towers.project(frozen, image["prompted"])
    return cosines("bmd,cnd->bcmn", unit(feature), unit(text))


def forward(method, frozen: dict, image: dict, text, logits) -> dict:
    """Features, cosines and logits."""
    return {
        "image_features": method.towers.project(frozen, image["prompted"]),
        "text_features": text,
        "sim": similarities(method, frozen, image, text),
        "logits": logits,
    }


def other_templates(case, golden, clip: tuple, params: dict, batch: tuple, known: dict) -> dict:
    """The forward pass with the templates of another data set, from near their start."""
    (towers, frozen), name = clip, case["also"]
    templates = case["templates"][name]
    k, names = inputs(case, words_of(golden, name, templates), known)
    start = golden[f"init/{name}"]
    ctx = start + 0.01 * np.sin(np.arange(start.size)).reshape(start.shape).astype(np.float32)
    method = made(case, towers, tuple(templates))
    params = {"ctx": ctx, "ctx_vision": params["ctx_vision"]}
    text = method.encode_classes(params, frozen, names)
    rest = (frozen | {"fixed": {"text": text}}, names, *batch)
    first = step_of(method, 0)(params, *rest)[0][1]
    second = step_of(method, 1)(params, *rest)[0][1]
    image, text, logits, plan = first
    sim = similarities(method, frozen, image, text)
    found = forward(method, frozen, image, text, logits)
    found |= {"plan": stopped(sim, 0.1)[0], "plan_converged": plan}
    assert k == start.shape[1]
    prefix = name.lower()
    ours = {f"{prefix}_stage1/{key}": x for key, x in found.items()}
    return ours | {f"{prefix}_stage2/logits": second[2]}


def made(case: dict, towers, templates: tuple[str, ...]) -> PlotPlusPlus:
    """The method of a case."""
    sizes = {"n_vision": case["n_vision"], "n_ctx_vision": case["n_ctx_vision"]}
    return PlotPlusPlus(towers, templates=templates, **sizes, epsilon=case["eps"], iterations=MANY)


def compute(case: dict, golden) -> dict[str, np.ndarray]:
    """Ours for every key."""
    clip = towers, frozen = load_clip(case)
    rng, known = generator(case), sentences()
    templates = case["templates"][case["dataset"]]
    k, names = inputs(case, words_of(golden, case["dataset"], templates), known)
    params = {
        "ctx": normal(rng, 0.1, case["n_text"], k, case["text_width"]),
        "ctx_vision": normal(
            rng, 0.1, case["n_vision"], case["n_ctx_vision"], case["vision_width"]
        ),
    }
    batch = images, labels = draw_images(case, rng)
    method, rest = made(case, towers, tuple(templates)), (frozen, names, images, labels)
    ours = params | {"labels": labels}
    first, after = of_stage(method, 0, params, rest, case["optim"])
    second, _ = of_stage(method, 1, after, rest, case["optim"])
    for stage, found in (("stage1", first), ("stage2", second)):
        ours |= {f"{stage}/{key}": x for key, x in found.items()}
    for name in SETS:
        ids = inputs(case, words_of(golden, name, case["templates"][name]), known)[1]["start"]
        ours[f"init/{name}"] = towers.embed(frozen, ids)
    ours |= other_templates(case, golden, clip, params, batch, known)
    return {key: np.asarray(x) for key, x in ours.items()}
