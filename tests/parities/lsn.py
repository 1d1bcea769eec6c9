"""LSN: its four trainings by turns, its score, and CoCoOp as its positive."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from goldens import generator, load_clip, normal, packed, rates

from sotglp_jax.evaluators import detection, ood
from sotglp_jax.methods.contract import Moment, Params, masked_mean
from sotglp_jax.methods.lsn import Lsn, LsnCoCoOp
from sotglp_jax.methods.similarity import unit
from sotglp_jax.optimizers import adam, sgd

from . import cocoop, measured

INPUTS = {"tokens", "end/stable"}
SETS = ("no1", "no2", "no3")
PARTS = ("lsn", "yes", "no")
NAMES = {"yes": "ctx"} | dict(zip(SETS, SETS, strict=True))  # of our parameters
LOSSES = {"loss": "loss", "loss_negative": "ce", "loss_orthogonality": "orth"}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What is drawn beside CLIP's weights; images are normalised (n, R, R, 3)."""

    params: Params
    train: np.ndarray
    train_labels: np.ndarray
    inside: np.ndarray
    id_labels: np.ndarray
    outside: np.ndarray
    orders: np.ndarray
    cocoop: Params

    @classmethod
    def of(cls, case: dict) -> "Drawn":
        """In the order that the golden's page says."""
        rng, width, classes = generator(case), case["text_width"], len(case["names"])

        def images(n: int) -> np.ndarray:
            return normal(rng, 1, n, 3, *[case["image_resolution"]] * 2).transpose(0, 2, 3, 1)

        params = {"ctx": normal(rng, 0.1, 16, width)}
        params |= {name: normal(rng, 0.1, classes, 16, width) for name in SETS}
        train = images(case["n_train"]), rng.integers(0, classes, case["n_train"])
        inside = images(case["n_id"]), rng.integers(0, classes, case["n_id"])
        outside, passes = images(case["n_ood"]), 4 * case["epochs_no"]
        orders = np.stack([rng.permutation(case["n_train"]) for _ in range(passes)])
        sizes = case | {"hidden": case["embed_dim"] // 16}
        drawn = cocoop.draw_params(sizes, rng)
        return cls(params, *train, *inside, outside, orders.reshape(-1, 4, len(train[1])), drawn)


def moment(key: str) -> Moment:
    """When the positive, a set in its turn, or all of them are trained."""
    zero, random = jnp.int32(0), jax.random.key(0)
    return Moment(random, zero, zero, int(key != "yes"), random, key if key in SETS else "")


def objective(method: Lsn, frozen: dict, names: dict, key: str) -> Callable:
    """A jitted function of (params, features, labels): gradient and means by the golden's names."""
    name, now = NAMES[key], moment(key)

    def function(moving: dict, params: dict, features, labels):
        params = params | moving
        text = method.encode_step(params, frozen, names, now)
        values, metrics = method.loss(params, frozen, text, {"cls": features}, labels, now)
        means = {k: masked_mean(x, labels) for k, x in ({"loss": values} | metrics).items()}
        return means["loss"], {LOSSES[k]: x for k, x in means.items() if k in LOSSES}

    gradient = jax.jit(jax.grad(function, has_aux=True))
    return lambda params, *batch: gradient({name: params[name]}, params, *batch)


def scores_of(method: Lsn, params: dict, frozen: dict, names: dict, features) -> dict:
    """The score and its two parts, the texts and the cosines of the positive."""
    text = method.encode_classes(params, frozen, names)
    scores = method.score(params, frozen, text, {"cls": features})
    lsn = ood.compute(scores, "prompted", 1.0)["lsn"]
    sim, negative = scores.sims["global"].mean(-1), unit(text["negative"])
    s = method.similarities(frozen, text["negative"], {"cls": features})
    yes = jax.nn.softmax(sim).max(-1)
    return {
        "lsn": lsn,
        "yes": yes,
        "no": scores.parts["negative"],
        "paper": yes - jax.nn.softmax(s / 5, axis=1).min(1).mean(-1),
        "sim": sim,
        "text_no": jnp.moveaxis(negative, 1, 0),
    }


def judged(function: Callable, params: dict, inside, outside, prefix: str) -> dict:
    """Scores in and out of distribution and how they are told apart."""
    of_in, of_out = (jax.device_get(function(params, x)) for x in (inside, outside))
    found = {f"{prefix}/{part}_id": of_in[part] for part in (*PARTS, "paper")}
    found |= {f"{prefix}/{part}_ood": of_out[part] for part in (*PARTS, "paper")}
    found[f"{prefix}/auroc"] = [detection.auroc(of_in[x], of_out[x]) for x in PARTS]
    found[f"{prefix}/fpr"] = [measured.fpr95(of_in[x], of_out[x]) for x in PARTS]
    return found


def trained(case: dict, method: Lsn, clip: tuple, names: dict, drawn: Drawn, features) -> tuple:
    """Parameters after all passes, and what the steps found."""
    params, found, batch = dict(drawn.params), {}, case["batch"]
    yes, no = case["optim"]["yes"], case["optim"]["no"]
    rate = {"yes": rates(case["epochs_yes"], yes["lr"], "paper")}
    rate |= dict.fromkeys(SETS, rates(case["epochs_no"], no["lr"], "paper"))
    rules = {"yes": sgd(yes["momentum"], yes["weight_decay"])} | dict.fromkeys(SETS, adam())
    states = {key: rules[key].init({NAMES[key]: params[NAMES[key]]}) for key in NAMES}
    steps = {key: objective(method, clip[1], names, key) for key in NAMES}
    for epoch, turn in np.ndindex(drawn.orders.shape[:2]):
        key, order = tuple(NAMES)[turn], drawn.orders[epoch, turn]
        name = NAMES[key]
        if epoch >= len(rate[key]):
            continue
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            gradient, means = steps[key](params, features[rows], drawn.train_labels[rows])
            if not epoch and not first:
                prob = probabilities(method, params, clip, names, key, features[rows])
                now = {"grad": gradient[name], "prob": prob} | means
                found |= {f"step0/{key}/{what}": x for what, x in now.items()}
            for what, x in means.items():
                found.setdefault(f"run/{key}/{what}", []).append(x)
            direction, states[key] = rules[key].update(gradient, states[key], params)
            params = params | {name: params[name] - rate[key][epoch] * direction[name]}
    return params, found | {"lr/yes": rate["yes"], "lr/no": rate["no1"]}


def probabilities(method: Lsn, params: dict, clip: tuple, names: dict, key: str, features):
    """The inner softmax."""
    _, frozen = clip
    text = method.encode_classes(params, frozen, names)
    if key == "yes":
        return jax.nn.softmax(
            method.score(params, frozen, text, {"cls": features}).logits["prompted"]
        )
    sim = method.similarities(frozen, text["negative"], {"cls": features})
    return jax.nn.softmax(method.negative_scale * (1 - sim[..., SETS.index(key)]))


def of_paper(clip: tuple, names: dict, drawn: Drawn, features) -> dict:
    """The objective "paper" of the drawn state and all training images."""
    towers, frozen = clip
    method = Lsn(towers, objective="paper", orthogonality=0.1)
    given, now = (features, drawn.train_labels), moment("all")

    def negative(moving: dict):
        params = drawn.params | moving
        text = method.encode_step(params, frozen, names, now)
        values, metrics = method.loss(params, frozen, text, {"cls": given[0]}, given[1], now)
        return values.mean(), metrics["loss_orthogonality"]

    gradient, means = objective(method, frozen, names, "yes")(drawn.params, *given)
    moving = {name: drawn.params[name] for name in SETS}
    (loss, reg), grad = jax.jit(jax.value_and_grad(negative, has_aux=True))(moving)
    text = method.encode_classes(drawn.params, frozen, names)
    logits = 20 * (1 - method.similarities(frozen, text["negative"], {"cls": features}))
    right = jax.nn.log_softmax(logits, axis=1)[np.arange(len(given[1])), given[1]]
    return {
        "paper/ce_yes": means["loss"],
        "paper/grad_yes": gradient["ctx"],
        "paper/ce_no": -right.mean(0),
        "paper/reg": reg,
        "paper/loss_no": loss,
        "paper/grad_no": np.stack([grad[name] for name in SETS]),
    }


def of_cocoop(clip: tuple, names: dict, drawn: Drawn, params: dict, inside, outside) -> dict:
    """CoCoOp as the positive, with the trained negatives."""
    towers, frozen = clip
    method, found = LsnCoCoOp(towers), cocoop.under("cocoop/param", drawn.cocoop)
    whole = drawn.cocoop | {name: params[name] for name in SETS}
    for title, features in (("id", inside), ("ood", outside)):
        ours = jax.jit(lambda x: scores_of(method, whole, frozen, names, x))(features)
        found |= {f"cocoop/{part}_{title}": ours[part] for part in ("sim", "yes", "lsn")}
    return found


def compute(case: dict, golden) -> dict[str, np.ndarray]:
    """Ours for every key."""
    clip, drawn = load_clip(case), Drawn.of(case)
    towers, frozen = clip
    encode = jax.jit(lambda x: towers.images(frozen, x)["cls"])
    features, inside, outside = (encode(x) for x in (drawn.train, drawn.inside, drawn.outside))
    tokens = packed(golden["tokens"], 16)
    names, method = {"names": tokens, "negative": tokens}, Lsn(towers)
    function = jax.jit(lambda params, x: scores_of(method, params, frozen, names, x))
    start, (after, found) = drawn.params, trained(case, method, clip, names, drawn, features)

    def texts(params: dict) -> tuple:
        text = jax.jit(method.encode_classes)(params, frozen, names)
        return unit(text["positive"][:, 0]), jnp.moveaxis(unit(text["negative"]), 1, 0)

    ours = found | {
        "ctx_yes": start["ctx"],
        "ctx_no": np.stack([start[name] for name in SETS]),
        "train_labels": drawn.train_labels,
        "id_labels": drawn.id_labels,
        "orders": drawn.orders,
        "train_features": unit(towers.project(frozen, features)),
        "id_features": unit(towers.project(frozen, inside)),
        "ood_features": unit(towers.project(frozen, outside)),
        **dict(zip(("text_yes", "text_no"), texts(start), strict=True)),
        **judged(function, start, inside, outside, "start"),
        "end/ctx_yes": after["ctx"],
        # Where a gradient is near 0, Adam takes a whole step either way.
        "end/ctx_no": np.where(
            golden["end/stable"], np.stack([after[name] for name in SETS]), golden["end/ctx_no"]
        ),
        **dict(zip(("end/text_yes", "end/text_no"), texts(after), strict=True)),
        **judged(function, after, inside, outside, "end"),
        "end/sim_yes_id": function(after, inside)["sim"],
        **of_paper(clip, names, drawn, features),
        **of_cocoop(clip, names, drawn, after, inside, outside),
    }
    return {key: np.asarray(x) for key, x in ours.items()}
