"""Speed and memory of a method with random weights of the real sizes.

    python -m sotglp_jax.benchmark --what=train --method=sotglp --clip=ViT-B/16 --classes=10

Prints a table and, as its last line, one JSON object. The rate of a plain matrix product, measured
between the timings, says how fast the machine was at that moment. Class names have 1 to 6 tokens
in turn.
"""

import dataclasses
import functools
import json
import re
import resource
import statistics
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Mesh

from sotglp_jax import clip, methods, optimizers
from sotglp_jax.benchmark import flops
from sotglp_jax.clip.config import Stated
from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.configs import common
from sotglp_jax.data import digits, loader, speed
from sotglp_jax.data.sources import Dataset, Source
from sotglp_jax.devices import memory, sharding
from sotglp_jax.errors import InputError
from sotglp_jax.evaluate import observe
from sotglp_jax.features import of_batch
from sotglp_jax.methods.contract import Moment
from sotglp_jax.parts import Part, parts
from sotglp_jax.run import Run
from sotglp_jax.settings import DTYPES
from sotglp_jax.state import init_state
from sotglp_jax.train import jit_step


def _size(
    patch: int, tokens: int, width: int, layers: int, text_width: int, embed_dim: int
) -> clip.Architecture:
    return clip.Architecture(
        patch_size=patch,
        image_tokens=tokens,
        vision_width=width,
        vision_layers=layers,
        vision_heads=width // 64,
        vision_mlp=4 * width,
        vocab_size=49408,
        context_length=77,
        text_width=text_width,
        text_layers=12,
        text_heads=text_width // 64,
        text_mlp=4 * text_width,
        embed_dim=embed_dim,
    )


SIZES = {
    "ViT-B/32": _size(32, 50, 768, 12, 512, 512),
    "ViT-B/16": _size(16, 197, 768, 12, 512, 512),
    "ViT-L/14": _size(14, 257, 1024, 24, 768, 768),
    "ViT-L/14@336": _size(14, 577, 1024, 24, 768, 768),
}
# Dense products of the datasheets, FLOP/s: bf16, and float32 without TF32.
PEAKS = {
    "NVIDIA A100": (312e12, 19.5e12),
    "NVIDIA H100 PCIe": (756e12, 51e12),
    "NVIDIA H100": (989e12, 67e12),
    "NVIDIA H200": (989e12, 67e12),
    "TPU v4": (275e12, None),
    "TPU v5 lite": (197e12, None),
    "TPU v5": (459e12, None),
    "TPU v6 lite": (918e12, None),
}
KEYS = ("what", "method", "stage", "clip", "classes", "batch", "precision", "mesh", "device")
KEYS += ("median_s", "spread_s", "images_per_s", "peak_memory_gb", "flops", "flops_per_s")
KEYS += ("peak_share", "compile_s")
LONGEST_NAME = 6  # tokens
SECONDS, LEAST, MOST = 20.0, 5, 50  # spent on timings, and their number
PRODUCTS = 4  # in a row, the fastest of which counts


@dataclasses.dataclass(frozen=True)
class Case:
    """What the flags say."""

    clip: str
    classes: int
    batch: int
    precision: str
    mesh: int
    chunk: int
    method: str = "sotglp"
    cached: bool = False
    stage: int = 1

    @property
    def arch(self) -> clip.Architecture:
        """The dimensions of the CLIP."""
        return SIZES[self.clip]

    @functools.cached_property
    def run(self) -> Run:
        """A run of the method by its usual recipe, without images and with shapes for weights."""
        config = common.make(clip=self.clip, method=self.method)
        config.precision, config.mesh, config.text.chunk = self.precision, self.mesh, self.chunk
        shapes = jax.eval_shape(functools.partial(random_weights, self.arch, self.precision))
        words = Words(self.arch)
        loaded = clip.Clip(self.arch, "quick_gelu", Stated(), "", "", shapes, words)
        method = methods.make(config.method, loaded.towers(DTYPES[self.precision]))
        return Run(config, {}, Path(), task(self.classes), loaded, method, shapes)

    @property
    def part(self) -> Part:
        """The stage of the training that is measured."""
        return parts(self.run.stages, steps_per_epoch=1000)[self.stage - 1]

    @property
    def turn(self) -> str:
        """The parameter that moves alone in that stage's first step; "" without turns."""
        return self.part.turn(self.part.first)


