"""Evaluation of a run: accuracies, results.json and the table."""

import json
import time

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from sotglp_jax import sharding, workdir
from sotglp_jax.checkpoint import Checkpoints
from sotglp_jax.data import fewshot, loader
from sotglp_jax.evaluators import classification
from sotglp_jax.methods.packing import pack
from sotglp_jax.run import Run
from sotglp_jax.state import restore

ROWS = {
    "zero_shot": "zero-shot CLIP",
    "fused": "SOT-GLP, fused",
    "global": "SOT-GLP, global only",
    "local": "SOT-GLP, local only",
}


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
    else:
        workdir.create(run.workdir, run.settings, run.train.names)
    report(run, mesh, state, meta["train_seconds"])


def report(run: Run, mesh: Mesh, state: dict, train_seconds: float) -> None:
    """Measures all accuracies on the test images, writes results.json and prints the table."""
    began = time.monotonic()
    accuracy = measure(run, mesh, state)
    results = {
        "accuracy": accuracy,
        "images": {"train": len(run.train), "test": len(run.dataset.test)},
        "protocol": protocol(run),
        "config": run.settings,
        "step": int(state["step"]),
        "seconds": {"train": train_seconds, "test": time.monotonic() - began},
        "versions": workdir.versions(),
    }
    workdir.write(run.workdir / "results.json", json.dumps(results, indent=2) + "\n")
    print(table(results))
    print(f"run folder: {run.workdir}")


def protocol(run: Run) -> dict:
    """What must be equal for two results to be comparable."""
    config = run.config
    return {
        "dataset": run.dataset.name,
        "classes": len(run.dataset.class_names),
        "sampler": config.data.sampler,
        "shots": config.shots,
        "seed": config.seed,
        "train_images_sha256": fewshot.fingerprint(run.train.names),
        "test_images_sha256": fewshot.fingerprint(run.dataset.test.names),
        "template": run.dataset.template,
        "clip": config.clip.name,
        "clip_sha256": run.settings["clip.sha256"],
        "activation": run.zero_shot.towers.vision.activation,
        "recipe": config.recipe,
        "precision": config.precision,
    }


def measure(run: Run, mesh: Mesh, state: dict) -> dict[str, float]:
    """Accuracy as a fraction by classifier: zero_shot, and fused, global, local where trained."""
    frozen, trained = jax.device_put(
        (run.frozen, state.get("trainable", {})), sharding.replicated(mesh)
    )
    methods, tokens = (run.zero_shot,), (run.sentences,)
    if run.method:
        classes = pack(run.classes, devices=mesh.size, chunk=run.config.text.chunk)
        methods, tokens = (*methods, run.method), (*tokens, classes)
    texts = tuple(
        jax.jit(method.encode_classes)(trained, frozen, text)
        for method, text in zip(methods, tokens, strict=True)
    )
    counts = (
        classification.count_correct(
            frozen, trained, texts, batch, towers=run.zero_shot.towers, methods=methods
        )
        for batch in _test_batches(run, mesh)
    )
    return dict(classification.accuracies(counts, len(run.dataset.test)))


def _test_batches(run: Run, mesh: Mesh):
    size, images = run.config.train.batch_size, len(run.dataset.test)
    batches = loader.test_batches(
        run.dataset.test, image_size=run.arch.image_size, batch_size=size, workers=run.workers
    )
    for batch in tqdm(batches, desc="testing", total=-(-images // size), disable=None):
        yield sharding.put_batch(batch, mesh)


def table(results: dict) -> str:
    """The accuracies of a results file as lines of text."""
    protocol, images = results["protocol"], results["images"]
    lines = [
        f"{protocol['dataset']}, {protocol['clip']}, {images['train']} training and "
        f"{images['test']} test images, seed {protocol['seed']}"
    ]
    lines += [
        f"  {title:<22}{results['accuracy'][name]:>7.1%}"
        for name, title in ROWS.items()
        if name in results["accuracy"]
    ]
    return "\n".join(lines)
