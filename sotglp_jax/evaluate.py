"""Evaluation of a run: accuracies, results.json and the table."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from sotglp_jax import cache, fusion, hosts, maps, sharding, tables, workdir
from sotglp_jax.checkpoint import Checkpoints
from sotglp_jax.clip.packing import PackedClasses, pack
from sotglp_jax.data import fewshot, loader, transforms
from sotglp_jax.data.sources import Source
from sotglp_jax.evaluators import classification, ood
from sotglp_jax.methods.sotglp import SotGlp
from sotglp_jax.run import Run, seen_classes
from sotglp_jax.state import restore


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What the scores of any image are made with, on every device; encoded once a run.

    Attributes:
      frozen: CLIP's weights.
      trained: the trainable tree.
      texts: class features of each of `_methods`.
    """

    frozen: dict
    trained: dict
    texts: tuple


def evaluate(run: Run) -> None:
    """Evaluates the last checkpoint of a run, or plain CLIP where nothing is learned.

    Raises:
      InputError: the run folder holds no checkpoint.
    """
    mesh = sharding.make_mesh(run.config.mesh)
    sharding.check_batch_size(run.config.train.batch_size, mesh)
    state, meta = {"step": 0}, {"train_seconds": 0.0}
    if run.method:
        checkpoints = Checkpoints(run.workdir)
        state, meta = restore(run, checkpoints, sharding.replicated(mesh))
        checkpoints.close()
    workdir.create(run.workdir, run.settings, run.train.names, run.dataset.class_names)
    report(run, mesh, state, meta["train_seconds"])


def report(run: Run, mesh: Mesh, state: dict, train_seconds: float) -> None:
    """Measures all accuracies on the test images, writes results.json and prints the table."""
    began = time.monotonic()
    mesh = sharding.flat(mesh)
    frozen = jax.device_put(run.frozen, sharding.replicated(mesh))
    encoded = _encode(run, mesh, state, frozen)
    weights = _fusion(run, mesh, encoded) if run.method else None
    if weights and not run.method.learn_fusion:
        run = _with_fusion(run, *weights)
    judged = measure(run, mesh, encoded)
    confusion = judged.pop("confusion", None)
    results = {
        **judged,
        "images": {"train": len(run.train), "test": len(run.dataset.test)},
        "protocol": protocol(run),
        "targets": {
            name: _on_target(run, target, mesh, state, frozen)
            for name, target in run.targets.items()
        },
        "config": run.settings,
        "fusion": weights and dict(zip(("global", "local"), weights, strict=True)),
        "step": int(state["step"]),
        "seconds": {"train": train_seconds, "test": time.monotonic() - began},
        "versions": workdir.versions(),
    }
    if run.method:
        workdir.write_arrays(run.workdir / classification.CONFUSION, counts=confusion)
        workdir.write_arrays(run.workdir / maps.FILE, **_maps(run, mesh, encoded))
        results["ood_threshold"] = _threshold(run, mesh, encoded)
    if run.ood:
        results["ood"] = _detect(run, mesh, encoded)
    workdir.write(run.workdir / "results.json", json.dumps(results, indent=2) + "\n")
    print(tables.of_run(results))
    print(f"run folder: {run.workdir}")


def _fusion(run: Run, mesh: Mesh, encoded: Encoded) -> tuple[float, float]:
    """Weights of the global and the local branch in the prediction."""
    method = run.method
    if method.learn_fusion:
        return method.global_weight, float(np.exp(encoded.trained["log_fusion"]))
    if run.config.method.fusion == "fixed":
        return method.global_weight, method.fusion_weight
    score = _scorer(run, mesh, encoded, fusion.measure)
    return fusion.choose(score(run.dataset.val, "validating"), method.fusion_weight)


def _with_fusion(run: Run, of_global: float, of_local: float) -> Run:
    def weigh(run: Run) -> Run:
        if not isinstance(run.method, SotGlp):
            return run
        method = dataclasses.replace(run.method, global_weight=of_global, fusion_weight=of_local)
        return dataclasses.replace(run, method=method)

    targets = {name: weigh(target) for name, target in run.targets.items()}
    return dataclasses.replace(weigh(run), targets=targets)


def _methods(run: Run) -> tuple:
    """Zero-shot CLIP, and behind it what was trained."""
    return (run.zero_shot, run.method) if run.method else (run.zero_shot,)


def _encode(run: Run, mesh: Mesh, state: dict, frozen: dict) -> Encoded:
    trained = jax.device_put(state.get("trainable", {}), sharding.replicated(mesh))
    tokens = run.sentences, *([_classes(run, state)] if run.method else [])
    texts = tuple(
        jax.jit(method.encode_classes)(trained, frozen, text)
        for method, text in zip(_methods(run), tokens, strict=True)
    )
    return Encoded(frozen, trained, texts)


