"""Evaluation: one pass over the test images for all evaluators, results.json, the table."""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sotglp_jax import features, workdir
from sotglp_jax.checkpoint import Checkpoints
from sotglp_jax.data import fewshot, transforms
from sotglp_jax.data.sources import Source
from sotglp_jax.devices import hosts, sharding
from sotglp_jax.errors import InputError
from sotglp_jax.evaluators import calibration, classification, maps, mistakes, specialisation
from sotglp_jax.evaluators import detection as ood
from sotglp_jax.evaluators import ood as detection
from sotglp_jax.methods.contract import PADDING, Method, Params
from sotglp_jax.reports import tables
from sotglp_jax.run import Run, seen_classes
from sotglp_jax.settings import defaults, flatten
from sotglp_jax.state import init_state, restore, trained

SHOWN = ("maps", "logits")  # of what is observed, what is too large to keep of every image


@dataclasses.dataclass(frozen=True)
class Observer:
    """Looks at images with a method, and with zero-shot CLIP beside it.

    Attributes:
      run: whose images they are.
      mesh: the devices.
      methods: the method, and behind it zero-shot CLIP where that is another one.
      params: the method's parameters.
      frozen: CLIP's weights.
      texts: class features of each of `methods`, encoded once.
      temperature: what the logits that decide are divided by for "chances".
    """

    run: Run
    mesh: Mesh
    methods: tuple[Method, ...]
    params: Params
    frozen: dict
    texts: tuple
    temperature: float = 1.0

    def observe(self, source: Source, title: str) -> Iterator[dict]:
        """Yields what `observe` gives of every batch, padding included."""
        options = {"methods": self.methods, "temperature": self.run.config.ood.temperature}
        for batch in features.test_batches(self.run, self.methods[0], source, self.mesh, title):
            fixed = self.params, self.frozen, self.texts
            yield observe(*fixed, batch, 1 / self.temperature, mesh=self.mesh, **options)

    def collect(
        self, source: Source, title: str, shown: Sequence[int] = (), keep: Sequence[str] = ()
    ) -> tuple[np.ndarray, dict, dict]:
        """The labels of all images and what was observed of them.

        Args:
          source: the images.
          title: of the progress bar.
          shown: positions of the images whose maps are wanted too, ascending.
          keep: what of `SHOWN` is wanted of all images, since they are few.

        Returns:
          Labels (N,), the observed values as arrays (N, ...), and the maps of the images shown.
        """
        labels, values, pictures, first = [], [], [], 0
        for observed in self.observe(source, title):
            found = np.asarray(observed["label"])
            real = found != PADDING
            places = [i - first for i in shown if first <= i < first + len(real)]
            if places:
                pictures.append({k: np.asarray(x)[places] for k, x in observed["maps"].items()})
            left = {*SHOWN} - {*keep}
            kept = jax.device_get({k: x for k, x in observed.items() if k not in left})
            values.append(jax.tree.map(lambda x, real=real: x[real], kept))
            labels.append(found[real])
            first += int(real.sum())
        joined = [
            jax.tree.map(lambda *x: np.concatenate(x), *x) if x else {} for x in (values, pictures)
        ]
        return np.concatenate(labels), *joined


@functools.partial(jax.jit, static_argnames=("methods", "temperature", "mesh"))
def observe(
    params: Params,
    frozen: dict,
    texts: tuple,
    batch: dict,
    scale: float = 1.0,
    *,
    methods: tuple[Method, ...],
    temperature: float,
    mesh: Mesh,
) -> dict[str, Any]:
    """What all evaluators want to know of a batch, (B, ...) each, whole on every device.

    Returns:
      "label"; "predicted", classes by classifier; "finite"; "logits" by the method's names for
      them; "chances", see `classification`, of the deciding logits times `scale`, and "plain" of
      them as they are;
      "ood", "specialisation" and "maps" as far as the method has the parts that they need, see
      `evaluators` and `maps`.
    """
    image = features.of_batch(methods[0], params, frozen, batch)
    found: dict[str, Any] = {"label": batch["label"], "predicted": {}}
    for method, text in zip(methods, texts, strict=True):
        seen = image
        if method is not methods[0] and "cls" not in image:
            seen = method.encode_images({}, frozen, batch["image"])
        scores = method.score(params, frozen, text, seen)
        found["predicted"] |= classification.predict(scores.logits)
        if method is methods[0]:
            decides = next(iter(method.logits))
            found["finite"] = jax.numpy.isfinite(scores.logits[decides]).all(-1)
            found["logits"] = scores.logits
            for name, factor in (("chances", scale), ("plain", 1.0)):
                logits = factor * scores.logits[decides]
                found[name] = classification.chances(logits, batch["label"])
            found["ood"] = detection.compute(scores, decides, temperature)
            found["specialisation"] = specialisation.compute(scores, batch["label"])
            shown = maps.compute(scores, batch["label"])
            found["maps"] = vars(shown) if shown else {}
    return jax.lax.with_sharding_constraint(found, sharding.replicated(mesh))


