"""Training: one jitted step, and the loop around it."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float
from tqdm import tqdm

from sotglp_jax import cache, collectives, evaluate, hosts, memory, sharding, workdir
from sotglp_jax.checkpoint import Checkpoints
from sotglp_jax.clip import ImageFeatures
from sotglp_jax.data import loader
from sotglp_jax.errors import InputError
from sotglp_jax.hosts import Interruption
from sotglp_jax.methods.packing import PackedClasses
from sotglp_jax.methods.sotglp import SotGlp
from sotglp_jax.run import Run
from sotglp_jax.state import State, init_state, make_optimizer, restore


def train_step(
    state: State,
    frozen: dict,
    classes: PackedClasses,
    batch: loader.Batch,
    *,
    method: SotGlp,
    optimizer: optax.GradientTransformation,
) -> tuple[State, dict[str, Float[Array, ""]]]:
    """One step of the optimizer on the trainable tree alone, as each device of a mesh does it.

    Args:
      state: see `State`; of per-class leaves the rows of this device's places.
      frozen: CLIP's weights; an argument, so that they are no constants of the program.
      classes: the bare class names, laid out by `packing.pack`.
      batch: see `loader.Batch`; this device's images.
      method: what is learned.
      optimizer: of the trainable tree.

    Returns:
      The next state, and the metrics of this step, of the weights before it.
    """
    image = _image_features(method, frozen, batch)
    key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"])
    # The device's own rows, one after the other.
    classes = classes.replace(
        members=jnp.arange(classes.members.size).reshape(classes.members.shape)
    )
    trainable = state["trainable"]
    grads, sums = jax.grad(method.loss, has_aux=True)(
        trainable, frozen, classes, image, batch["label"], batch["mask"], key
    )
    grads, metrics = _add_up(method, trainable, grads, sums)
    updates, opt_state = optimizer.update(grads, state["opt_state"], trainable)
    state = state | {
        "step": state["step"] + 1,
        "trainable": optax.apply_updates(trainable, updates),
        "opt_state": opt_state,
    }
    return state, metrics


def _image_features(method: SotGlp, frozen: dict, batch: loader.Batch) -> ImageFeatures:
    """Of this device's images, which the devices with other classes of them share as well."""
    if "image" not in batch:
        return cache.image_features(method.towers, frozen, batch)
    pixels = collectives.own_part(batch["image"], method.axes.classes)
    image = cache.image_features(method.towers, frozen, {"image": pixels})
    tokens = jnp.concatenate([image.cls[:, None], image.patches], axis=1)
    tokens = collectives.gather(tokens, method.axes.classes)[: len(batch["image"])]
    return ImageFeatures(tokens[:, 0], tokens[:, 1:])


def _add_up(method: SotGlp, trainable: dict, grads: dict, sums: dict) -> tuple[dict, dict]:
    """Mean gradients and metrics, in one sum over all devices."""
    mine = {k: (grads[k], trainable[k]) for k in method.per_class}
    shared = {k: x for k, x in grads.items() if k not in mine}
    # Devices with other classes of the same images have the same sums.
    copies = collectives.size(method.axes.classes)
    partial = shared, jax.tree.map(lambda x: x / copies, sums), jax.tree.map(_square, mine)
    flat, unravel = ravel_pytree(partial)
    shared, sums, squares = unravel(collectives.add(flat, method.axes.all))
    images = jnp.maximum(sums.pop("images"), 1)
    rest = {k: (x, trainable[k]) for k, x in shared.items()}
    of_gradient, of_weights = (
        sum(x[i] for x in (squares | jax.tree.map(_square, rest)).values()) for i in (0, 1)
    )
    metrics = jax.tree.map(lambda x: x / images, sums)
    metrics |= {
        "gradient_norm": jnp.sqrt(of_gradient) / images,
        "parameter_norm": jnp.sqrt(of_weights),
    }
    return jax.tree.map(lambda x: x / images, grads | shared), metrics


def _square(x: Float[Array, "..."]) -> Float[Array, ""]:
    return jnp.sum(jnp.square(x))


def train(run: Run) -> None:
    """Trains to the end, or goes on with what the run folder holds, and evaluates.

    Raises:
      InputError: a non-finite loss, or a run folder that cannot be used.
    """
    mesh = sharding.make_mesh(run.config.mesh)
    sharding.check_batch_size(run.config.train.batch_size, mesh)
    workdir.create(run.workdir, run.settings, run.train.names, run.dataset.class_names)
    checkpoints = Checkpoints(run.workdir, create=True)
    if checkpoints.latest is None:
        state = jax.jit(lambda: init_state(run), out_shardings=sharding.replicated(mesh))()
        meta = {"train_seconds": 0.0}
    else:
        state, meta = restore(run, checkpoints, sharding.replicated(mesh))
        print(f"going on from step {checkpoints.latest} in {run.workdir}")
    try:
        state = _loop(run, mesh, checkpoints, state, meta)
    finally:
        checkpoints.close()
    if int(state["step"]) == run.total_steps:
        evaluate.report(run, mesh, state, meta["train_seconds"])


