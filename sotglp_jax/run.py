"""A run: everything that a configuration names, loaded and checked."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sotglp_jax import clip, workdir
from sotglp_jax.clip import weights
from sotglp_jax.clip.tokenizer import Tokenizer, Tokens
from sotglp_jax.data import catalog, fewshot, loader
from sotglp_jax.data.sources import Dataset, ImageFiles, Source
from sotglp_jax.errors import InputError
from sotglp_jax.methods.sotglp import SotGlp
from sotglp_jax.methods.zeroshot import ZeroShot
from sotglp_jax.settings import DTYPES, flatten, validate


@dataclasses.dataclass(frozen=True)
class Run:
    """What training and evaluation work on.

    Attributes:
      config: the resolved configuration.
      settings: the same, flat, and the fingerprint of CLIP's weights.
      workdir: the run folder; not there before `workdir.create`.
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
    settings: dict
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
        return loader.cores() if isinstance(self.dataset.test, ImageFiles) else 0

    @property
    def total_steps(self) -> int:
        """Training steps of the whole run."""
        return self.config.train.epochs * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Training steps of an epoch."""
        return loader.steps_per_epoch(len(self.train), self.config.train.batch_size)


def prepare(config: ConfigDict, folder: str = "") -> Run:
    """Loads and checks all that a configuration names; writes nothing.

    Args:
      config: as `configs/common.py` makes it.
      folder: the run folder; "" names one below `runs` after the configuration.

    Raises:
      InputError: anything the user can mend.
    """
    validate(config)
    path = Path(folder).expanduser() if folder else workdir.default_path(config)
    dataset = catalog.resolve(config.dataset, config.data.root, config.data.template)
    learns = config.method.name == "sotglp"
    train = dataset.train.take(())
    if learns:
        train, _ = fewshot.sample(dataset, config.shots, config.seed, config.data.sampler)
    loaded = clip.load(config.clip.name, config.clip.activation)
    settings = flatten(config) | {"clip.sha256": weights.fingerprint(loaded.params)}
    workdir.check_same(path, settings, train.names)
    dtype = DTYPES[config.precision]
    towers = loaded.towers(
        dtype,
        vv=config.method.vv,
        vv_first_layer_leak=config.method.vv_first_layer_leak,
    )
    names = readable(dataset.class_names, config.method.keep_underscores)
    method = _method(config, towers, loaded.tokenizer) if learns else None
    room = len(method.template_ids) if method else 0
    run = Run(
        config=config,
        settings=settings,
        workdir=path,
        dataset=dataset,
        train=train,
        arch=loaded.arch,
        method=method,
        zero_shot=ZeroShot(towers),
        frozen=in_precision(loaded.params, dtype),
        classes=loaded.tokenizer(names, room=room),
        sentences=loaded.tokenizer(
            [dataset.template.replace("{}", n) for n in readable(names, False)]
        ),
    )
    loader.check_images([train, dataset.test])
    return run


def _method(config: ConfigDict, towers: clip.Towers, tokenizer: Tokenizer) -> SotGlp:
    template_ids = tuple(tokenizer.encode(config.method.context))
    most = tokenizer.context_length // 2
    if not 0 < len(template_ids) <= most:
        raise InputError(
            f'method.context="{config.method.context}" has {len(template_ids)} tokens: set '
            f"--config.method.context to words of 1 to {most} tokens."
        )
    options = {**config.method, **config.transport}
    known = {field.name for field in dataclasses.fields(SotGlp)}
    return SotGlp(
        towers,
        template_ids=template_ids,
        **{name: value for name, value in options.items() if name in known},
    )


def readable(names, keep_underscores: bool) -> list[str]:
    """Class names as they are put into prompts."""
    return [name if keep_underscores else name.replace("_", " ") for name in names]


def in_precision(params: dict, dtype: jnp.dtype) -> dict:
    """The encoders' matrices in the dtype of their products; the rest stays float32."""

    def cast(path, x):
        return np.asarray(x, dtype) if path[-1].key == "kernel" else x

    return jax.tree_util.tree_map_with_path(cast, params)
