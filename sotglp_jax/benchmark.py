"""Speed and memory with random weights of the real sizes.

    python -m sotglp_jax.benchmark --what=train --clip=ViT-B/16 --classes=10 --batch=8

Prints a table and, as its last line, one JSON object. The rate of a plain matrix product, measured
between the timings, says how fast the machine was at that moment. Class names have 1 to 6 tokens
in turn, so that the longest prompted sequence has 12.
"""

import dataclasses
import functools
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec

from sotglp_jax import clip, flops, memory, sharding
from sotglp_jax.clip.packing import PackedClasses, pack
from sotglp_jax.clip.tokenizer import Tokens
from sotglp_jax.data import loader, speed
from sotglp_jax.errors import run_command
from sotglp_jax.evaluators import classification
from sotglp_jax.methods.sotglp import SotGlp
from sotglp_jax.run import in_precision
from sotglp_jax.settings import DTYPES
from sotglp_jax.state import first_state, sgd
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
KEYS = (
    "what",
    "clip",
    "classes",
    "batch",
    "precision",
    "mesh",
    "device",
    "median_s",
    "spread_s",
) + ("images_per_s", "peak_memory_gb", "flops", "flops_per_s", "peak_share", "compile_s")
TEMPLATE_IDS = (320, 1125, 539, 320)  # "a photo of a"
LONGEST_NAME = 6  # tokens
SECONDS, LEAST, MOST = 20.0, 5, 50  # spent on timings, and their number


@dataclasses.dataclass(frozen=True)
class Case:
    """What the flags say; `clip` is any that `clip.load` takes."""

    clip: str
    classes: int
    batch: int
    precision: str
    mesh: str
    chunk: int
    cached: bool = False

    @property
    def arch(self) -> clip.Architecture:
        """The dimensions of the CLIP."""
        return _arch(self.clip)

    @property
    def method(self) -> SotGlp:
        """The method with the paper's options."""
        towers = clip.build(self.arch, "quick_gelu", DTYPES[self.precision])
        return SotGlp(towers, TEMPLATE_IDS)

    def classes_per_pass(self, devices: int = 1) -> int:
        """Of the text tower, as a run of these sizes has it."""
        if self.chunk:
            return self.chunk
        frozen = {"text": {"token_embedding": np.zeros((49408, self.arch.text_width))}}
        shapes = jax.eval_shape(lambda: self.method.init(jax.random.key(0), frozen, self.classes))
        text = self.method.towers.text
        return memory.classes_per_pass(text, names(self.classes), shapes, devices)


@dataclasses.dataclass(frozen=True)
class Work:
    """Something to be timed.

    Attributes:
      run: does it once and returns arrays to wait for.
      flops: of one time; 0 where there is nothing to count.
      compile_s: seconds that its program took to compile.
    """

    run: Callable[[], Any]
    flops: int = 0
    compile_s: float = 0.0


@functools.cache
def _arch(name: str) -> clip.Architecture:
    return SIZES[name] if name in SIZES else clip.load(name).arch


def train(case: Case) -> Work:
    """One training step."""
    mesh, method, optimizer = sharding.make_mesh(case.mesh), case.method, sgd(0.05, 0.9, 0.01)
    frozen = jax.device_put(random_weights(case), sharding.replicated(mesh))
    classes = sharding.put_classes(names(case.classes), mesh, case.classes_per_pass(mesh.size))
    state = first_state(method, optimizer, frozen, case.classes, seed=0)
    state = sharding.spread_classes(state, method.per_class, classes, mesh)
    batch = sharding.put_batch(images(case), mesh)
    function = jit_step(mesh, method, optimizer)
    step, compile_s = compiled(function, state, frozen, classes, batch)

    def run():
        nonlocal state
        state, metrics = step(state, frozen, classes, batch)
        return metrics

    return Work(run, training_flops(case), compile_s)


def training_flops(case: Case) -> int:
    """Operations of a training step."""
    return sum(ours(case).values())


def evaluate(case: Case) -> Work:
    """A batch of test images; the class features are there already, once per run."""
    mesh, method = sharding.make_mesh(case.mesh), case.method
    frozen = jax.device_put(random_weights(case), sharding.replicated(mesh))
    trained = method.init(jax.random.key(0), frozen, case.classes)
    classes = pack(names(case.classes), chunk=case.classes_per_pass())
    text = jax.jit(method.encode_classes)(trained, frozen, classes)
    batch = sharding.put_batch(images(case), mesh)
    count = functools.partial(classification.judge, towers=method.towers, methods=(method,))
    step, compile_s = compiled(jax.jit(count), frozen, trained, (text,), batch)
    return Work(lambda: step(frozen, trained, (text,), batch), evaluation_flops(case), compile_s)


