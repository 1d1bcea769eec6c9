"""A program in ONNX's format, which runtimes of phones and browsers read, by jax2onnx."""

import logging
import warnings
from collections.abc import Callable

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters import partial_eval

from sotglp_jax.errors import InputError

MOST_APART = 1e-4  # of outputs here and in JAX
MOST = 2 * 1024**3  # bytes of a file of protocol buffers


def convert(compute: Callable, pixels: jax.ShapeDtypeStruct) -> bytes:
    """The program of a function of images, for any number of them.

    Its input is called "pixels", its outputs as the function calls them, those of a tree within
    with a slash: "maps/prompts". Loops stay loops, and numbers that it holds stay float32.

    Args:
      compute: gives a dictionary of arrays or of dictionaries of them.
      pixels: shape and dtype of the images, the first axis a symbol.

    Raises:
      InputError: jax2onnx is not installed, does not know a step of the function or makes
        something else of it, or the file would be too large for its format.
    """
    to_onnx = _import()
    paths = jax.tree.leaves_with_path(jax.eval_shape(compute, pixels))
    names = ["/".join(str(key.key) for key in path) for path, _ in paths]
    # Traced before jax2onnx puts its own functions into jax.numpy, in which Flax's scan fails.
    traced = jax.make_jaxpr(compute)(pixels)
    if sum(x.size * x.dtype.itemsize for x in traced.consts) >= MOST:
        raise InputError(
            "an ONNX file holds 2 GB, and the weights of this CLIP are more: export without "
            "--format=onnx."
        )
    # Without what no output needs, such as keys of random numbers, which ONNX has not.
    program, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(names), instantiate=True)
    function = jaxpr_as_fun(ClosedJaxpr(program, traced.consts))
    try:
        with warnings.catch_warnings(action="ignore"):  # of its parts, loaded only now
            model = to_onnx(function, [pixels], input_names=["pixels"], output_names=names)
    except NotImplementedError as error:
        raise InputError(
            f"this method cannot be written as ONNX ({error}): export without --format=onnx."
        ) from None
    content = model.SerializeToString()
    _check(content, compute, names, pixels.shape[1:])
    return content


def _check(content: bytes, compute: Callable, names: list[str], shape: tuple[int, ...]) -> None:
    """Refuses a program that fails in onnxruntime, or gives other numbers than JAX does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is said below
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    expected = jax.tree.leaves(jax.jit(compute)(images))
    try:
        found = onnxruntime.InferenceSession(content, options).run(names, {"pixels": images})
    except Exception:  # of classes that it has for each fault, without one above them
        found = []
    alike = (np.allclose(a, b, atol=MOST_APART) for a, b in zip(found, expected, strict=False))
    if not found or not all(alike):
        raise InputError(
            "this method cannot be written as ONNX (what jax2onnx makes of it does not give the "
            "same numbers): export without --format=onnx."
        )


def _import() -> Callable:
    for name in ("jax2onnx", "onnx_ir"):  # they tell of parts of theirs that are not used here
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            from jax2onnx import to_onnx
    except ImportError:
        raise InputError("--format=onnx needs `pip install sotglp_jax[onnx]`.") from None
    return to_onnx
