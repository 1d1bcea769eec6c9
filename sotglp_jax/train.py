"""Training: one jitted step, and the loop around it."""

import contextlib
import dataclasses
import functools
import signal
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jaxtyping import Array, Float
from tqdm import tqdm

from sotglp_jax import cache, evaluate, hosts, sharding, workdir
from sotglp_jax.checkpoint import Checkpoints
from sotglp_jax.data import loader
from sotglp_jax.errors import InputError
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
    """One step of the optimizer on the trainable tree alone.

    Args:
      state: see `State`.
      frozen: CLIP's weights; an argument, so that they are no constants of the program.
      classes: the bare class names, laid out by `packing.pack`.
      batch: see `loader.Batch`.
      method: what is learned.
      optimizer: of the trainable tree.

    Returns:
      The next state, and the metrics of this step.
    """
    if "image" in batch:
        batch = batch | {"image": method.place(batch["image"], ("data", "class"))}
    image = cache.image_features(method.towers, frozen, batch)
    image = jax.tree.map(lambda x: method.place(x, "data"), image)
    key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"])
    grads, metrics = jax.grad(method.loss, has_aux=True)(
        state["trainable"], frozen, classes, image, batch["label"], batch["mask"], key
    )
    updates, opt_state = optimizer.update(grads, state["opt_state"], state["trainable"])
    trainable = optax.apply_updates(state["trainable"], updates)
    metrics["parameter_norm"] = optax.tree.norm(trainable)
    state = state | {
        "step": state["step"] + 1,
        "trainable": trainable,
        "opt_state": opt_state,
    }
    return state, metrics


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
    from sotglp_jax.metrics import create_writer  # imports TensorFlow, which takes seconds

    config, total, start = run.config.train, run.total_steps, int(state["step"])
    if start == total:
        return state
    frozen = jax.device_put(run.frozen, sharding.replicated(mesh))
    classes = sharding.put_classes(run.classes, mesh, run.config.text.chunk)
    per_class, n_classes = run.method.per_class, len(run.dataset.class_names)
    state = sharding.spread_classes(state, per_class, mesh)
    optimizer, schedule = make_optimizer(run)
    step_fn = jit_step(mesh, run.method, optimizer, state)
    batches = _batches(run, mesh, start)
    before, began = meta["train_seconds"], time.monotonic()
    with (
        contextlib.closing(create_writer(run.workdir, start)) as writer,
        Interruption() as interruption,
        tqdm(
            total=total, initial=start, desc="training", unit="step", disable=hosts.no_bar()
        ) as bar,
    ):
        recorder = _Recorder(writer, schedule, config.batch_size, start, total)
        for step, batch in enumerate(batches, start=start + 1):
            state, metrics = step_fn(state, frozen, classes, sharding.put_batch(batch, mesh))
            recorder.add(step, metrics)
            bar.update()
            stop = interruption.requested(step) or step == total
            if stop or step % config.log_every == 0 or step % config.checkpoint_every == 0:
                bar.set_postfix(recorder.write(checkpoints))
            if stop or step % config.checkpoint_every == 0:
                meta["train_seconds"] = before + time.monotonic() - began
                whole = sharding.drop_padding(state, per_class, n_classes)
                checkpoints.save(step, whole, meta)
            if stop:
                break
    if step < total:
        print(f"stopped at step {step} of {total}, saved; the same command goes on from there")
    return sharding.drop_padding(state, per_class, n_classes)


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
    mesh: jax.sharding.Mesh, method: SotGlp, optimizer: optax.GradientTransformation, state: State
) -> Callable:
    """`train_step` for a mesh: images divided over 'data', classes over 'class'.

    Args:
      mesh: the devices.
      method: what is learned.
      optimizer: of the trainable tree.
      state: as `sharding.spread_classes` laid it out; the next one is laid out alike.
    """
    method = dataclasses.replace(method, place=sharding.placer(mesh))
    return jax.jit(
        functools.partial(train_step, method=method, optimizer=optimizer),
        out_shardings=(jax.tree.map(lambda x: x.sharding, state), sharding.replicated(mesh)),
        donate_argnums=0,
    )


class _Recorder:
    """Collects metrics on the device and writes their means now and then."""

    def __init__(self, writer, schedule, batch_size: int, start: int, total: int):
        self._writer, self._schedule, self._batch_size = writer, schedule, batch_size
        self._pending: list[tuple[int, dict]] = []
        self._last, self._time, self._total = start, time.monotonic(), total

    def add(self, step: int, metrics: dict) -> None:
        self._pending.append((step, metrics))

    def write(self, checkpoints: Checkpoints) -> dict[str, str]:
        """Writes the means since the last time; returns what a progress bar shows."""
        fetched = [(step, jax.device_get(metrics)) for step, metrics in self._pending]
        for step, metrics in fetched:
            # The step's loss is of the weights before it, the norm of those after it.
            if not np.isfinite(metrics["loss"] + metrics["parameter_norm"]):
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
            "images_per_second": speed * self._batch_size,
            "remaining_seconds": (self._total - step) / speed,
        }
        self._writer.write_scalars(step, means)
        self._pending, self._last, self._time = [], step, now
        return {"loss": f"{means['loss']:.3f}", "fused": f"{means['accuracy_fused']:.0%}"}


class Interruption:
    """Turns the first Ctrl-C or SIGTERM into a request that the loop answers between steps.

    Of several processes, one that is asked stops all of them after the same step.
    """

    def __enter__(self):
        self._noted, self._several = False, jax.process_count() > 1
        numbers = (signal.SIGINT, signal.SIGTERM)
        # SIGTERM of several processes is jax.distributed's, which tells it to the others.
        numbers = numbers[:1] if self._several else numbers
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self, step: int) -> bool:
        """Whether to stop after this step."""
        if self._several:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._noted

    def _note(self, number, _frame):
        self._noted = True
        signal.signal(number, self._before[number])
        if self._several:
            signal.raise_signal(signal.SIGTERM)