class Words(Tokenizer):
    """Gives every word and every punctuation mark one token, without a vocabulary."""

    def __init__(self, arch: clip.Architecture):
        self.context_length = arch.context_length
        self._start, self._end = arch.vocab_size - 2, arch.vocab_size - 1

    def encode(self, text: str) -> list[int]:
        """Ids that follow from the words."""
        return [zlib.crc32(x.encode()) % self._start for x in re.findall(r"\w+|[^\w\s]", text)]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a training step takes, on a mesh: arrays, or shapes where it will not run."""

    state: dict
    frozen: dict
    names: Any
    batch: dict


@dataclasses.dataclass(frozen=True)
class Work:
    """Something to be timed.

    Attributes:
      run: does it once and returns arrays to wait for.
      flops: of one time; 0 where there is nothing to count.
      compile_s: seconds that its program took to compile.
    """

    run: Callable[[], Any]
    flops: int
    compile_s: float


def train(case: Case, mesh: Mesh) -> Work:
    """One training step."""
    given = inputs(case, mesh, jax.jit)
    step = compiled(step_of(case, mesh), given.state, given.frozen, given.names, given.batch)
    state = given.state

    def run():
        nonlocal state
        state, metrics = step.run(state, given.frozen, given.names, given.batch)
        return metrics

    return dataclasses.replace(step, run=run)


def evaluate(case: Case, mesh: Mesh) -> Work:
    """A batch of test images; the class features are there already, once per run."""
    given, method = inputs(case, mesh, jax.jit), case.run.method
    params = given.state["params"]
    text = jax.jit(method.encode_classes)(params, given.frozen, given.names)
    options = {"methods": (method,), "temperature": 1.0, "mesh": mesh}
    function = jax.jit(functools.partial(observe, **options))
    return bound(function, params, given.frozen, (text,), given.batch)


def vision(case: Case, mesh: Mesh) -> Work:
    """Features of the images, forward."""
    given = inputs(dataclasses.replace(case, cached=False), mesh, jax.jit)
    encode = jax.jit(functools.partial(of_batch, case.run.method))
    return bound(encode, given.state["params"], given.frozen, given.batch)


def text(case: Case, mesh: Mesh) -> Work:
    """Features of the classes as a training step makes them, forward and backward."""
    given = inputs(case, mesh, jax.jit)
    params, frozen = given.state["params"], given.frozen
    image = jax.jit(functools.partial(of_batch, case.run.method))(params, frozen, given.batch)
    return bound(jax.jit(squared(case, texts_of(case))), params, frozen, given.names, image)


def texts_of(case: Case) -> Callable:
    """A function of (params, frozen, names, image): text features of one of a step's updates.

    Where names come in their place, which wait for the image, it gives the losses (B,).
    """
    method, key, zero = case.run.method, jax.random.key(0), np.int32(0)
    moment = Moment(key, zero, zero, case.stage - 1, key, case.turn)

    def encode(params, frozen, names, image):
        text = method.encode_step(params, frozen, names, moment)
        if all(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(text)):
            return text
        return method.loss(params, frozen, text, image, jnp.zeros(case.batch, int), moment)[0]

    return encode


def squared(case: Case, function: Callable) -> Callable:
    """A function of the same arguments: the squared length of what it gives, and its gradient.

    The gradient is by those of the parameters, the first argument, that the stage trains.
    """

    def length(moving, params, *others):
        found = jax.tree.leaves(function(params | moving, *others))
        return sum(jnp.sum(jnp.square(x)) for x in found)

    def gradient(params, *others):
        moving = case.part.stage.moving(params, case.turn)
        return jax.value_and_grad(length)(moving, params, *others)

    return gradient


def transport(case: Case, mesh: Mesh) -> Work:
    """Top-K and transport of a batch, forward: the plan is a constant for the gradient.

    Raises:
      InputError: the method has no transport.
    """
    method = case.run.method
    if not hasattr(method, "match"):
        raise InputError(f"{method.title} has no transport plan: choose another --what.")
    given = inputs(case, mesh, shapes_of)

    def similarities(params, frozen, names, batch):
        image = of_batch(method, params, frozen, batch)
        return method.score(params, frozen, method.encode_classes(params, frozen, names), image)

    arguments = given.state["params"], given.frozen, given.names, given.batch
    shape = jax.eval_shape(similarities, *arguments).sims["local"].shape
    sim = 0.2 + 0.05 * jax.random.normal(jax.random.key(0), shape)
    return bound(jax.jit(method.match), jax.device_put(sim, sharding.replicated(mesh)))


MEASURED = {
    "train": train,
    "eval": evaluate,
    "vision": vision,
    "text": text,
    "transport": transport,
}
LEARNING = ("train", "text", "flops", "memory")  # for methods that are trained in steps


def step_of(case: Case, mesh: Mesh) -> Callable:
    """The training step, jitted."""
    run, part = case.run, case.part
    optimizer = optimizers.make(part.stage.optimizer, run.method, run.config.train)
    return jit_step(mesh, run.method, optimizer, part, case.turn)


def inputs(case: Case, mesh: Mesh, make: Callable) -> Inputs:
    """The inputs of a training step.

    Args:
      case: the sizes.
      mesh: the devices.
      make: `jax.jit` for arrays, `shapes_of` for shapes.
    """
    run, whole = case.run, sharding.replicated(mesh)
    weights = functools.partial(random_weights, case.arch, case.precision)
    frozen, names = make(weights, out_shardings=whole)(), run.names_on(mesh, run.method)
    step = run.steps_per_epoch * sum(stage.passes for stage in run.stages[: case.stage])
    first = functools.partial(init_state, run, step=step)  # with that stage's optimizer
    state = make(first, out_shardings=whole)(frozen, names)
    texts = run.method.tokenize_fixed(run.clip.tokenizer, run.dataset.class_names)
    fixed = make(run.method.fixed, out_shardings=whole)(frozen, run.packed(texts, mesh))
    batch = sharding.pad_batch(images(case), mesh)
    return Inputs(state, frozen | {"fixed": fixed}, names, batch)


def shapes_of(function: Callable, out_shardings: jax.sharding.Sharding) -> Callable:
    """As `jax.jit`, but what is returned computes nothing and gives shapes."""

    def shapes(*arguments):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=out_shardings),
            jax.eval_shape(function, *arguments),
        )

    return shapes


def compiled(function: Callable, *arguments: Any) -> Work:
    """A jitted function compiled for these arguments; `run` still takes them."""
    began = time.perf_counter()
    traced = function.trace(*arguments)
    program = traced.lower().compile()
    return Work(program, flops.of(traced.jaxpr), time.perf_counter() - began)


def bound(function: Callable, *arguments: Any) -> Work:
    """The program with its arguments in place."""
    work = compiled(function, *arguments)
    return dataclasses.replace(work, run=lambda: work.run(*arguments))


def random_weights(arch: clip.Architecture, precision: str) -> dict:
    """CLIP's tree with random values of about the size that trained ones have."""

    def draw(path, like):
        name = path[-1].key
        if name in ("scale", "bias"):
            return jnp.full(like.shape, name == "scale", like.dtype)
        if name == "logit_scale":
            return jnp.log(jnp.float32(100))
        key = jax.random.key(zlib.crc32(jax.tree_util.keystr(path).encode()) % 2**31)
        deviation = like.shape[-2] ** -0.5 if name == "kernel" else 0.02
        values = deviation * jax.random.normal(key, like.shape)
        return values.astype(DTYPES[precision]) if name == "kernel" else values

    return jax.tree_util.tree_map_with_path(draw, clip.shapes(arch))


