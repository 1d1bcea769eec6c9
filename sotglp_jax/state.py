"""What training carries from step to step: parameters, their optimizer, and their average."""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Sharding

from sotglp_jax import optimizers
from sotglp_jax.checkpoint import Checkpoints
from sotglp_jax.methods.contract import Method, Params
from sotglp_jax.parts import part_of, parts
from sotglp_jax.run import Run

# {"step": int32 (), batches of images so far; "key": uint32 key data; "params": the method's;
#  "opt_state": of the stage; "average": where a stage has one, the sum so far}
State = dict


def init_state(run: Run, frozen: dict, names, step: int = 0) -> State:
    """The state before the first step, a function of the seed and of what it starts from.

    Args:
      run: the run.
      frozen: CLIP's weights.
      names: the class names, packed.
      step: has the optimizer of the stage that this batch of images belongs to.
    """
    found = parts(run.stages, run.steps_per_epoch)
    name = part_of(found, step).stage.optimizer if found else "sgd"
    optimizer = optimizers.make(name, run.method, run.config.train)
    state = first_state(run.method, optimizer, frozen, names, run.config.seed)
    if run.start:
        state["params"] = run.start.begin(run.method, state["params"])
    if any(stage.average for stage in run.stages):
        state["average"] = jax.tree.map(jnp.zeros_like, state["params"])
    return state


def first_state(
    method: Method, optimizer: optax.GradientTransformation, frozen: dict, names, seed: int
) -> State:
    """The state before the first step of a method whose weights are not averaged.

    Args:
      method: what is trained.
      optimizer: of its parameters.
      frozen: CLIP's weights.
      names: the class names, packed.
      seed: of all randomness.
    """
    init_key, step_key = jax.random.split(jax.random.key(seed))
    params = method.init(init_key, frozen, names)
    return {
        "step": jnp.zeros((), jnp.int32),
        "key": jax.random.key_data(step_key),
        "params": params,
        "opt_state": optimizer.init(params),
    }


def restore(
    run: Run, frozen: dict, names, checkpoints: Checkpoints, sharding: Sharding
) -> tuple[State, dict]:
    """State and meta of the last checkpoint, placed by `sharding`; see `Checkpoints.restore`."""
    shapes = jax.eval_shape(lambda: init_state(run, frozen, names, checkpoints.latest))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
    return checkpoints.restore(like)


def trained(run: Run, state: State) -> Params:
    """What the training ended with: the average of the last stage where that has one."""
    averaged = run.stages and run.stages[-1].average and int(state["step"]) == run.total_steps
    return state["average"] if averaged else state["params"]
