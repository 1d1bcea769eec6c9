"""Floating-point operations of matrix products, 2 for a multiply and add.

They are read from the traced program: XLA's own count takes the body of a scan once however often
it runs. All else is below 1 %, but for an optimal transport, which has no products.
"""

import math
from collections.abc import Callable, Iterator

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from sotglp_jax.clip import Architecture


def count(function: Callable, *arguments) -> int:
    """Operations of one call, on all devices together.

    Args:
      function: jitted or not.
      arguments: arrays, or shapes in their place.
    """
    return of(jax.make_jaxpr(function)(*arguments))


def of(program: ClosedJaxpr) -> int:
    """Operations of a traced program, without what none of its results depends on.

    A device's part in a `shard_map` counts for each of its devices, the dearest branch of a
    `cond`, and the body of a `while` once, whose length is not known here.
    """
    jaxpr = program.jaxpr
    return _products(dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)[0])


def vision(arch: Architecture) -> int:
    """Operations per image of plain CLIP's vision tower, class token projected."""
    w, p = arch.vision_width, arch.patches
    ends = 2 * (p * 3 * arch.patch_size**2 * w + w * arch.embed_dim)
    return ends + arch.vision_layers * _layer(arch.image_tokens, w, arch.vision_mlp)


def text(arch: Architecture) -> int:
    """Operations per sequence of plain CLIP's text tower: the whole context, every position."""
    w, length = arch.text_width, arch.context_length
    return arch.text_layers * _layer(length, w, arch.text_mlp) + 2 * w * arch.embed_dim


def _layer(tokens: int, width: int, mlp: int) -> int:
    """Queries, keys, values and output; the MLP; attention."""
    return 4 * tokens * width * (2 * width + mlp + tokens)


def _products(jaxpr: Jaxpr) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        outputs = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2 * equation.outvars[0].aval.size * kernel.size // outputs
    inner = [_products(jaxpr) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inner)
    times = {"scan": lambda: params["length"], "shard_map": lambda: params["mesh"].size}
    return sum(inner) * times.get(name, lambda: 1)()


def _inner(params: dict) -> Iterator[Jaxpr]:
    """The programs that an equation runs."""
    for value in params.values():
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, ClosedJaxpr | Jaxpr):
                yield getattr(part, "jaxpr", part)