def evaluate(run: Run) -> None:
    """Evaluates the last checkpoint of a run, or its start where it is not trained in steps.

    Raises:
      InputError: the run folder holds no checkpoint.
    """
    mesh = sharding.make_mesh(run.config.mesh)
    whole = sharding.replicated(mesh)
    with jax.set_mesh(mesh):
        frozen, names = jax.device_put(run.frozen, whole), run.names_on(mesh, run.method)
        if run.stages:
            checkpoints = Checkpoints(run.workdir)
            state, meta = restore(run, frozen, names, checkpoints, whole)
            checkpoints.close()
        else:
            state, meta = init_state(run, frozen, names), {"train_seconds": 0.0}
        workdir.create(run.workdir, run.settings, run.train.names, run.dataset.class_names)
        report(run, mesh, frozen, names, state, meta["train_seconds"])


def report(run: Run, mesh: Mesh, frozen: dict, names, state: dict, train_seconds: float) -> None:
    """Evaluates a state on everything that the run names; writes results.json, prints the table.

    Args:
      run: the run.
      mesh: the devices, which are those of `jax.set_mesh`.
      frozen: CLIP's weights on them.
      names: the class names, packed.
      state: see `state.State`.
      train_seconds: what the training took.

    Raises:
      InputError: the parameters give no finite logits.
    """
    began = time.monotonic()
    before, encode = trained(run, state), jax.jit(run.method.encode_classes)
    text = encode(before, frozen, names)
    params = _finished(run, mesh, frozen, names, text, before)
    if params is not before:
        text = encode(params, frozen, names)
    observer = _observer(run, mesh, run.method, params, frozen, text)
    temperatures, validated = {}, _validation(run, observer)
    if run.config.eval.calibrate:
        temperatures = _temperatures(*validated)
        decides = temperatures[next(iter(run.method.logits))]
        observer = dataclasses.replace(observer, temperature=decides)
    shown = maps.first_of_classes(run.dataset.test.labels) if hosts.first() else ()
    labels, seen, pictures = observer.collect(run.dataset.test, "testing", shown)
    if not seen["finite"].all():
        raise InputError(
            f"the parameters in {run.workdir} give no finite logits: train again with a lower "
            "--config.train.lr in another --workdir."
        )
    results = {
        "method": describe(run),
        "accuracy": _accuracies(run.method, seen["predicted"], labels),
        **_specialisation(seen["specialisation"]),
        "images": {"train": len(run.train), "test": len(run.dataset.test)},
        "protocol": protocol(run),
        "targets": {
            name: _on_target(run, target, mesh, frozen, params)
            for name, target in run.targets.items()
        },
        **({"start": run.start.about()} if run.start else {}),
        "config": run.settings,
        "clip_path": run.clip.path,
        "learned": run.method.summary(params, len(run.dataset.class_names)),
        "step": int(state["step"]),
        "seconds": {"train": train_seconds},
        "versions": workdir.versions(),
    }
    predicted = seen["predicted"][next(iter(run.method.logits))]
    predictions = classification.Predictions(labels, predicted, **seen["chances"])
    workdir.write_arrays(run.workdir / classification.FILE, **vars(predictions))
    if temperatures:
        plain = dataclasses.replace(predictions, **seen["plain"])
        results["calibration"] = _calibration(validated, temperatures, plain, predictions)
    _keep_mistakes(observer, predictions)
    if run.method.learns:
        workdir.write_tensors(run.workdir / workdir.PARAMS, params)
    outside = {name: observer.collect(x.test, name)[1]["ood"] for name, x in run.ood.items()}
    if "single" in seen["ood"]:
        results["ood_threshold"] = _threshold(run, validated, seen["ood"], outside)
    if pictures:
        flagged = seen["ood"]["single"] < results["ood_threshold"]["value"]
        answers = _answers(run, predictions, flagged, list(shown))
        examples = maps.examples(run.dataset, shown, pictures, answers, run.resize)
        workdir.write_arrays(run.workdir / maps.FILE, **maps.arrays(examples))
    if run.ood:
        results["ood"] = _detect(run, seen["ood"], outside)
    results["seconds"]["test"] = time.monotonic() - began
    workdir.write(run.workdir / "results.json", workdir.to_json(results))
    print(tables.of_run(results))
    print(f"run folder: {run.workdir}")


def _answers(
    run: Run, predictions: classification.Predictions, flagged: np.ndarray, rows: list[int]
) -> maps.Answers:
    """What is said of some of the test images."""
    given = np.array(run.dataset.class_names)[predictions.predicted[rows]]
    return maps.Answers(given, predictions.probability[rows], flagged[rows])