def _loop(run: Run, mesh, checkpoints: Checkpoints, state: State, meta: dict) -> State:
    config, total, start = run.config.train, run.total_steps, int(state["step"])
    if start == total:
        return state
    frozen = jax.device_put(run.frozen, sharding.replicated(mesh))
    chunk = run.classes_per_pass(state["trainable"], mesh.size)
    classes = sharding.put_classes(run.classes, mesh, chunk)
    per_class = run.method.per_class
    state = sharding.spread_classes(state, per_class, classes, mesh)
    optimizer, schedule = make_optimizer(run)
    batches = (sharding.put_batch(batch, mesh) for batch in _batches(run, mesh, start))
    before, began, program = meta["train_seconds"], time.monotonic(), None
    with (
        contextlib.closing(_Recorder(run, schedule, start)) as recorder,
        Interruption() as interruption,
        tqdm(
            total=total, initial=start, desc="training", unit="step", disable=hosts.no_bar()
        ) as bar,
    ):
        for step, batch in enumerate(batches, start=start + 1):
            if not program:
                step_fn = jit_step(mesh, run.method, optimizer)
                program = step_fn.lower(state, frozen, classes, batch).compile()
                bar.write(memory.describe(program))
            state, metrics = program(state, frozen, classes, batch)
            recorder.add(step, metrics)
            bar.update()
            stop = interruption.requested(step) or step == total
            if stop or step % config.log_every == 0 or step % config.checkpoint_every == 0:
                bar.set_postfix(recorder.write(checkpoints))
            if stop or step % config.checkpoint_every == 0:
                meta["train_seconds"] = before + time.monotonic() - began
                whole = sharding.collect_classes(state, per_class, classes)
                checkpoints.save(step, whole, meta)
            if stop:
                break
    if step < total:
        print(f"stopped at step {step} of {total}, saved; the same command goes on from there")
    return sharding.collect_classes(state, per_class, classes)


def _batches(run: Run, mesh: jax.sharding.Mesh, start: int) -> Iterator[loader.Batch]:
    """This process's rows of every batch from a step on, of pixels or of cached features."""
    options = {
        "batch_size": run.config.train.batch_size,
        "epochs": run.config.train.epochs,
        "seed": run.config.seed,
        "start": start,
        "rows": sharding.local_rows(run.config.train.batch_size, mesh),
    }
    if run.config.cache.views:
        return cache.train_batches(cache.of_training(run, mesh), **options)
    return loader.train_batches(
        run.train,
        image_size=run.arch.image_size,
        augmentation=loader.Augmentation(run.config.data.crop_scale, run.config.data.flip),
        workers=run.workers,
        **options,
    )


def jit_step(
    mesh: jax.sharding.Mesh, method: SotGlp, optimizer: optax.GradientTransformation
) -> Callable:
    """`train_step` on a mesh: images divided over 'data', classes over both axes.

    Args:
      mesh: the devices.
      method: what is learned.
      optimizer: of the trainable tree.

    Returns:
      A jitted function of the state as `sharding.spread_classes` laid it out, CLIP's weights on
      every device, the names of `sharding.put_classes`, and the batch of `sharding.put_batch`.
    """
    method = dataclasses.replace(method, axes=collectives.Axes(("data",), ("class",)))
    step = functools.partial(train_step, method=method, optimizer=optimizer)

    def on_mesh(state, frozen, classes, batch):
        states = sharding.state_specs(state, method.per_class)
        whole, rows = PartitionSpec(), PartitionSpec("data")
        return jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(states, whole, sharding.class_specs(classes), rows),
            out_specs=(states, whole),
            check_vma=False,  # ott's loops start from constants
        )(state, frozen, classes, batch)

    return jax.jit(on_mesh, donate_argnums=0)


class _Recorder:
    """Collects metrics on the device and writes their means now and then."""

    def __init__(self, run: Run, schedule: optax.Schedule, start: int):
        self._run, self._schedule, self._start, self._writer = run, schedule, start, None
        self._pending: list[tuple[int, dict]] = []
        self._last, self._time = start, time.monotonic()

    def add(self, step: int, metrics: dict) -> None:
        self._pending.append((step, metrics))

    def write(self, checkpoints: Checkpoints) -> dict[str, str]:
        """Writes the means since the last time; returns what a progress bar shows."""
        fetched = [(step, jax.device_get(metrics)) for step, metrics in self._pending]
        for step, metrics in fetched:
            if not np.isfinite(metrics["loss"] + metrics["gradient_norm"]):
                raise InputError(
                    f"loss or weights are not finite at step {step}: lower --config.train.lr or "
                    f"set --config.precision=float32; the last good checkpoint is of step "
                    f"{checkpoints.latest or 'none'}."
                )
        step, now = fetched[-1][0], time.monotonic()
        speed = (step - self._last) / (now - self._time)
        means = {k: float(np.mean([m[k] for _, m in fetched])) for k in fetched[0][1]}
        means |= {
            "learning_rate": float(self._schedule(step - 1)),
            "images_per_second": speed * self._run.config.train.batch_size,
            "remaining_seconds": (self._run.total_steps - step) / speed,
        }
        if not self._writer:  # imports TensorFlow, for which the first step need not wait
            from sotglp_jax.metrics import create_writer

            self._writer = create_writer(self._run.workdir, self._start)
        self._writer.write_scalars(step, means)
        self._pending, self._last, self._time = [], step, now
        return {"loss": f"{means['loss']:.3f}", "fused": f"{means['accuracy_fused']:.0%}"}

    def close(self) -> None:
        if self._writer:
            self._writer.close()
