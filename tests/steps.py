"""A training step on a mesh, as several test files look at it."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import optax

from sotglp_jax.clip import Clip
from sotglp_jax.devices import sharding
from sotglp_jax.methods.contract import Method, Params, Stage
from sotglp_jax.optimizers import sgd
from sotglp_jax.parts import Part
from sotglp_jax.state import State, first_state
from sotglp_jax.train import jit_step

# Without momentum and weight decay and at a learning rate of 1, a step is the gradient.
GRADIENT = sgd(momentum=0.0, weight_decay=0.0)
STAGE = Stage(epochs=1, lr=1.0, schedule="paper", warmup_epochs=0, warmup_lr=0.0)


class Step(NamedTuple):
    """The parameters before a step, CLIP's weights and the state after it, and its program."""

    before: Params
    frozen: dict
    state: State
    metrics: dict
    compiled: jax.stages.Compiled

    @property
    def after(self) -> Params:
        """The parameters after the step."""
        return self.state["params"]


def take(
    method: Method,
    loaded: Clip,
    class_names: Sequence[str],
    batch: dict,
    devices: int = 1,
    *,
    chunk: int = 0,
    optimizer: optax.GradientTransformation = GRADIENT,
    stage: Stage = STAGE,
    index: int = 0,
) -> Step:
    """The first step of a training.

    Args:
      method: what is trained.
      loaded: the CLIP that its towers are of.
      class_names: the classes.
      batch: a whole batch; it is padded where the devices do not divide it.
      devices: their number.
      chunk: classes that a device takes at once; 0 for all.
      optimizer: of the parameters.
      stage: of the training.
      index: the number of the stage.
    """
    mesh = sharding.make_mesh(devices)
    whole = sharding.replicated(mesh)

    def put(tokens):
        return sharding.put_names(tokens, mesh, lambda _: chunk)

    with jax.set_mesh(mesh):
        frozen = jax.device_put(loaded.params, whole)
        names = put(method.tokenize(loaded.tokenizer, tuple(class_names), "a photo of a {}."))
        texts = put(method.tokenize_fixed(loaded.tokenizer, tuple(class_names)))
        frozen = frozen | {"fixed": jax.jit(method.fixed, out_shardings=whole)(frozen, texts)}
        state = first_state(method, optimizer, frozen, names, seed=0)
        before, state = jax.device_get(state["params"]), jax.device_put(state, whole)
        batch = sharding.pad_batch(batch, mesh)
        step = jit_step(mesh, method, optimizer, Part(stage, index=index, first=0, steps=1), "")
        compiled = step.lower(state, frozen, names, batch).compile()
        state, metrics = compiled(state, frozen, names, batch)
    del frozen["fixed"]
    return Step(before, *jax.device_get((frozen, state, metrics)), compiled)