def task(classes: int) -> Dataset:
    """Classes whose names have 1 to 6 words in turn, and no images."""
    names = tuple(" ".join([f"class{i}"] * (1 + i % LONGEST_NAME)) for i in range(classes))
    none = Source(digits.draw, (), (), (), "")
    return Dataset("random", names, "a photo of a {}.", none, none, none)


def images(case: Case) -> dict[str, np.ndarray]:
    """A batch of noise: pixels, or features as a cache has them."""
    rng, side = np.random.default_rng(0), case.arch.image_size
    pixels = rng.integers(0, 256, (case.batch, side, side, 3), np.uint8)
    labels = {"label": rng.integers(0, case.classes, case.batch, np.int32)}
    if not case.cached:
        return labels | {"image": pixels}
    run = case.run
    features = jax.eval_shape(run.method.encode_images, {}, run.frozen, pixels)
    return labels | {k: rng.standard_normal(x.shape, np.float32) for k, x in features.items()}


def operations(case: Case, mesh: Mesh) -> dict[str, tuple[int, int | None]]:
    """Operations of a training step by part, here and on plain CLIP's towers.

    Plain CLIP computes every position of the whole context in every layer, for every feature of an
    image or a text that the step makes, and as much again where a gradient flows back. A part that
    is no tower's is the same there.
    """
    method, given = case.run.method, inputs(case, mesh, shapes_of)
    params, frozen, names, batch = given.state["params"], given.frozen, given.names, given.batch
    image = jax.eval_shape(functools.partial(of_batch, method), params, frozen, batch)
    found = _of_images(case, image, params, frozen, batch)
    found |= _of_classes(case, params, frozen, names, image)
    step = flops.count(step_of(case, mesh), given.state, frozen, names, batch)
    rest = step - sum(here for here, _ in found.values())
    found["all else"] = rest, rest
    return found | {"step": tuple(map(sum, zip(*found.values(), strict=True)))}


