"""A run: everything that a configuration names, loaded and checked, and its folder."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sotglp_jax import __version__, clip
from sotglp_jax.clip import hub
from sotglp_jax.clip.tokenizer import Tokenizer, Tokens
from sotglp_jax.data import catalog, fewshot, loader
from sotglp_jax.data.sources import Dataset, ImageFiles, Source, Subset
from sotglp_jax.errors import InputError
from sotglp_jax.methods.sotglp import SotGlp
from sotglp_jax.methods.zeroshot import ZeroShot

DTYPES = {"float32": jnp.float32, "bf16": jnp.bfloat16}
CHOICES = {
    "precision": tuple(DTYPES),
    "clip.activation": ("", *clip.ACTIVATIONS),
    "data.sampler": fewshot.SAMPLERS,
    "method.name": ("sotglp", "zeroshot"),
    "method.local_init": ("template", "random", "gram"),
    "method.plan_gradient": ("stop", "unroll"),
}
LEAST = {
    "data.workers": -1,
    "text.chunk": 0,
    "method.n_global": 1,
    "method.n_local": 1,
    "method.topk": 1,
    "method.fusion_weight": 0,
    "method.global_dropout": 0,
    "transport.iterations": 1,
    "train.epochs": 1,
    "train.batch_size": 1,
    "train.lr": 0,
    "train.warmup_epochs": 0,
    "train.log_every": 1,
    "train.checkpoint_every": 1,
}
# Keys that may differ when a run goes on: they say how it is computed, not what.
EXECUTION = ("mesh", "data.root", "data.workers", "text.chunk", "train.log_every")
EXECUTION += ("train.checkpoint_every",)
PACKAGES = ("jax", "flax", "optax", "ott-jax", "orbax-checkpoint", "grain", "numpy", "pillow")


@dataclasses.dataclass(frozen=True)
class Run:
    """What training and evaluation work on.

    Attributes:
      config: the resolved configuration.
      workdir: the run folder; not there before `create_folder`.
      dataset: class names and test images.
      train: the training shots; empty where nothing is learned.
      arch: CLIP's dimensions.
      method: the method to train, None where nothing is learned.
      zero_shot: CLIP's own classifier on the same towers.
      frozen: CLIP's weights, matrices in the precision of the products.
      classes: [SOS] name [EOT] of every class.
      sentences: the zero-shot sentence of every class.
    """

    config: ConfigDict
    workdir: Path
    dataset: Dataset
    train: Source
    arch: clip.Architecture
    method: SotGlp | None
    zero_shot: ZeroShot
    frozen: dict
    classes: Tokens
    sentences: Tokens

    @property
    def workers(self) -> int:
        """Processes that decode images."""
        if self.config.data.workers >= 0:
            return self.config.data.workers
        return (os.cpu_count() or 1) if _is_files(self.dataset.test) else 0

    @property
    def total_steps(self) -> int:
        """Training steps of the whole run."""
        return self.config.train.epochs * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Training steps of an epoch."""
        return loader.steps_per_epoch(len(self.train), self.config.train.batch_size)


def prepare(config: ConfigDict, workdir: str = "") -> Run:
    """Loads and checks all that a configuration names; writes nothing.

    Args:
      config: as `configs/common.py` makes it.
      workdir: run folder; "" names one below `runs` after the configuration.

    Raises:
      InputError: anything the user can mend.
    """
    validate(config)
    folder = Path(workdir).expanduser() if workdir else default_workdir(config)
    check_same_run(folder, config)
    dataset = catalog.resolve(config.dataset, config.data.root, config.data.template)
    learns = config.method.name == "sotglp"
    train = Subset(dataset.train, ())
    if learns:
        train, _ = fewshot.sample(dataset, config.shots, config.seed, config.data.sampler)
    loaded = clip.load(config.clip.name, config.clip.activation)
    dtype = DTYPES[config.precision]
    towers = clip.build(
        loaded.arch,
        loaded.activation,
        dtype,
        vv=config.method.vv,
        vv_first_layer_leak=config.method.vv_first_layer_leak,
    )
    names = readable(dataset.class_names, config.method.keep_underscores)
    method = _method(config, towers, loaded.tokenizer) if learns else None
    room = len(method.template_ids) if method else 0
    template = dataset.template
    run = Run(
        config=config,
        workdir=folder,
        dataset=dataset,
        train=train,
        arch=loaded.arch,
        method=method,
        zero_shot=ZeroShot(towers),
        frozen=in_precision(loaded.params, dtype),
        classes=loaded.tokenizer(names, room=room),
        sentences=loaded.tokenizer([template.format(n) for n in readable(names, False)]),
    )
    loader.check_images([train, dataset.test])
    return run


def _method(config: ConfigDict, towers: clip.Towers, tokenizer: Tokenizer) -> SotGlp:
    m = config.method
    return SotGlp(
        towers,
        template_ids=tuple(tokenizer.encode(m.context)),
        n_global=m.n_global,
        n_local=m.n_local,
        topk=m.topk,
        epsilon=config.transport.epsilon,
        iterations=config.transport.iterations,
        plan_gradient=m.plan_gradient,
        fusion_weight=m.fusion_weight,
        mean_over_prompts=m.mean_over_prompts,
        mean_of_branches=m.mean_of_branches,
        global_dropout=m.global_dropout,
        local_init=m.local_init,
        class_specific=m.class_specific,
        projection=m.projection,
        chunk=config.text.chunk,
    )