def evaluation_flops(case: Case) -> int:
    """Operations of a batch of test images."""
    parts = ours(case)
    return sum(parts[k] for k in ("vision", "similarities", "transport"))


def vision(case: Case) -> Work:
    """The vision tower, both streams, forward: it is never differentiated."""
    mesh, towers = sharding.make_mesh(case.mesh), case.method.towers
    frozen = jax.device_put(random_weights(case)["vision"], sharding.replicated(mesh))
    case = dataclasses.replace(case, cached=False)
    pixels = sharding.put_batch({"image": images(case)["image"]}, mesh)["image"]

    def forward(frozen, pixels):
        return towers.vision.apply({"params": frozen}, towers.normalise(pixels))

    step, compile_s = compiled(jax.jit(forward), frozen, pixels)
    return Work(lambda: step(frozen, pixels), ours(case)["vision"], compile_s)


def text(case: Case) -> Work:
    """The text tower on the prompts of all classes, forward and backward."""
    mesh, method = sharding.make_mesh(case.mesh), case.method
    frozen = jax.device_put(random_weights(case), sharding.replicated(mesh))
    classes = sharding.put_classes(names(case.classes), mesh, case.classes_per_pass(mesh.size))
    trainable = method.init(jax.random.key(0), frozen, case.classes)

    def length(trainable, frozen, classes):
        features = method.encode_classes(trainable, frozen, classes)
        return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(features))

    step, compile_s = compiled(jax.jit(jax.grad(length)), trainable, frozen, classes)
    parts = ours(case)
    total = parts["text"] + parts["text, backward"]
    return Work(lambda: step(trainable, frozen, classes), total, compile_s)


def transport(case: Case) -> Work:
    """Top-K and transport of a batch, forward: the plan is a constant for the gradient."""
    method = case.method
    shape = (case.batch, case.arch.patches, case.classes, method.n_local)
    sim = 0.2 + 0.05 * jax.random.normal(jax.random.key(0), shape)
    step, compile_s = compiled(jax.jit(method.match), sim)
    return Work(lambda: step(sim), ours(case)["transport"], compile_s)


MEASURED = {
    "train": train,
    "eval": evaluate,
    "vision": vision,
    "text": text,
    "transport": transport,
}


def compiled(function: Callable, *arguments: Any) -> tuple[Callable, float]:
    """A jitted function compiled for these arguments, and the seconds that it took."""
    began = time.perf_counter()
    program = function.lower(*arguments).compile()
    return program, time.perf_counter() - began


def random_weights(case: Case) -> dict:
    """CLIP's tree with random values of about the size that trained ones have."""
    rng = np.random.default_rng(0)

    def draw(path, like):
        name = path[-1].key
        if name in ("scale", "bias"):
            return np.full(like.shape, name == "scale", like.dtype)
        if name == "logit_scale":
            return np.float32(math.log(100))
        deviation = like.shape[-2] ** -0.5 if name == "kernel" else 0.02
        return rng.standard_normal(like.shape, like.dtype) * np.float32(deviation)

    tree = jax.tree_util.tree_map_with_path(draw, clip.shapes(case.arch))
    return in_precision(tree, DTYPES[case.precision])


def names(classes: int) -> Tokens:
    """Random class names of 1 to 6 tokens in turn."""
    eot = 2 + np.arange(classes, dtype=np.int32) % LONGEST_NAME
    ids = np.random.default_rng(0).integers(1, 49406, (classes, 12), np.int32)
    return Tokens(np.where(np.arange(12) <= eot[:, None], ids, 0), eot)


def images(case: Case) -> dict[str, np.ndarray]:
    """A batch of noise: pixels, or features as a cache has them."""
    rng, side = np.random.default_rng(0), case.arch.image_size
    shape, width = (case.batch, case.arch.patches), case.arch.vision_width
    cached = {
        "cls": rng.standard_normal((case.batch, width), np.float32),
        "patches": rng.standard_normal((*shape, width), np.float32),
    }
    pixels = {"image": rng.integers(0, 256, (case.batch, side, side, 3), np.uint8)}
    return (cached if case.cached else pixels) | {
        "label": rng.integers(0, case.classes, case.batch, np.int32),
        "mask": np.ones(case.batch, bool),
    }


