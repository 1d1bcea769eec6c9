"""What training carries from step to step: parameters, their optimizer, and their average."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Sharding
from ml_collections import ConfigDict

from sotglp_jax.checkpoint import Checkpoints
from sotglp_jax.methods.contract import Method, Params
from sotglp_jax.run import Run

# {"step": int32 (), batches of images so far; "key": uint32 key data; "params": the method's;
#  "opt_state": of the stage; "average": where a stage has one, the sum so far}
State = dict


def by_name(make: Callable[[str], optax.GradientTransformation]) -> optax.GradientTransformation:
    """An optimizer with a state of its own for every parameter.

    Its update takes the gradients of some parameters and leaves the states of the others alone.

    Args:
      make: gives the optimizer of a parameter by its name.
    """

    def init(params: Params) -> dict:
        return {name: make(name).init(x) for name, x in params.items()}

    def update(gradient: Params, state: dict, params: Params) -> tuple[Params, dict]:
        found = {n: make(n).update(g, state[n], params[n]) for n, g in gradient.items()}
        direction = {name: x for name, (x, _) in found.items()}
        return direction, state | {name: after for name, (_, after) in found.items()}

    return optax.GradientTransformation(init, update)


def sgd(
    momentum: float, weight_decay: float, decay: Mapping[str, float] | None = None
) -> optax.GradientTransformation:
    """PyTorch's SGD without its learning rate: weight decay joins the gradient before momentum.

    Args:
      momentum: of the gradients.
      weight_decay: factor on the parameters.
      decay: factors on the weight decay by the name of the parameter, 1 for all others.
    """

    def make(name: str) -> optax.GradientTransformation:
        factor = weight_decay * (decay or {}).get(name, 1.0)
        return optax.chain(optax.add_decayed_weights(factor), optax.trace(momentum))

    return by_name(make)


def make_optimizer(method: Method, train: ConfigDict) -> optax.GradientTransformation:
    """The optimizer of a method by `config.train`."""
    return sgd(train.momentum, train.weight_decay, method.decay)


def init_state(run: Run, frozen: dict, names) -> State:
    """The state before the first step, a function of the seed.

    Args:
      run: the run.
      frozen: CLIP's weights.
      names: the class names, packed.
    """
    optimizer = make_optimizer(run.method, run.config.train)
    state = first_state(run.method, optimizer, frozen, names, run.config.seed)
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
    shapes = jax.eval_shape(lambda: init_state(run, frozen, names))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
    return checkpoints.restore(like)


def trained(run: Run, state: State) -> Params:
    """What the training ended with: the average of the last stage where that has one."""
    averaged = run.stages and run.stages[-1].average and int(state["step"]) == run.total_steps
    return state["average"] if averaged else state["params"]
