"""Training: one jitted step, and the loop around it."""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from tqdm import tqdm

from sotglp_jax import evaluate, features, optimizers, workdir
from sotglp_jax.checkpoint import Checkpoints
from sotglp_jax.data import loader
from sotglp_jax.devices import hosts, memory, sharding
from sotglp_jax.devices.hosts import Interruption
from sotglp_jax.errors import InputError
from sotglp_jax.methods.contract import Method, Moment, Params, Stage, masked_mean
from sotglp_jax.parts import Part, part_of, parts
from sotglp_jax.run import Run
from sotglp_jax.schedules import learning_rate
from sotglp_jax.state import State, init_state, restore

TIMED = 4  # first steps, of which all but the first say how long the others take
RISE = 0.1  # nats that a mean loss may rise by chance


def train_step(
    state: State,
    frozen: dict,
    names,
    batch: loader.Batch,
    *,
    method: Method,
    optimizer: optax.GradientTransformation,
    part: Part,
    turn: str,
) -> tuple[State, dict[str, Float[Array, ""]]]:
    """The optimizer's steps on a batch of images.

    Args:
      state: see `State`.
      frozen: CLIP's weights; an argument, so that they are no constants of the program.
      names: the class names, packed.
      batch: see `loader.Batch`, or features from the cache.
      method: what is trained.
      optimizer: of its parameters.
      part: the stage.
      turn: the parameter that moves alone, "" without turns.

    Returns:
      The next state, and the means of the metrics over the images, of the parameters before the
      last of the steps; the norm of the parameters is of those after it.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"])
    epoch, labels = part.epoch(state["step"]), batch["label"]
    rate = learning_rate(part.stage, part.progress(state["step"]))
    if method.frozen_images:
        seen = features.of_batch(method, state["params"], frozen, batch)

    def objective(moving: Params, params: Params, moment: Moment):
        params = params | moving
        image = (
            seen if method.frozen_images else method.encode_images(params, frozen, batch["image"])
        )
        text = method.encode_step(params, frozen, names, moment)
        values, metrics = method.loss(params, frozen, text, image, labels, moment)
        means = {k: masked_mean(x, labels) for k, x in ({"loss": values} | metrics).items()}
        return means["loss"], means

    def update(carry, number):
        params, opt_state = carry
        own = key if part.stage.updates == 1 else jax.random.fold_in(key, number)
        moment = Moment(own, state["step"], number, part.index, key, turn)
        moving = part.stage.moving(params, turn)
        gradient, metrics = jax.grad(objective, has_aux=True)(moving, params, moment)
        direction, opt_state = optimizer.update(gradient, opt_state, params)
        params = params | jax.tree.map(lambda x, d: x - rate * d, moving, direction)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        metrics["parameter_norm"] = optax.tree.norm(params)
        return (params, opt_state), metrics

    carry = state["params"], state["opt_state"]
    if part.stage.updates == 1:
        (params, opt_state), metrics = update(carry, jnp.int32(0))
    else:
        (params, opt_state), several = jax.lax.scan(update, carry, jnp.arange(part.stage.updates))
        metrics = jax.tree.map(lambda x: x[-1], several)
    after = state | {"step": state["step"] + 1, "params": params, "opt_state": opt_state}
    if part.stage.average:
        ends = part.epoch(after["step"]) > epoch
        weight = jnp.where(ends, jnp.array(part.stage.average, jnp.float32)[epoch], 0.0)
        after["average"] = jax.tree.map(lambda a, x: a + weight * x, state["average"], params)
    return after, metrics


def jit_step(
    mesh: jax.sharding.Mesh,
    method: Method,
    optimizer: optax.GradientTransformation,
    part: Part,
    turn: str,
) -> Callable:
    """`train_step` for arrays on a mesh, to be called inside `jax.set_mesh` of it."""
    options = {"method": method, "optimizer": optimizer, "part": part, "turn": turn}
    step = functools.partial(train_step, **options)
    return jax.jit(step, donate_argnums=0, out_shardings=sharding.replicated(mesh))


def train(run: Run) -> None:
    """Trains to the end, or goes on with what the run folder holds, and evaluates.

    Raises:
      InputError: a non-finite loss, or a run folder that cannot be used.
    """
    mesh = sharding.make_mesh(run.config.mesh)
    workdir.create(run.workdir, run.settings, run.train.names, run.dataset.class_names)
    if run.start:
        workdir.write(run.workdir / workdir.START, workdir.to_json(run.start.about()))
    checkpoints = Checkpoints(run.workdir, create=True)
    whole = sharding.replicated(mesh)
    with jax.set_mesh(mesh):
        frozen, names = jax.device_put(run.frozen, whole), run.names_on(mesh, run.method)
        if checkpoints.latest is None:
            first = functools.partial(init_state, run)
            state = jax.jit(first, out_shardings=whole)(frozen, names)
            meta = {"train_seconds": 0.0}
        else:
            state, meta = restore(run, frozen, names, checkpoints, whole)
            print(f"going on from step {checkpoints.latest} in {run.workdir}")
        try:
            state = _loop(run, mesh, checkpoints, (frozen, names), state, meta)
        finally:
            checkpoints.close()
        if int(state["step"]) == run.total_steps:
            evaluate.report(run, mesh, frozen, names, state, meta["train_seconds"])


def _loop(run: Run, mesh, checkpoints: Checkpoints, fixed: tuple, state: State, meta: dict):
    config, total, start = run.config.train, run.total_steps, int(state["step"])
    if start == total:
        return state
    frozen, names = fixed
    make = jax.jit(run.method.fixed, out_shardings=sharding.replicated(mesh))
    frozen = frozen | {"fixed": make(frozen, run.packed(run.fixed_texts(), mesh))}
    batches = (
        sharding.put_batch(batch, mesh) for batch in features.train_batches(run, mesh, start)
    )
    before, began = meta["train_seconds"], time.monotonic()
    stages = parts(run.stages, run.steps_per_epoch)
    programs, pace = {}, _Pace(start, total)  # programs by the stage and the turn
    with (
        contextlib.closing(_Recorder(run, start)) as recorder,
        Interruption() as interruption,
        tqdm(
            total=total, initial=start, desc="training", unit="step", disable=hosts.no_bar()
        ) as bar,
    ):
        for step, batch in enumerate(batches, start=start + 1):
            part = part_of(stages, step)
            if (turn := (part.index, part.turn(step - 1))) not in programs:
                optimizer = optimizers.make(part.stage.optimizer, run.method, config)
                if step == part.first + 1 and part.index:
                    state = _between(state, stages[part.index - 1].stage, optimizer)
                step_fn = jit_step(mesh, run.method, optimizer, part, turn[1])
                programs[turn] = step_fn.lower(state, frozen, names, batch).compile()
                bar.write(memory.describe(programs[turn]))
            program = programs[turn]
            state, metrics = program(state, frozen, names, batch)
            recorder.add(step, part, metrics)
            bar.update()
            if said := pace.after(step, metrics):
                bar.write(said)
            stop = interruption.requested() or step == total
            if stop or step % config.log_every == 0 or step % config.checkpoint_every == 0:
                bar.set_postfix(recorder.write(checkpoints))
            if stop:  # no later step would tell whether the last parameters are any good
                _, metrics = program(jax.tree.map(jnp.copy, state), frozen, names, batch)
                after = jax.device_get(metrics) | {"parameter_norm": 0.0}  # that step is not taken
                recorder.check(step + 1, after, checkpoints)
            if stop or step % config.checkpoint_every == 0:
                meta["train_seconds"] = before + time.monotonic() - began
                recorder.sync()  # what is resumed from has its metrics
                checkpoints.save(step, state, meta)
            if stop:
                break
        for warning in recorder.warnings() if step == total else ():
            bar.write(warning)
    if step < total:
        print(f"stopped at step {step} of {total}, saved; the same command goes on from there")
    return state


def _between(state: State, ended: Stage, optimizer: optax.GradientTransformation) -> State:
    """The state that the next stage starts from: a new optimizer, and the average if any."""
    if ended.average:
        zeros = jax.tree.map(jnp.zeros_like, state["average"])
        state = state | {"params": state["average"], "average": zeros}
    return state | {"opt_state": jax.jit(optimizer.init)(state["params"])}


def risen(losses: Sequence[float]) -> bool:
    """Whether losses end above where they were, quarter by quarter, by more than chance."""
    if len(losses) < 4:
        return False
    first, *_, last = means = [np.mean(part) for part in np.array_split(losses, 4)]
    return bool(last - min(means) > max(RISE, (first - min(means)) / 4))


class _Pace:
    """Says after a few steps how long the others take."""

    def __init__(self, start: int, total: int):
        self._start, self._total, self._began = start, total, 0.0

    def after(self, step: int, metrics: dict) -> str:
        """Returns a sentence after the last of the steps that are timed, else ""."""
        done, left = step - self._start, self._total - step
        if done not in (1, TIMED) or not left or not hosts.first():
            return ""
        jax.block_until_ready(metrics)
        if done == 1:  # which waited for images to be read
            self._began = time.monotonic()
            return ""
        minutes, seconds = divmod(round((time.monotonic() - self._began) / (TIMED - 1) * left), 60)
        return f"about {minutes}:{seconds:02} for the {left} steps that are left, by the first ones"


class _Recorder:
    """Collects metrics on the device and writes their means now and then."""

    def __init__(self, run: Run, start: int):
        self._run, self._start, self._writers = run, start, None
        self._pending: list[tuple[int, dict]] = []
        self._last, self._time, self._part = start, time.monotonic(), None
        self._losses: dict[int, list[float]] = {}  # by the number of the stage

    def add(self, step: int, part: Part, metrics: dict) -> None:
        if not self._part:  # the speed is that of the steps, without what comes before the first
            self._time = time.monotonic()
        self._pending.append((step, metrics))
        self._part = part

    def check(self, step: int, metrics: dict, checkpoints: Checkpoints) -> None:
        """Refuses to go on where a step found weights that give no finite loss."""
        before = np.isfinite(metrics["loss"] + metrics["gradient_norm"])
        if before and np.isfinite(metrics["parameter_norm"]):
            return
        if not before:
            checkpoints.remove(step - 1)  # its weights gave that loss
        lr = self._run.config.train.lr
        workdir.write(
            self._run.workdir / workdir.DIVERGED, json.dumps({"step": step, "train.lr": lr})
        )
        raise InputError(
            f"loss or weights are not finite at step {step}: lower --config.train.lr or set "
            "--config.precision=float32; the last good checkpoint is of step "
            f"{checkpoints.latest or 'none'}."
        )

    def write(self, checkpoints: Checkpoints) -> dict[str, str]:
        """Writes the means since the last time; returns what a progress bar shows."""
        fetched = [(step, jax.device_get(metrics)) for step, metrics in self._pending]
        for step, metrics in fetched:
            self.check(step, metrics, checkpoints)
        step, now, part = fetched[-1][0], time.monotonic(), self._part
        speed = (step - self._last) / (now - self._time)
        means = {k: float(np.mean([m[k] for _, m in fetched if k in m])) for k in fetched[-1][1]}
        means |= {
            "learning_rate": float(learning_rate(part.stage, part.progress(step - 1))),
            "images_per_second": speed * self._run.config.train.batch_size,
            "remaining_seconds": (self._run.total_steps - step) / speed,
        }
        decides = next(iter(self._run.method.logits))
        if self._writers is None:  # importing TensorBoard's parts need not delay the first step
            from sotglp_jax.metrics import Log, create_writers

            log = Log(self._run.total_steps, f"accuracy_{decides}")
            self._writers = create_writers(self._run.workdir, self._start, log)
        for writer in self._writers:
            writer.write(step, means)
        self._pending, self._last, self._time = [], step, now
        self._losses.setdefault(part.index, []).append(means["loss"])
        shown = {"loss": f"{means['loss']:.3f}"}
        if (accuracy := means.get(f"accuracy_{decides}")) is not None:
            shown[decides] = f"{accuracy:.0%}"
        return shown

    def warnings(self) -> list[str]:
        """A sentence where the last stage's loss ends above where it was."""
        losses = list(self._losses.values())[-1]
        if not risen(losses):
            return []
        return [
            "warning: the loss rises towards the end of the training: lower --config.train.lr, and "
            "see metrics.jsonl"
        ]

    def sync(self) -> None:
        for writer in self._writers or ():
            writer.sync()

    def close(self) -> None:
        for writer in self._writers or ():
            writer.close()