def ours(case: Case) -> dict[str, int]:
    """Operations of a training step by part, as this package does it on one device."""
    arch, method, batch = case.arch, case.method, case.batch
    classes = pack(names(case.classes), chunk=case.classes_per_pass())
    text = text_flops(arch, method, classes)
    heads = (case.classes, method.n_global, method.n_local)
    problems = batch * case.classes
    return {
        "vision": 0 if case.cached else batch * flops.vision(arch, dual=True),
        "text": text,
        # Several passes run forward once more instead of keeping what it gave.
        "text, backward": text * (1 if classes.members.shape[2] == 1 else 2),
        "similarities": batch * flops.similarities(arch, *heads),
        "similarities, backward": batch * flops.similarities_backward(arch, *heads),
        "transport": flops.transport(problems, method.topk, method.n_local, method.iterations),
    }


def text_flops(arch: clip.Architecture, method: SotGlp, classes: PackedClasses) -> int:
    """Operations of the text tower on all prompts of all classes."""
    prompts, context = method.n_global + method.n_local, len(method.template_ids)
    passes, per_pass = classes.members.shape[2:]
    rows = method.n_global * (1 + context)
    for name in classes.names:
        count, length = name.ids.shape[3:]
        rows += count * (prompts * length + method.n_local * context)
    longest = 1 + context + max(name.ids.shape[-1] for name in classes.names)
    return passes * flops.text(arch, longest, per_pass * prompts, rows)


def plain(case: Case) -> dict[str, int]:
    """The same on plain CLIP's towers: every position of the whole context, in every layer."""
    arch, method = case.arch, case.method
    prompts = case.classes * (method.n_global + method.n_local)
    text = prompts * flops.plain_text(arch)
    vision = 0 if case.cached else case.batch * flops.vision(arch, dual=False)
    return ours(case) | {"vision": vision, "text": text, "text, backward": text}


def matrix_product() -> Callable[[str], float]:
    """A function that measures the rate of a square product, FLOP/s."""
    size = 2048 if jax.default_backend() == "cpu" else 8192

    def rate(precision: str) -> float:
        began = time.perf_counter()
        products[precision]()
        return 2 * size**3 / (time.perf_counter() - began)

    def product(dtype):
        a = jnp.ones((size, size), dtype)
        multiply = jax.jit(functools.partial(jnp.matmul, preferred_element_type=jnp.float32))
        return lambda: multiply(a, a).block_until_ready()

    products = {name: product(dtype) for name, dtype in DTYPES.items()}
    return rate


def measure(work: Work, precision: str) -> tuple[list[float], float]:
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


def record(what: str, case: Case) -> tuple[dict, float]:
    """The JSON line of a measurement, and the rate of matrix products beside it."""
    work = MEASURED[what](case)
    seconds, rate = measure(work, case.precision)
    low, median, high = statistics.quantiles(seconds, n=4)
    device, achieved = jax.devices()[0].device_kind, work.flops / median
    best = peak(device, case.precision)
    shape = sharding.make_mesh(case.mesh).shape
    line = {
        "what": what + ", cached" * case.cached,
        "clip": case.clip,
        "classes": case.classes,
        "batch": case.batch,
        "precision": case.precision,
        "mesh": "x".join(map(str, shape.values())),
        "device": device,
        "median_s": median,
        "spread_s": high - low,
        "images_per_s": case.batch / median,
        "peak_memory_gb": peak_memory_gb(),
        "flops": work.flops,
        "flops_per_s": achieved,
        "peak_share": achieved / best / math.prod(shape.values()) if best else None,
        "compile_s": work.compile_s,
    }
    return line, rate


def print_measurement(what: str, case: Case) -> None:
    """Times one thing and prints it."""
    line, rate = record(what, case)
    for key, value in line.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{key:<16}{shown}")
    print(f"a plain matrix product ran at {rate / 1e9:.0f} GFLOP/s between the timings; ", end="")
    print(f"this is {line['flops_per_s'] / rate:.0%} of it")
    print(json.dumps(line))


