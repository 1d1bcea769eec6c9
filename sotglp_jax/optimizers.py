"""Optimizers without their learning rate, by name: a state of its own for every parameter."""

from collections.abc import Callable, Mapping

import optax
from ml_collections import ConfigDict

from sotglp_jax.methods.contract import Method, Params


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


def adam() -> optax.GradientTransformation:
    """Adam with PyTorch's defaults, without its learning rate and without weight decay."""
    return by_name(lambda name: optax.scale_by_adam())


OPTIMIZERS: dict[str, Callable[[Method, ConfigDict], optax.GradientTransformation]] = {
    "sgd": lambda method, train: sgd(train.momentum, train.weight_decay, method.decay),
    "adam": lambda method, train: adam(),
}


def make(name: str, method: Method, train: ConfigDict) -> optax.GradientTransformation:
    """The optimizer of a stage by its name, for a method's parameters and by `config.train`."""
    return OPTIMIZERS[name](method, train)