def _of_images(case: Case, image: dict, *arguments: Any) -> dict[str, tuple[int, int]]:
    """Operations of the vision tower by direction; a class token is a pass through the plain one.

    Args:
      case: the sizes.
      image: shapes of the features.
      arguments: of `of_batch` behind the method.
    """
    method, tokens = case.run.method, sorted(image.keys() - {"patches"})

    def encode(*arguments, names=tuple(image)):
        features = of_batch(method, *arguments)
        return {name: features[name] for name in names}

    def plain(names):
        passes = sum(image[name].size for name in names) // case.arch.vision_width
        return 0 if case.cached else passes * flops.vision(case.arch)

    one_by_one = {name: functools.partial(encode, names=(name,)) for name in tokens}
    moving = [name for name, one in one_by_one.items() if _directions(case, one, *arguments)[1]]
    times = 1 if method.frozen_images else case.part.stage.updates
    here = _directions(case, encode, *arguments)
    return _rows("images", times, here, (plain(tokens), plain(moving)))


def _of_classes(case: Case, *arguments: Any) -> dict[str, tuple[int, int]]:
    """Operations of the text tower by direction; `arguments` are those of `texts_of`."""
    encode = texts_of(case)
    texts = jax.eval_shape(encode, *arguments)
    sequences = sum(x.size for x in jax.tree.leaves(texts)) // case.arch.embed_dim
    if getattr(texts, "ndim", 0) == 1:  # losses, each of texts of its own
        sequences = case.batch * case.classes
    here, plain = _directions(case, encode, *arguments), sequences * flops.text(case.arch)
    return _rows("classes", case.part.stage.updates, here, (plain, plain))


