"""A run: everything that a configuration names, loaded and checked."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sotglp_jax import clip, methods, start, workdir
from sotglp_jax.clip.tokenizer import Tokens
from sotglp_jax.data import datasets, duplicates, fewshot, loader
from sotglp_jax.data.sources import Dataset, Source, choose_classes, with_joint_train
from sotglp_jax.data.transforms import Resize
from sotglp_jax.devices import memory, sharding
from sotglp_jax.errors import InputError
from sotglp_jax.evaluators.ood import MOST as THRESHOLD
from sotglp_jax.methods.check import Check
from sotglp_jax.methods.contract import Method, Params, Stage
from sotglp_jax.methods.zeroshot import ZeroShot
from sotglp_jax.paths import AnyPath
from sotglp_jax.settings import DTYPES, flatten, validate
from sotglp_jax.start import Start


@dataclasses.dataclass(frozen=True)
class Run:
    """What training and evaluation work on.

    Attributes:
      config: the resolved configuration.
      settings: the same, flat, and the fingerprint of CLIP's weights.
      workdir: the run folder; not there before `workdir.create`.
      dataset: class names and test images; its train and val parts hold the shots alone, and
        where nothing is learned, val some images for the threshold of detection.
      clip: the loaded CLIP.
      method: what is trained, or zero-shot CLIP.
      frozen: CLIP's weights, matrices in the precision of the products.
      targets: the same run judged on other data sets or classes, by what the user calls them.
      ood: sets whose test images are to be told from the data set's.
      start: what the training starts from where that is another run.
    """

    config: ConfigDict
    settings: dict
    workdir: AnyPath
    dataset: Dataset
    clip: clip.Clip
    method: Method
    frozen: dict
    targets: dict[str, "Run"] = dataclasses.field(default_factory=dict)
    ood: dict[str, Dataset] = dataclasses.field(default_factory=dict)
    start: Start | None = None

    @property
    def arch(self) -> clip.Architecture:
        """CLIP's dimensions."""
        return self.clip.arch

    @property
    def resize(self) -> Resize:
        """How CLIP wants to see images."""
        stated = self.clip.stated
        return Resize(self.arch.image_size, stated.resize_mode, stated.interpolation)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the training, none where nothing is trained step by step."""
        return self.method.stages(self.config.train)

    @property
    def unpublished(self) -> str:
        """What of the recipe its authors have not published; see `Method.unpublished`."""
        config = self.config
        if config.recipe == "tiny":
            return "recipe tiny is this package's, for the tiny CLIP"
        return self.method.unpublished(config.recipe, config.dataset, config.shots, config.protocol)

    @property
    def baseline(self) -> tuple[Method, ...]:
        """Zero-shot CLIP beside a method that learns."""
        method = self.method
        plain = ZeroShot(method.towers, keep_underscores=method.keep_underscores)
        return (plain,) if method.learns else ()

    @property
    def foreign(self) -> bool:
        """Whether the method's class is none of this package's."""
        return ":" in self.config.method.name

    @property
    def check(self) -> Check:
        """What tells the faults of a method by the functions that have them."""
        classes = len(self.dataset.class_names)
        return Check(self.method, self.frozen, classes, self.arch.image_size)

    def fixed_texts(self) -> Any:
        """The texts that `Method.fixed` needs, on the host."""
        return self.method.tokenize_fixed(self.clip.tokenizer, self.dataset.class_names)

    def tokenize(self, method: Method) -> Any:
        """The data set's class names, or zero-shot CLIP's sentences of them, on the host."""
        dataset, tokenizer = self.dataset, self.clip.tokenizer
        found = method.tokenize(tokenizer, dataset.class_names, dataset.template)
        if not dataset.sentences:
            return found
        own = ZeroShot(method.towers).tokenize_sentences(tokenizer, dataset.sentences)
        if isinstance(method, ZeroShot):
            return own
        return found | {"zero_shot": own} if "zero_shot" in found else found

    @property
    def train(self) -> Source:
        """The training shots; empty where nothing is learned."""
        return self.dataset.train

    @property
    def workers(self) -> int:
        """Processes that decode images."""
        if self.config.data.workers >= 0:
            return self.config.data.workers
        return loader.cores() if self.dataset.test.on_disk else 0

    @property
    def total_steps(self) -> int:
        """Batches of images in the whole training."""
        return sum(stage.passes for stage in self.stages) * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Batches of images in a pass over them, an epoch unless a stage has turns."""
        return steps_per_epoch(self.config, len(self.train))

    def names_on(self, mesh: Mesh, method: Method) -> Any:
        """The class names as a method wants them, packed for the devices of a mesh."""
        return self.packed(self.tokenize(method), mesh)

    def packed(self, tokens: Any, mesh: Mesh) -> Any:
        """A tree of `Tokens`, packed for the devices of a mesh."""

        def per_pass(tokens: Tokens) -> int:
            return self.classes_per_pass(int(tokens.eot.max()), len(tokens.eot), mesh.size)

        return sharding.put_names(tokens, mesh, per_pass)

    def classes_per_pass(self, length: int, classes: int, devices: int = 1) -> int:
        """Classes that the text tower takes at once on each device, as set or as memory allows."""
        return self.config.text.chunk or memory.classes_per_pass(
            self.method, length, classes, devices
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
    path = workdir.of(config, folder)
    whole = _resolve(config, config.dataset, config.data.template, config.data.names)
    dataset = with_shots(config, whole)
    others = {name: _target(config, whole, name) for name in config.targets}
    ood = {
        name: datasets.unlabelled(name, config.data.root, config.data.allow_partial)
        for name in config.ood.sets
    }
    loaded = clip.load(config.clip.name, config.clip.activation, config.clip.heads)
    run = assemble(config, path, dataset, loaded)
    _check_views(config.cache.views, run.method)
    if run.stages:
        check_steps(config, len(run.train))
    workdir.check_same(path, run.settings, dataset.train.names, dataset.class_names)
    targets = {name: dataclasses.replace(run, dataset=other) for name, other in others.items()}
    # Names that are too long, or options for more classes, are refused before anything is read.
    for one in (run, *targets.values()):
        for method in (one.method, *one.baseline):
            one.tokenize(method)
    names = run.tokenize(run.method)
    if run.foreign:
        run.check.start(names, run.fixed_texts(), config.train)
    else:
        run.check.init(names)
    run = dataclasses.replace(run, start=_start(run))
    sources = [dataset.train, dataset.val]
    sources += [one.test for one in (dataset, *others.values(), *ood.values())]
    loader.check_images([_share(source) for source in sources])
    return dataclasses.replace(run, targets=targets, ood=ood)


def _start(run: Run) -> Start | None:
    if not (name := run.config.train.init_from):
        return None
    if not run.stages:
        raise InputError(
            f"{run.method.title} is not trained step by step, so no other run is a start of it: "
            "leave out --from."
        )

    def shapes(method: Method) -> Params:
        return dataclasses.replace(run.check, method=method).init(run.tokenize(method))

    found = start.load(name, run.method, run.settings, run.dataset.class_names, shapes)
    start.check(found, run.workdir)
    return found


def describe(run: Run) -> list[str]:
    """Lines on what a run works on, and on what its user should look at before it starts."""
    dataset, name = run.dataset, run.config.clip.name
    images = ", ".join(f"{len(source)} {part}" for part, source in dataset.parts.items())
    lines = [
        f"CLIP {name}: {run.arch}, {run.clip.activation} ({run.clip.source})",
        f"{dataset.name}: {_named(dataset.class_names)}; images: {images}",
        *_noted(dataset),
        *([f"note: {run.method.title}: {run.unpublished}."] if run.unpublished else []),
        *(f"warning: {warning}" for warning in duplicates.warnings(dataset)),
        *([run.start.describe()] if run.start else []),
    ]
    for called, target in run.targets.items():
        named = _named(target.dataset.class_names)
        lines.append(f"target {called}: {named}; images: {len(target.dataset.test)} test")
        lines += _noted(target.dataset)
    for called, outside in run.ood.items():
        lines.append(f"out of distribution {called}: {len(outside.test)} images")
        lines += _noted(outside)
    if len(dataset.class_names) == 1:
        lines.append("warning: there is one class alone, so nothing is to be told apart")
    if name == "tiny" and dataset.name != "digits":
        lines.append(
            "warning: clip=tiny knows drawn digits and little else: for photographs choose "
            "clip=ViT-B/16 or another one behind --config=FILE:"
        )
    return lines


def plan(run: Run) -> str:
    """A line on what a run is about to do, and where what comes of it is to be found."""
    steps = f"{run.total_steps} training steps of {run.config.train.batch_size} images"
    passes = sum(stage.passes for stage in run.stages)
    tested = f"then {len(run.dataset.test)} test images"
    return f"plan: {steps} ({passes} times all shots), {tested}; all into {run.workdir}"


def _noted(dataset: Dataset) -> list[str]:
    lines = [f"note: {note}" for note in dataset.notes]
    judged = set(dataset.test.labels)
    if without := [x for label, x in enumerate(dataset.class_names) if label not in judged]:
        lines.append(f"warning: without test images: {_named(without)}")
    return lines


def _named(class_names: Sequence[str]) -> str:
    shown = ", ".join(class_names[:4]) + ", ..." * (len(class_names) > 4)
    return f"{len(class_names)} {'class' if len(class_names) == 1 else 'classes'} ({shown})"


def _check_views(views: int, method: Method) -> None:
    if views and not method.frozen_images:
        raise InputError(
            f"cache.views={views} asks for features from disk, but {method.title} learns in the "
            "vision tower, so they change with every step: leave out --config.cache.views."
        )


def steps_per_epoch(config: ConfigDict, images: int) -> int:
    """Batches in a pass over so many images."""
    return loader.STEPS[config.train.drop_last](images, config.train.batch_size)


def check_steps(config: ConfigDict, images: int) -> None:
    """Raises `InputError` where so many images make no batch to train on."""
    if not steps_per_epoch(config, images):
        raise InputError(
            f"{images} training images make no whole batch of {config.train.batch_size}, and "
            "train.drop_last=always leaves out a short one, so nothing would be trained: lower "
            "--config.train.batch_size, or set --config.train.drop_last=unless_only."
        )


def assemble(config: ConfigDict, path: AnyPath, dataset: Dataset, loaded: clip.Clip) -> Run:
    """A run from its parts, without targets and out-of-distribution sets; reads no image."""
    dtype = DTYPES[config.precision]
    return Run(
        config=config,
        settings=flatten(config) | {"clip.sha256": loaded.fingerprint},
        workdir=path,
        dataset=dataset,
        clip=loaded,
        method=methods.make(config.method, loaded.towers(dtype)),
        frozen=in_precision(loaded.params, dtype),
    )


def with_shots(config: ConfigDict, dataset: Dataset) -> Dataset:
    """The run's classes with their shots for training and validation parts.

    Raises:
      InputError: there are too few images, or no validation images where the method needs some.
    """
    train, val = dataset.train.take(()), dataset.val.spread(THRESHOLD)
    method = methods.make(config.method, towers=None)
    if method.learns:
        data = config.data
        pools = dataset if data.pool == "train" else with_joint_train(dataset)
        train, val = fewshot.sample(pools, config.shots, config.seed, data.sampler, data.renumber)
    needed = method.validation or "eval.calibrate" * config.eval.calibrate
    if needed and not len(val):
        raise InputError(
            f"{dataset.name} gives no validation images to this run, which {needed} needs: choose "
            "another value, or another --config.data.sampler or data.pool."
        )
    return _classes(dataclasses.replace(dataset, train=train, val=val), config.data.classes)


def _target(config: ConfigDict, whole: Dataset, name: str) -> Dataset:
    if name == "new":  # whose notes are those of the whole
        dataset = dataclasses.replace(_classes(whole, "new"), notes=())
    else:
        dataset = _resolve(config, name)
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


def seen_classes(run: Run, dataset: Dataset) -> tuple[int, ...]:
    """The label that each class of a data set had in training; () if one had none."""
    labels = {class_id: label for label, class_id in enumerate(run.dataset.class_ids)}
    if not labels.keys() >= set(dataset.class_ids):
        return ()
    return tuple(labels[class_id] for class_id in dataset.class_ids)


def _resolve(config: ConfigDict, name: str, template: str = "", named_by: str = "") -> Dataset:
    partial = config.data.allow_partial
    dataset = datasets.resolve(name, config.data.root, template, partial, named_by)
    if not dataset.class_names:
        raise InputError(
            f"dataset {name} has no classes: it is for out-of-distribution detection only."
        )
    if not config.data.full_stop:
        dataset = dataclasses.replace(dataset, template=dataset.template.removesuffix("."))
    return dataset


def _share(source: Source) -> Source:
    return source.take(range(jax.process_index(), len(source), jax.process_count()))


def in_precision(params: dict, dtype: jnp.dtype) -> dict:
    """The encoders' matrices in the dtype of their products; the rest stays float32."""

    def cast(path, x):
        return np.asarray(x, dtype) if path[-1].key == "kernel" else x

    return jax.tree_util.tree_map_with_path(cast, params)