def _keep_mistakes(observer: Observer, predictions: classification.Predictions) -> None:
    """Writes the worst mistakes with the maps of the classes that they were taken for."""
    positions = predictions.mistakes[: mistakes.MOST].tolist()
    config = observer.run.config.copy_and_resolve_references()
    config.cache.views = 0  # features of these few are not worth a file
    run = dataclasses.replace(observer.run, config=config)
    source = run.dataset.test.take(positions)
    given = dataclasses.replace(source, labels=predictions.predicted[positions].tolist())
    plain = dataclasses.replace(observer, run=run)
    drawn = plain.collect(given, "mistakes", range(len(given)))[2] if positions else {}
    found = mistakes.make(
        source,
        predictions.predicted[positions],
        predictions.probability[positions],
        maps.Maps(**drawn) if drawn else None,
        run.resize,
    )
    workdir.write_arrays(run.workdir / mistakes.FILE, **mistakes.arrays(found))


def _finished(run: Run, mesh: Mesh, frozen: dict, names, text, params: Params) -> Params:
    """The parameters after `Method.finish`."""
    method = run.method

    def encode(params: Params, frozen: dict, batch: dict):
        return features.of_batch(method, params, frozen, batch), batch["label"]

    whole = jax.jit(encode, out_shardings=sharding.replicated(mesh))

    def images(part: str) -> Iterator:
        source = run.dataset.parts[part]
        for batch in features.test_batches(run, method, source, mesh, f"{part} images"):
            image, labels = jax.device_get(whole(params, frozen, batch))
            real = labels != PADDING
            yield {name: x[real] for name, x in image.items()}, labels[real]

    finished = method.finish(params, frozen, text, images)
    if run.foreign:
        run.check.finished(finished, names)
    return finished


def _observer(run: Run, mesh: Mesh, method: Method, params: Params, frozen: dict, text):
    methods, texts = [method], [text]
    for plain in run.baseline:
        if type(plain) is not type(method):
            methods.append(plain)
            encode = jax.jit(plain.encode_classes)
            texts.append(encode({}, frozen, run.names_on(mesh, plain)))
    return Observer(run, mesh, tuple(methods), params, frozen, tuple(texts))


def _accuracies(method: Method, predicted: dict, labels: np.ndarray) -> dict[str, float]:
    """Zero-shot CLIP's, and behind it those of the method's classifiers in its order."""
    names = [*(predicted.keys() - method.logits.keys()), *method.logits]
    return {name: classification.accuracy(predicted[name], labels) for name in names}


def _specialisation(values: dict) -> dict:
    means = {name: x.mean(0).tolist() for name, x in values.items()}
    return {"specialisation": means} if means else {}


def _on_target(run: Run, target: Run, mesh: Mesh, frozen: dict, params: Params) -> dict:
    """Results on another data set, with the prompts that may be used there."""
    found = run.method.on(params, seen_classes(run, target.dataset)) if run.method.learns else None
    plain = target.baseline[0] if target.baseline else run.method
    method, own = found or (plain, {})
    names = target.names_on(mesh, run.method if found else plain)
    text = jax.jit(method.encode_classes)(own, frozen, names)
    observer = _observer(target, mesh, method, own, frozen, text)
    labels, seen, _ = observer.collect(target.dataset.test, target.dataset.name)
    return {
        "accuracy": _accuracies(method, seen["predicted"], labels),
        "images": {"test": len(target.dataset.test)},
        "protocol": protocol(target),
        "note": method.note,
    }


def _detect(run: Run, inside: dict, outside: dict[str, dict]) -> dict:
    """Results of out-of-distribution detection; all scores go into ood_scores.npz.

    Args:
      run: the run.
      inside: what `detection.compute` gave of the test images.
      outside: the same of every set in `run.ood`.
    """
    classes = len(run.dataset.class_names)
    scores = {"test": detection.collect(inside, classes)}
    scores |= {name: detection.collect(found, classes) for name, found in outside.items()}
    arrays = {f"{s}/{k}": x for s, named in scores.items() for k, x in named.items()}
    workdir.write_arrays(run.workdir / "ood_scores.npz", **arrays)
    found = detection.evaluate(scores["test"], {name: scores[name] for name in outside})
    images = {"test": len(run.dataset.test)} | {n: len(x.test) for n, x in run.ood.items()}
    about = {"temperature": run.config.ood.temperature, "local": run.method.local}
    return {**about, "images": images, "scores": dict(found)}


def _validation(run: Run, observer: Observer) -> tuple[np.ndarray, dict] | None:
    """Labels of the validation images and what was observed of them; None without any."""
    if not len(run.dataset.val):
        return None
    source = run.dataset.val.spread(detection.MOST)
    return observer.collect(source, "validation", keep=("logits",))[:2]