def _directions(case: Case, encode: Callable, *arguments: Any) -> tuple[int, int]:
    """Operations forward, and backward as far as a gradient flows."""
    forward = flops.count(encode, *arguments)
    return forward, flops.count(squared(case, encode), *arguments) - forward


def _rows(part: str, times: int, here: tuple, plain: tuple) -> dict[str, tuple[int, int]]:
    """Operations here and in plain CLIP by direction, without those that do not happen."""
    ways = {part: (here[0], plain[0]), f"{part}, backward": (here[1], plain[1])}
    return {name: (times * own, times * other) for name, (own, other) in ways.items() if own}


def matrix_product() -> Callable[[str], float]:
    """A function that measures the rate of a square product, FLOP/s: its fastest in a row."""
    size = 2048 if jax.default_backend() == "cpu" else 8192

    def rate(precision: str) -> float:
        # The first ones run while the work before them still frees memory.
        return 2 * size**3 / min(seconds(products[precision]) for _ in range(PRODUCTS))

    def seconds(multiply: Callable) -> float:
        began = time.perf_counter()
        multiply()
        return time.perf_counter() - began

    def product(dtype):
        a = jnp.ones((size, size), dtype)
        multiply = jax.jit(functools.partial(jnp.matmul, preferred_element_type=jnp.float32))
        return lambda: multiply(a, a).block_until_ready()

    products = {name: product(dtype) for name, dtype in DTYPES.items()}
    return rate


def time_work(work: Work, precision: str) -> tuple[list[float], float]:
    """Seconds of each time after a first one, and the rate of matrix products between them."""
    rate = matrix_product()
    rate(precision)
    jax.block_until_ready(work.run())
    seconds, rates = [], []
    while len(seconds) < LEAST or (sum(seconds) < SECONDS and len(seconds) < MOST):
        rates.append(rate(precision))
        began = time.perf_counter()
        jax.block_until_ready(work.run())
        seconds.append(time.perf_counter() - began)
    return seconds, statistics.median(rates)


def peak_memory_gb() -> float:
    """Most memory in use so far: of the first device, or of the process where that is a CPU."""
    stats = jax.devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"] / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def peak(device_kind: str, precision: str) -> float | None:
    """The device's largest rate by its datasheet, FLOP/s; None where it is not known here."""
    for name, (bf16, float32) in PEAKS.items():
        if device_kind.startswith(name):
            return bf16 if precision == "bf16" else float32
    return None


def record(what: str, case: Case, mesh: Mesh) -> tuple[dict, float]:
    """The JSON line of a measurement, and the rate of matrix products beside it."""
    work = MEASURED[what](case, mesh)
    seconds, rate = time_work(work, case.precision)
    low, median, high = statistics.quantiles(seconds, n=4)
    achieved = work.flops / median
    best = peak(jax.devices()[0].device_kind, case.precision)
    found = {
        "what": what + ", cached" * case.cached,
        "median_s": median,
        "spread_s": high - low,
        "images_per_s": case.batch / median,
        "peak_memory_gb": peak_memory_gb(),
        "flops": work.flops,
        "flops_per_s": achieved,
        "peak_share": achieved / best / mesh.size if best else None,
        "compile_s": work.compile_s,
    }
    return line(case, mesh, **found), rate


def line(case: Case, mesh: Mesh, **found: Any) -> dict:
    """What was found of a case, as its JSON line; None for all else."""
    said = {key: getattr(case, key) for key in KEYS if hasattr(case, key)}
    said |= {"mesh": mesh.size, "device": jax.devices()[0].device_kind}
    return dict.fromkeys(KEYS) | said | found


def print_measurement(what: str, case: Case, mesh: Mesh) -> None:
    """Times one thing and prints it."""
    found, rate = record(what, case, mesh)
    for key, value in found.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{key:<16}{shown}")
    print(f"a plain matrix product ran at {rate / 1e9:.0f} GFLOP/s between the timings; ", end="")
    print(f"this is {found['flops_per_s'] / rate:.0%} of it")
    print(json.dumps(found))