def readable(names, keep_underscores: bool) -> list[str]:
    """Class names as they are put into prompts."""
    return [name if keep_underscores else name.replace("_", " ") for name in names]


def in_precision(params: dict, dtype: jnp.dtype) -> dict:
    """The encoders' matrices in the dtype of their products; the rest stays float32."""

    def cast(path, x):
        return np.asarray(x, dtype) if path[-1].key == "kernel" else x

    return jax.tree_util.tree_map_with_path(cast, params)


def _is_files(source: Source) -> bool:
    while isinstance(source, Subset):
        source = source.source
    return isinstance(source, ImageFiles)


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a value outside its range."""
    flat = flatten(config)
    for key, choices in CHOICES.items():
        if flat[key] not in choices:
            listed = ", ".join(repr(c) for c in choices)
            raise InputError(f'{key}="{flat[key]}" is unknown: set --config.{key} to {listed}.')
    for key, least in LEAST.items():
        if not flat[key] >= least:
            raise InputError(
                f"{key}={flat[key]} is too small: set --config.{key} to {least} or more."
            )
    if not config.transport.epsilon > 0:
        raise InputError("transport.epsilon must be above 0: 0.1 is the paper's.")
    scale = config.data.crop_scale
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise InputError(f"data.crop_scale={scale} must be two shares, such as (0.08, 1.0).")
    if config.train.warmup_epochs >= config.train.epochs:
        raise InputError(
            f"train.epochs={config.train.epochs} is all warm-up at a learning rate of "
            f"{config.train.warmup_lr}: set --config.train.epochs above train.warmup_epochs="
            f"{config.train.warmup_epochs}, or that to less."
        )


def flatten(config: ConfigDict) -> dict:
    """{"train.lr": ...}, values as JSON has them."""
    plain = json.loads(config.to_json())

    def walk(prefix, value):
        if isinstance(value, dict):
            return {k: v for key, x in value.items() for k, v in walk(f"{prefix}.{key}", x).items()}
        return {prefix.removeprefix("."): value}

    return walk("", plain)


def default_workdir(config: ConfigDict) -> Path:
    """runs/<dataset>-<clip>-<shots>shot-seed<seed>, or -zeroshot."""
    tail = (
        "zeroshot" if config.method.name == "zeroshot" else f"{config.shots}shot-seed{config.seed}"
    )
    stem = Path(config.dataset).stem if config.dataset.endswith(".json") else config.dataset
    # A path's own name, but both halves of ViT-B/16.
    stem = Path(stem).absolute().name
    model = config.clip.name
    if model not in hub.OPENAI and "/" in model:
        model = Path(model).stem if Path(model).is_file() else Path(model).absolute().name
    return Path("runs") / re.sub(r"[^\w.@-]+", "-", f"{stem}-{model}-{tail}")


def check_same_run(workdir: Path, config: ConfigDict) -> None:
    """Raises `InputError` if the folder belongs to a run of another configuration."""
    path = workdir / "config.json"
    if not path.exists():
        return
    theirs, ours = json.loads(path.read_text()), flatten(config)
    differing = [
        f"{key} ({theirs.get(key)} there, {ours.get(key)} now)"
        for key in sorted(theirs.keys() | ours.keys())
        if key not in EXECUTION and theirs.get(key) != ours.get(key)
    ]
    if differing:
        raise InputError(
            f"{workdir} holds a run of another configuration, differing in "
            f"{', '.join(differing)}: choose another --workdir, or remove that one."
        )


def create_folder(run: Run) -> None:
    """Makes the run folder and writes what is known before training.

    config.json (flat), train_images.txt (one name a line).

    Raises:
      InputError: the folder cannot be written.
    """
    try:
        run.workdir.mkdir(parents=True, exist_ok=True)
        write_json(run.workdir / "config.json", flatten(run.config))
        (run.workdir / "train_images.txt").write_text("".join(f"{n}\n" for n in run.train.names))
    except OSError as error:
        raise InputError(
            f"run folder {run.workdir} cannot be written ({error.strerror}): choose another one "
            "with --workdir."
        ) from None


def protocol(run: Run) -> dict:
    """What must be equal for two results to be comparable."""
    config = run.config
    return {
        "dataset": run.dataset.name,
        "classes": len(run.dataset.class_names),
        "sampler": config.data.sampler,
        "shots": config.shots,
        "seed": config.seed,
        "train_images_sha256": fewshot.fingerprint(run.train.names),
        "test_images_sha256": fewshot.fingerprint(run.dataset.test.names),
        "template": run.dataset.template,
        "clip": config.clip.name,
        "recipe": config.recipe,
        "precision": config.precision,
    }


def versions() -> dict[str, str]:
    """Of this package, Python and the libraries that numbers depend on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"sotglp_jax": __version__, "python": platform.python_version()} | found


def write_json(path: Path, content: dict) -> None:
    """Writes the whole file or nothing."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(path)