def print_flops(case: Case) -> None:
    """Operations of a training step by part, for plain CLIP and for this package."""
    theirs, mine = plain(case), ours(case)
    print(f"{'GFLOP of a training step':<26}{'plain CLIP':>12}{'here':>12}{'ratio':>8}")
    for part in [*mine, "total"]:
        a, b = (sum(x.values()) if part == "total" else x[part] for x in (theirs, mine))
        print(f"{part:<26}{a / 1e9:>12.1f}{b / 1e9:>12.1f}{b / a:>8.2f}")
    line = dict.fromkeys(KEYS) | {"what": "flops", "flops": sum(mine.values())}
    print(json.dumps(line | {k: getattr(case, k) for k in line if hasattr(case, k)}))


def print_memory(case: Case) -> None:
    """Memory of a training step on each device of a mesh; it is compiled and not run."""
    mesh, method, optimizer = sharding.make_mesh(case.mesh), case.method, sgd(0.05, 0.9, 0.01)
    classes = sharding.put_classes(names(case.classes), mesh, case.classes_per_pass(mesh.size))
    frozen = random_weights(case)
    # A row for every place instead of every class.
    state = jax.eval_shape(lambda: first_state(method, optimizer, frozen, len(classes.mask), 0))
    everywhere = PartitionSpec()
    specs = (
        sharding.state_specs(state, method.per_class),
        jax.tree.map(lambda _: everywhere, frozen),
    )
    state, frozen = jax.tree.map(
        lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)),
        (state, frozen),
        specs,
    )
    batch = sharding.put_batch(images(case), mesh)
    program, seconds = compiled(jit_step(mesh, method, optimizer), state, frozen, classes, batch)
    passes = classes.members.shape[2]
    print(f"{memory.needed(program) / 1e9:.2f} GB on each of {mesh.size} devices, {passes} passes")
    line = dict.fromkeys(KEYS) | {"what": "memory", "peak_memory_gb": memory.needed(program) / 1e9}
    line |= {"device": jax.devices()[0].device_kind, "compile_s": seconds}
    print(json.dumps(line | {k: getattr(case, k) for k in line if hasattr(case, k)}))


def print_input(case: Case) -> None:
    """Images/s of decoding, resizing and batching, and of the bare Pillow calls in a plain pool."""
    size, device = case.arch.image_size, f"{loader.cores()} cores"
    print(f"{'workers':>7}{'images/s':>10}{'plain pool':>12}{'share':>7}   median of {speed.TIMES}")
    lines = []
    for workers in range(loader.cores() + 1):
        times = speed.measure(workers, case.batch, size)
        seconds = sorted(case.batch / x["ours"] for x in times)
        rate, pool = (statistics.median(x[key] for x in times) for key in ("ours", "pool"))
        share = statistics.median(x["ours"] / x["pool"] for x in times)
        print(f"{workers:>7}{rate:>10.0f}{pool:>12.0f}{share:>7.0%}", flush=True)
        line = {"what": "input", "clip": case.clip, "batch": case.batch, "device": device}
        line |= {"median_s": statistics.median(seconds), "spread_s": seconds[-1] - seconds[0]}
        line |= {"images_per_s": rate, "workers": workers, "pool_images_per_s": pool}
        lines.append(json.dumps(dict.fromkeys(KEYS) | line))
    print("\n".join(lines))


def main(_: list[str]) -> None:
    """Runs what the flags say."""
    values = flags.FLAGS
    case = Case(**{field.name: getattr(values, field.name) for field in dataclasses.fields(Case)})
    if values.what == "flops":
        print_flops(case)
    elif values.what == "input":
        print_input(case)
    elif values.what == "memory":
        print_memory(case)
    else:
        print_measurement(values.what, case)


if __name__ == "__main__":
    flags.DEFINE_enum("what", "train", [*MEASURED, "input", "flops", "memory"], "What to measure.")
    flags.DEFINE_enum("clip", "ViT-B/16", list(SIZES), "Whose sizes.")
    flags.DEFINE_integer("classes", 10, "Number of classes.", lower_bound=1)
    flags.DEFINE_integer("batch", 8, "Images in a batch.", lower_bound=1)
    flags.DEFINE_enum("precision", "float32", list(DTYPES), "Of the products in the towers.")
    flags.DEFINE_string("mesh", "", "As --config.mesh.")
    flags.DEFINE_integer("chunk", 0, "As --config.text.chunk.", lower_bound=0)
    flags.DEFINE_bool("cached", False, "Train or evaluate on cached features of the images.")
    run_command(main)
