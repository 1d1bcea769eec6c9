"""A run: everything that a configuration names, loaded and checked."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sotglp_jax import clip, memory, workdir
from sotglp_jax.clip import weights
from sotglp_jax.clip.tokenizer import Tokenizer, Tokens
from sotglp_jax.data import datasets, digits, fewshot, loader
from sotglp_jax.data.sources import Dataset, Source, choose_classes
from sotglp_jax.errors import InputError
from sotglp_jax.methods.global_branch import GlobalBranch
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
      dataset: class names and test images; its train and val parts hold the shots alone.
      arch: CLIP's dimensions.
      method: the method to train, None where nothing is learned.
      zero_shot: CLIP's own classifier on the same towers.
      frozen: CLIP's weights, matrices in the precision of the products.
      classes: [SOS] name [EOT] of every class.
      sentences: the zero-shot sentence of every class.
      targets: the same run judged on other data sets or classes, by what the user calls them.
      ood: images to be told from the test images.
    """

    config: ConfigDict
    settings: dict
    workdir: Path
    dataset: Dataset
    arch: clip.Architecture
    method: SotGlp | None
    zero_shot: ZeroShot
    frozen: dict
    classes: Tokens
    sentences: Tokens
    targets: dict[str, "Run"] = dataclasses.field(default_factory=dict)
    ood: dict[str, Source] = dataclasses.field(default_factory=dict)

    @property
    def train(self) -> Source:
        """The training shots; empty where nothing is learned."""
        return self.dataset.train

    @property
    def workers(self) -> int:
        """Processes that decode images."""
        if self.config.data.workers >= 0:
            return self.config.data.workers
        return 0 if self.dataset.test.read is digits.read else loader.cores()

    @property
    def total_steps(self) -> int:
        """Training steps of the whole run."""
        return self.config.train.epochs * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Training steps of an epoch."""
        return loader.steps_per_epoch(len(self.train), self.config.train.batch_size)

    def classes_per_pass(self, trainable: dict, devices: int = 1) -> int:
        """Of the text tower, on each of several devices."""
        text = self.zero_shot.towers.text
        return self.config.text.chunk or memory.classes_per_pass(
            text, self.classes, trainable, devices
        )


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
    whole = _resolve(config, config.dataset, config.data.template)
    dataset = with_shots(config, whole)
    others = {name: _target(config, whole, name) for name in config.targets}
    ood = {
        name: datasets.unlabelled(name, config.data.root, config.data.allow_partial)
        for name in config.ood.sets
    }
    loaded = clip.load(config.clip.name, config.clip.activation)
    run = assemble(config, path, dataset, loaded)
    workdir.check_same(path, run.settings, dataset.train.names)
    read = functools.partial(_read, config, loaded.tokenizer, run.method)
    targets = {
        name: dataclasses.replace(run, **read(other), method=_method_on(run, other))
        for name, other in others.items()
    }
    sources = [dataset.train, dataset.val, dataset.test, *(other.test for other in others.values())]
    sources += ood.values()
    loader.check_images([_share(source) for source in sources])
    return dataclasses.replace(run, targets=targets, ood=ood)


def assemble(config: ConfigDict, path: Path, dataset: Dataset, loaded: clip.Clip) -> Run:
    """A run from its parts, without targets and out-of-distribution sets; reads no image."""
    dtype = DTYPES[config.precision]
    towers = loaded.towers(
        dtype,
        vv=config.method.vv,
        vv_first_layer_leak=config.method.vv_first_layer_leak,
    )
    method = _method(config, towers, loaded.tokenizer) if _learns(config) else None
    return Run(
        config=config,
        settings=flatten(config) | {"clip.sha256": weights.fingerprint(loaded.params)},
        workdir=path,
        **_read(config, loaded.tokenizer, method, dataset),
        arch=loaded.arch,
        method=method,
        zero_shot=ZeroShot(towers),
        frozen=in_precision(loaded.params, dtype),
    )


def _read(config: ConfigDict, tokenizer: Tokenizer, method: SotGlp | None, dataset: Dataset):
    """The fields of a run that depend on the data set."""
    names = readable(dataset.class_names, config.method.keep_underscores)
    sentences = [dataset.template.replace("{}", n) for n in readable(names, False)]
    return {
        "dataset": dataset,
        "classes": tokenizer(names, room=len(method.template_ids) if method else 0),
        "sentences": tokenizer(sentences),
    }


def _learns(config: ConfigDict) -> bool:
    return config.method.name == "sotglp"


def with_shots(config: ConfigDict, dataset: Dataset) -> Dataset:
    """The run's classes with their shots for training and validation parts.

    Raises:
      InputError: there are too few images, or no validation images for a λ chosen by them.
    """
    train, val = dataset.train.take(()), dataset.val.take(())
    if _learns(config):
        train, val = fewshot.sample(dataset, config.shots, config.seed, config.data.sampler)
        if config.method.fusion == "validated" and not len(val):
            raise InputError(
                f"{dataset.name} gives no validation images to this run, which "
                "method.fusion=validated needs: set --config.method.fusion=fixed or learned."
            )
    return _classes(dataclasses.replace(dataset, train=train, val=val), config.data.classes)


def _target(config: ConfigDict, whole: Dataset, name: str) -> Dataset:
    dataset = _classes(whole, "new") if name == "new" else _resolve(config, name)
    return dataclasses.replace(dataset, train=dataset.train.take(()))


def _classes(dataset: Dataset, which: str) -> Dataset:
    """All classes, or one of the two halves of the base-to-new protocol."""
    if which == "all":
        return dataset
    n = len(dataset.class_names)
    middle = -(-n // 2)
    chosen = range(middle) if which == "base" else range(middle, n)
    if not chosen:
        raise InputError(f"{dataset.name} has one class only, so there are no new ones.")
    return choose_classes(dataset, chosen)


def _method_on(run: Run, dataset: Dataset) -> SotGlp | GlobalBranch | None:
    """The method for another data set: without local prompts where they are not of its classes."""
    if not run.method or not run.method.class_specific or seen_classes(run, dataset):
        return run.method
    return GlobalBranch(run.method.towers)


def seen_classes(run: Run, dataset: Dataset) -> tuple[int, ...]:
    """The label that each class of a data set had in training; () if one had none."""
    labels = {class_id: label for label, class_id in enumerate(run.dataset.class_ids)}
    if not labels.keys() >= set(dataset.class_ids):
        return ()
    return tuple(labels[class_id] for class_id in dataset.class_ids)


def _resolve(config: ConfigDict, name: str, template: str = "") -> Dataset:
    dataset = datasets.resolve(name, config.data.root, template, config.data.allow_partial)
    if not dataset.class_names:
        raise InputError(
            f"dataset {name} has no classes: it is for out-of-distribution detection only."
        )
    return dataset


def _share(source: Source) -> Source:
    return source.take(range(jax.process_index(), len(source), jax.process_count()))


def _method(config: ConfigDict, towers: clip.Towers, tokenizer: Tokenizer) -> SotGlp:
    template_ids = tuple(tokenizer.encode(config.method.context))
    most = tokenizer.context_length // 2
    if not 0 < len(template_ids) <= most:
        raise InputError(
            f'method.context="{config.method.context}" has {len(template_ids)} tokens: set '
            f"--config.method.context to words of 1 to {most} tokens."
        )
    options = {**config.method, **config.transport}
    options["learn_fusion"] = config.method.fusion == "learned"
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