def _scorer(run: Run, mesh: Mesh, encoded: Encoded, measure: Callable) -> Callable:
    """A function of (source, title) that yields what `measure` gives for every batch."""
    method, text = _methods(run)[-1], encoded.texts[-1]
    whole = sharding.replicated(mesh)  # on every process
    step = jax.jit(functools.partial(measure, method=method), out_shardings=whole)

    def score(source: Source, title: str, pixels: bool = False) -> Iterator[dict]:
        for batch in _batches(run, source, mesh, title, pixels):
            yield jax.device_get(step(encoded.frozen, encoded.trained, text, batch))

    return score


def _maps(run: Run, mesh: Mesh, encoded: Encoded) -> dict[str, np.ndarray]:
    """Of some test images, where the local prompts of their classes look."""
    source = maps.first_of_classes(run.dataset.test)
    parts = _scorer(run, mesh, encoded, maps.measure)(source, "maps", pixels=True)
    return maps.arrays(maps.collect(parts, run.dataset.class_names))


def _on_target(run: Run, target: Run, mesh: Mesh, state: dict, frozen: dict) -> dict:
    """Results on another data set, with the prompts that may be used there."""
    if isinstance(target.method, SotGlp):
        labels = seen_classes(run, target.dataset)
        trained = run.method.select_classes(state["trainable"], labels)
        state = state | {"trainable": trained}
    return {
        "accuracy": measure(target, mesh, _encode(target, mesh, state, frozen))["accuracy"],
        "images": {"test": len(target.dataset.test)},
        "protocol": protocol(target),
    }


def _detect(run: Run, mesh: Mesh, encoded: Encoded) -> dict:
    """Results of out-of-distribution detection; all scores go into ood_scores.npz."""
    temperature, classes = run.config.ood.temperature, len(run.dataset.class_names)
    score = _scorer(run, mesh, encoded, functools.partial(ood.measure, temperature=temperature))
    sources = {"test": run.dataset.test} | run.ood
    scores = {name: ood.collect(score(source, name), classes) for name, source in sources.items()}
    arrays = {f"{s}/{k}": x for s, named in scores.items() for k, x in named.items()}
    workdir.write_arrays(run.workdir / "ood_scores.npz", **arrays)
    judged = ood.judge(scores["test"], {name: scores[name] for name in run.ood})
    images = {name: len(source) for name, source in sources.items()}
    return {"temperature": temperature, "images": images, "scores": dict(judged)}


def _threshold(run: Run, mesh: Mesh, encoded: Encoded) -> dict:
    """The OOD score that 95 % of the validation shots reach; of test images where there are none.

    Of a few shots 5 % are one image or none, so their threshold is a rough one; the number of
    images stands beside it.
    """
    part = "val" if len(run.dataset.val) else "test"
    source = run.dataset.parts[part]
    source = source.take(range(0, len(source), -(-len(source) // ood.MOST)))
    value = ood.limit(_scorer(run, mesh, encoded, ood.rate)(source, "threshold"))
    return {"score": "gl_mcm", "value": value, "part": part, "images": len(source)}


def protocol(run: Run) -> dict:
    """What must be equal for two results to be comparable."""
    config = run.config
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
        "transforms": transforms.VERSION,
        "clip": config.clip.name,
        "clip_sha256": run.settings["clip.sha256"],
        "activation": run.zero_shot.towers.vision.activation,
        "recipe": config.recipe,
        "precision": config.precision,
    }


def _classes(run: Run, state: dict) -> PackedClasses:
    return pack(run.classes, chunk=run.classes_per_pass(state["trainable"]))


def measure(run: Run, mesh: Mesh, encoded: Encoded) -> dict[str, dict | np.ndarray]:
    """What `classification.judge` sums up over the test images; see `classification.means`.

    Classifiers are zero_shot, and fused, global and local where trained.
    """
    options = {"towers": run.zero_shot.towers, "methods": _methods(run)}
    sums = (
        classification.judge(encoded.frozen, encoded.trained, encoded.texts, batch, **options)
        for batch in _batches(run, run.dataset.test, mesh, "testing")
    )
    return classification.means(sums, len(run.dataset.test))


def _batches(
    run: Run, source: Source, mesh: Mesh, title: str, pixels: bool = False
) -> Iterator[loader.Batch]:
    """Every image of a source once, on the devices: pixels, or cached features if those will do."""
    size = -(-run.config.train.batch_size // mesh.size) * mesh.size
    options = {"batch_size": size, "rows": sharding.local_rows(size, mesh)}
    if run.config.cache.views and not pixels:
        batches = cache.test_batches(cache.of_test(run, source, mesh), **options)
    else:
        options |= {"image_size": run.arch.image_size, "workers": run.workers}
        batches = loader.test_batches(source, **options)
    for batch in tqdm(batches, title, -(-len(source) // size), disable=hosts.no_bar()):
        yield sharding.put_batch(batch, mesh)