def _temperatures(labels: np.ndarray, seen: dict) -> dict[str, float]:
    """The temperature of each of the method's logits by name, from validation images."""
    return {name: calibration.temperature(x, labels) for name, x in seen["logits"].items()}


def _calibration(
    validated: tuple[np.ndarray, dict],
    temperatures: dict[str, float],
    plain: classification.Predictions,
    predictions: classification.Predictions,
) -> dict:
    """What calibration did: ECE of the test images by the deciding logits, before and after."""
    labels, seen = validated
    decides = next(iter(temperatures))
    errors = [classification.calibration_error(x) for x in (plain, predictions)]
    return {
        "images": len(labels),
        "right": calibration.right(seen["logits"][decides], labels),
        "temperature": temperatures,
        "ece": dict(zip(("before", "after"), errors, strict=True)),
    }


def _threshold(
    run: Run,
    validated: tuple[np.ndarray, dict] | None,
    inside: dict,
    outside: dict[str, dict],
) -> dict:
    """The OOD score below which predictions flag an image, and how well it does.

    It is chosen on validation images, on test images where there are none. Of a few images 5 % are
    one or none, so their threshold is a rough one: beside it stand the share that passes with its
    interval, and the scores, of which another recall makes another. With ood.threshold=unknown
    every second image of the sets has a say, and the others tell how many are flagged.

    Args:
      run: the run.
      validated: what `_validation` gave.
      inside: what `detection.compute` gave of the test images.
      outside: the same of every set in `run.ood`.
    """
    part, values = "test", inside["single"][:: -(-len(inside["single"]) // detection.MOST)]
    if validated:
        part, values = "val", validated[1]["ood"]["single"]
    others, chosen = {name: x["single"] for name, x in outside.items()}, run.config.ood.threshold
    value, judged = ood.threshold(values), others
    if chosen == "unknown":
        value = ood.separating(values, np.concatenate([x[::2] for x in others.values()]))
        judged = {name: x[1::2] if len(x) > 1 else x for name, x in others.items()}
    share, low, high = ood.passing(values, value)
    return {
        "score": detection.single_name(inside),
        "local": run.method.local,
        "value": value,
        "chosen": chosen,
        "part": part,
        "images": len(values),
        "passing": share,
        "interval": [low, high],
        "unknown": {
            name: {"images": len(x), "flagged": float(np.mean(x < value))}
            | _told(inside["single"], others[name])
            for name, x in judged.items()
        },
        "scores": np.sort(values).tolist(),
    }


def _told(inside: np.ndarray, outside: np.ndarray) -> dict:
    """Whether images of a set are told from the test images by their score."""
    area = ood.auroc(inside, outside)
    return {"auroc": area, "separates": ood.separates(area, len(inside), len(outside))}


def describe(run: Run) -> dict:
    """What tables need to know of a run's method, so that they know no method themselves."""
    method, variant = run.method, run.config.variant
    title = method.variants[variant].title if variant in method.variants else method.title
    usual = defaults(run.settings | {"variant": "full"})
    return {
        "name": run.config.method.name,
        "title": title,
        "variant": variant,
        "learns": method.learns,
        "logits": dict(method.logits),
        "usual": {
            name: usual[f"method.{name}"]
            for name in method.options()
            if name not in method.detection_only
        },
        "symbols": dict(method.symbols),
    }


def protocol(run: Run) -> dict:
    """What must be equal for two results to be comparable."""
    config, usual = run.config, defaults(run.settings)
    ignored = {*workdir.EXECUTION, "shots", "seed", "data.sampler", "precision", "clip.sha256"}
    return {
        "dataset": run.dataset.name,
        "classes": len(run.dataset.class_names),
        "class_names_sha256": fewshot.fingerprint(run.dataset.class_names),
        "sampler": config.data.sampler,
        "shots": config.shots,
        "seed": config.seed,
        "train_images_sha256": fewshot.fingerprint(run.train.names),
        "test_images_sha256": fewshot.fingerprint(run.dataset.test.names),
        "template": run.dataset.template,
        **({"sentences": run.dataset.sentences} if run.dataset.sentences else {}),
        "transforms": transforms.VERSION,
        "pixels": run.dataset.test.pixels + (f"; {run.resize}" if run.resize.unusual else ""),
        "clip": config.clip.name,
        "clip_sha256": run.settings["clip.sha256"],
        "activation": run.method.towers.vision.activation,
        "method": config.method.name,
        "recipe": config.recipe,
        "unpublished": run.unpublished,
        "precision": config.precision,
        "changed": {
            key: value
            for key, value in flatten(config).items()
            if key not in ignored and usual.get(key) != value
        },
    }
