"""A classifier in one file, by `jax.export`, and what a reader of it has to know beside it.

FILE is a StableHLO program with the vision tower and the class features as constants, for any
number of images, on CPU, CUDA and TPU. FILE.json says what goes in and comes out. numpy and jax run
it, which reads such files by flatbuffers. As ONNX it is the same program for other runtimes.
"""

import hashlib
import json
from collections.abc import Callable

import jax.export
import jax.numpy as jnp

from sotglp_jax import paths, workdir
from sotglp_jax.data import transforms
from sotglp_jax.errors import InputError
from sotglp_jax.paths import AnyPath
from sotglp_jax.trained import finished, onnx, outputs

VERSION = 3
PLATFORMS = ("cpu", "cuda", "tpu")
INPUT = (
    "uint8 (images, image_size, image_size, 3), RGB: {resize}, by Pillow; the program divides by "
    "255 and normalises by mean and std"
)
OUTPUT = (
    "softmax probabilities (images, classes) by classifier, of `logits` the first decides; "
    "ood_score (images,), higher in distribution; maps: where the local prompts of the most "
    "probable class look"
)


def write(run_folder: AnyPath, out: AnyPath, precision: str = "", kind: str = "stablehlo") -> int:
    """Writes a finished run's classifier to `out`, and what is to be known to `out`.json.

    Args:
      run_folder: the run.
      out: the file.
      precision: of the products in the vision tower, "bf16" or "float32"; "" as in the run, but
        for ONNX, whose runtimes have no products of bf16 everywhere and which is in float32.
      kind: "stablehlo" or "onnx".

    Returns:
      The bytes of `out`.

    Raises:
      InputError: the run cannot be loaded or has no such form, or the file cannot be written.
    """
    if kind == "onnx" and precision == "bf16":
        raise InputError("an ONNX file is in float32: leave out --precision=bf16.")
    run = finished.load(run_folder, "float32" if kind == "onnx" else precision)
    content = _program(run, kind)
    about = _about(run) | {"format": kind, "sha256": hashlib.sha256(content).hexdigest()}
    try:
        paths.make(out.parent)
        paths.write(out, content)
        paths.write(_beside(out), workdir.to_json(about).encode())
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({error.strerror}): choose another --out."
        ) from None
    return len(content)


def _program(run: finished.Finished, kind: str) -> bytes:
    arguments = outputs.arguments(run)

    def compute(pixels):
        return outputs.compute(*arguments, pixels, method=run.run.method)

    size = run.run.arch.image_size
    shape = jax.export.symbolic_shape(f"images, {size}, {size}, 3")
    pixels = jax.ShapeDtypeStruct(shape, jnp.uint8)
    if kind == "onnx":
        return onnx.convert(compute, pixels)
    return bytes(jax.export.export(jax.jit(compute), platforms=PLATFORMS)(pixels).serialize())


def _about(run: finished.Finished) -> dict:
    method, resize = run.run.method, run.run.resize
    return {
        "version": VERSION,
        "class_names": run.run.dataset.class_names,
        "image_size": resize.size,
        "resize": {"mode": resize.mode, "interpolation": resize.interpolation},
        "mean": method.towers.mean,
        "std": method.towers.std,
        "logits": tuple(method.logits),
        "temperatures": outputs.temperatures(run),
        "threshold": outputs.threshold(run),
        "known_scores": outputs.known_scores(run),
        "precision": run.run.config.precision,
        "transforms": transforms.VERSION,
        "input": INPUT.format(resize=resize),
        "output": OUTPUT,
        "versions": workdir.versions(),
    }


def load(path: AnyPath) -> tuple[dict, Callable]:
    """What `write` wrote: the description, and the program as a function of pixels.

    Raises:
      InputError: it is not there, is no export, one of another version, or damaged.
    """
    try:
        content, about = path.read_bytes(), json.loads(_beside(path).read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename or path} is not there: give a run folder, or a file that "
            "python -m sotglp_jax.export wrote with its .json beside it."
        ) from None
    except ValueError:
        about = None
    if not isinstance(about, dict) or "version" not in about:
        raise InputError(f"{_beside(path)} does not describe an export: export the run again.")
    if about["version"] != VERSION:
        raise InputError(
            f"{path} is an export of version {about['version']} and this package reads version "
            f"{VERSION}: export the run again."
        )
    if about.get("format") == "onnx":
        raise InputError(
            f"{path} is an ONNX file, which onnxruntime runs: give the run folder here, or export "
            "it without --format=onnx."
        )
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise InputError(f"{path} is not the file that {_beside(path)} describes: copy both again.")
    return about, jax.jit(jax.export.deserialize(bytearray(content)).call)


def _beside(path: AnyPath) -> AnyPath:
    return path.with_name(path.name + ".json")
