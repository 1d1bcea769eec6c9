"""The configuration: what its values may be."""

import functools
import json
from collections.abc import Iterable, Mapping

import jax.numpy as jnp
from ml_collections import ConfigDict

from sotglp_jax import methods
from sotglp_jax.clip import ACTIVATIONS
from sotglp_jax.data import fewshot, loader
from sotglp_jax.errors import InputError
from sotglp_jax.schedules import SCHEDULES

DTYPES = {"float32": jnp.float32, "bf16": jnp.bfloat16}
CHOICES = {
    "precision": tuple(DTYPES),
    "clip.activation": ("", *ACTIVATIONS),
    "data.sampler": fewshot.SAMPLERS,
    "data.pool": ("train", "train+val"),
    "data.classes": ("all", "base", "new"),
    "train.drop_last": tuple(loader.STEPS),
    "ood.threshold": ("recall", "unknown"),
    "train.schedule": tuple(SCHEDULES),
}
LEAST = {
    "data.workers": -1,
    "seed": 0,
    "mesh": 0,
    "cache.views": 0,
    "text.chunk": 0,
    "eval.batch_size": 1,
    "train.epochs": 1,
    "train.batch_size": 1,
    "train.lr": 0,
    "train.warmup_epochs": 0,
    "train.log_every": 1,
    "train.checkpoint_every": 1,
}
# Keys that decide other defaults, by their names in the string behind the config file.
CHOSEN_FIRST = {"dataset": "dataset", "clip.name": "clip", "method.name": "method"}
CHOSEN_FIRST |= {"recipe": "recipe", "variant": "variant"}
CHOSEN_BY_NAME = CHOSEN_FIRST | {"shots": "shots", "seed": "seed", "protocol": "protocol"}
RESERVED = ("test", "mean", "average")  # in results, among the names of out-of-distribution sets


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
    heads = config.clip.heads
    if heads and (len(heads) != 2 or not all(isinstance(n, int) and n > 0 for n in heads)):
        raise InputError(f"clip.heads={heads} must be two numbers, of vision and text: (12, 8).")
    methods.make(config.method, towers=None)
    if not config.ood.temperature > 0:
        raise InputError("ood.temperature must be above 0: 1 is the paper's.")
    if config.ood.threshold == "unknown" and not config.ood.sets:
        raise InputError(
            "ood.threshold=unknown needs pictures of none of the classes: name a folder of them "
            "with unknown=FOLDER behind the config file."
        )
    for name in config.ood.sets:
        if name in RESERVED:
            raise InputError(
                f'ood.sets names a folder "{name}", which means something else in results: write '
                f'it as "./{name}".'
            )
    scale = config.data.crop_scale
    numbers = all(isinstance(x, int | float) for x in scale)
    if scale and (not numbers or len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1):
        raise InputError(
            f"data.crop_scale={scale} must be two shares, such as (0.08, 1.0), or () for no crop."
        )
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


def unflatten(settings: dict) -> ConfigDict:
    """The configuration that `flatten` gave."""
    tree = {}
    for key, value in settings.items():
        *parts, name = key.split(".")
        part = functools.reduce(lambda part, step: part.setdefault(step, {}), parts, tree)
        part[name] = tuple(value) if isinstance(value, list) else value
    return ConfigDict(tree)


def differing(theirs: dict, ours: dict, ignored: Iterable[str] = ()) -> list[str]:
    """Compares an earlier run's flat settings with today's.

    Args:
      theirs: settings of the earlier run; one that it lacks is newer than it, and had the default.
      ours: settings of today.
      ignored: keys that may differ.

    Returns:
      What differs, each as "train.lr (0.1 there, 0.2 now)".
    """
    keys = (theirs.keys() | ours.keys()) - set(ignored)
    newer = keys - theirs.keys()
    there = defaults({k: ours[k] for k in theirs.keys() & ours.keys()}) if newer else {}
    there |= theirs
    return [
        f"{key} ({'default ' * (key in newer)}{there.get(key)} there, "
        f"{ours.get(key, 'no such setting')} now)"
        for key in sorted(keys)
        if key not in ours or there.get(key) != ours[key]
    ]


def defaults(chosen: Mapping) -> dict:
    """Returns today's flat settings for what flat settings choose by name, nothing else changed."""
    from sotglp_jax.configs import common  # which makes configurations of this package's parts

    given = {name: chosen[key] for key, name in CHOSEN_BY_NAME.items() if key in chosen}
    return flatten(common.make(**given))