def print_flops(case: Case, mesh: Mesh) -> None:
    """Operations of a training step by part, for plain CLIP and for this package."""
    found = operations(case, mesh)
    print(f"{'GFLOP of a training step':<26}{'plain CLIP':>12}{'here':>12}{'ratio':>8}")
    for part, (here, plain) in found.items():
        ratio = f"{here / plain:.2f}" if plain else "-"
        print(f"{part:<26}{plain / 1e9:>12.1f}{here / 1e9:>12.1f}{ratio:>8}")
    print(json.dumps(line(case, mesh, what="flops", flops=found["step"][0])))


def print_memory(case: Case, mesh: Mesh) -> None:
    """Memory of a training step on each device of a mesh; it is compiled and not run."""
    given = inputs(case, mesh, shapes_of)
    work = compiled(step_of(case, mesh), given.state, given.frozen, given.names, given.batch)
    needed = memory.needed(work.run)
    print(f"{needed / 1e9:.2f} GB on each of {mesh.size} devices")
    for part, size in memory.parts(work.run).items():
        print(f"  {part:<12}{size / 1e9:>6.2f}")
    found = {"peak_memory_gb": needed / 1e9, "flops": work.flops, "compile_s": work.compile_s}
    print(json.dumps(line(case, mesh, what="memory", **found)))


def print_input(case: Case, mesh: Mesh) -> None:
    """Images/s of decoding, resizing and batching, and of the bare Pillow calls in a plain pool."""
    size, device = case.arch.image_size, f"{loader.cores()} cores"
    print(f"{'workers':>7}{'images/s':>10}{'plain pool':>12}{'share':>7}   median of {speed.TIMES}")
    lines = []
    for workers in range(loader.cores() + 1):
        times = speed.rates(workers, case.batch, size)
        seconds = sorted(case.batch / x["ours"] for x in times)
        rate, pool = (statistics.median(x[key] for x in times) for key in ("ours", "pool"))
        share = statistics.median(x["ours"] / x["pool"] for x in times)
        print(f"{workers:>7}{rate:>10.0f}{pool:>12.0f}{share:>7.0%}", flush=True)
        found = {"what": "input", "clip": case.clip, "batch": case.batch, "device": device}
        found |= {"median_s": statistics.median(seconds), "spread_s": seconds[-1] - seconds[0]}
        found |= {"images_per_s": rate, "workers": workers, "pool_images_per_s": pool}
        lines.append(json.dumps(dict.fromkeys(KEYS) | found))
    print("\n".join(lines))


def main(_: list[str]) -> None:
    """Runs what the flags say."""
    values = flags.FLAGS
    case = Case(**{field.name: getattr(values, field.name) for field in dataclasses.fields(Case)})
    check(values.what, case)
    mesh = sharding.make_mesh(case.mesh)
    with jax.set_mesh(mesh):
        if values.what in MEASURED:
            print_measurement(values.what, case, mesh)
        else:
            PRINTED[values.what](case, mesh)


def check(what: str, case: Case) -> None:
    """Raises `InputError` for a method that has nothing to measure."""
    method = methods.load(case.method)
    if what in LEARNING and not case.run.stages:
        raise InputError(
            f"{method.title} is not trained in steps: --what=eval or vision can be measured."
        )
    if what in LEARNING and not 1 <= case.stage <= len(case.run.stages):
        raise InputError(
            f"--stage={case.stage} is none of {method.title}, whose training has "
            f"{len(case.run.stages)}: choose another."
        )
    if case.cached and not method.frozen_images:
        raise InputError(
            f"{method.title} learns in the vision tower, whose features no cache can hold: leave "
            "out --cached."
        )


PRINTED = {"flops": print_flops, "memory": print_memory, "input": print_input}
