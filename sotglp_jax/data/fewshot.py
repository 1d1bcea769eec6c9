"""The few-shot samplers of the field."""

import hashlib
import random
from collections.abc import Sequence

import numpy as np
from absl import logging

from sotglp_jax.data.sources import Dataset, Source
from sotglp_jax.errors import InputError

SAMPLERS = ("coop", "stratified", "lpclip")


def sample(
    dataset: Dataset, shots: int, seed: int, sampler: str, renumber: bool = False
) -> tuple[Source, Source]:
    """Training and validation shots.

    Args:
      dataset: the pools to draw from.
      shots: images per class; at most min(shots, 4) per class for validation.
      seed: 1, 2 and 3 in the field.
      sampler: "coop" takes exactly `shots` per class, or all where there are fewer; "stratified"
        takes shots·C in all, by class frequency, as the official code of SOT-GLP does; "lpclip"
        is that of CoOp's linear probe, see `lpclip`.
      renumber: see `stratified`.

    Raises:
      InputError: fewer than one shot, or too few images for the stratified sampler.
    """
    if shots < 1:
        raise InputError(f"shots={shots} leaves nothing to train on: set 1 or more.")
    if sampler == "stratified":
        train = stratified(dataset.train.labels, shots, seed, renumber)
        return dataset.train.take(train), dataset.val.take(())
    _warn_of_few(dataset, shots)
    draw = {"coop": coop, "lpclip": lpclip}[sampler]
    train, val = draw([dataset.train.labels, dataset.val.labels], [shots, min(shots, 4)], seed)
    return dataset.train.take(train), dataset.val.take(val)


def coop(pools: Sequence[Sequence[int]], shots: Sequence[int], seed: int) -> list[tuple[int, ...]]:
    """CoOp's sampler (https://arxiv.org/abs/2109.01134) on several pools with one generator.

    Args:
      pools: the labels of each pool.
      shots: images per class in each pool.
      seed: of Python's `random`.

    Returns:
      Chosen indices into each pool, class by class in order of first appearance.
    """
    rng = random.Random(seed)
    chosen = []
    for labels, k in zip(pools, shots, strict=True):
        by_class: dict[int, list[int]] = {}
        for i, label in enumerate(labels):
            by_class.setdefault(label, []).append(i)
        draws = (rng.sample(of, k) if len(of) >= k else of for of in by_class.values())
        chosen.append(tuple(i for draw in draws for i in draw))
    return chosen


def lpclip(
    pools: Sequence[Sequence[int]], shots: Sequence[int], seed: int
) -> list[tuple[int, ...]]:
    """The sampler of CoOp's linear probe on several pools with one generator.

    The subsets of a seed are nested: those of more shots begin with those of fewer.

    Source: https://github.com/KaiyangZhou/CoOp/blob/main/lpclip/linear_probe.py.

    Args:
      pools: the labels of each pool.
      shots: images per class in each pool.
      seed: of numpy's legacy generator.

    Returns:
      Chosen indices into each pool, class by class in the order of the labels.

    Raises:
      InputError: a class has fewer images than are to be drawn.
    """
    rng = np.random.RandomState(seed)
    chosen = []
    for labels, k in zip(pools, shots, strict=True):
        labels, found = np.array(labels, int), []
        for label in np.unique(labels):
            of_class = np.flatnonzero(labels == label)
            if len(of_class) < k:
                raise InputError(
                    f"data.sampler=lpclip draws {k} images of class {label}, which has "
                    f"{len(of_class)}: set --config.data.sampler=coop, which takes all of them."
                )
            found += rng.choice(of_class, k, replace=False).tolist()
        chosen.append(tuple(found))
    return chosen


def stratified(
    labels: Sequence[int], shots: int, seed: int, renumber: bool = False
) -> tuple[int, ...]:
    """scikit-learn's StratifiedShuffleSplit of shots·C images: `shots` is an average there.

    Args:
      labels: of the pool.
      shots: images per class, on average.
      seed: of the split.
      renumber: number the classes by their first appearance for the draw, whose random numbers go
        from class to class, so that other images are drawn.

    Returns:
      Chosen indices into the pool.

    Raises:
      InputError: there are too few images.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    if renumber:
        numbers = {label: i for i, label in enumerate(dict.fromkeys(labels))}
        labels = [numbers[label] for label in labels]
    size = shots * len(set(labels))
    if size >= len(labels):
        return tuple(range(len(labels)))
    split = StratifiedShuffleSplit(n_splits=1, train_size=size, random_state=seed)
    try:
        train, _ = next(split.split(labels, labels))
    except ValueError as error:
        raise InputError(
            f"data.sampler=stratified cannot draw {size} of {len(labels)} images "
            f"({str(error).rstrip('.')}): set --config.data.sampler=coop."
        ) from None
    return tuple(train.tolist())


def fingerprint(names: Sequence[str]) -> str:
    """SHA-256 over a list of image names, in order."""
    content = "\n".join(names).encode("utf-8", "surrogateescape")  # file names in any encoding
    return hashlib.sha256(content).hexdigest()


def _warn_of_few(dataset: Dataset, shots: int) -> None:
    counts = [0] * len(dataset.class_names)
    for label in dataset.train.labels:
        counts[label] += 1
    few = [(n, c) for n, c in zip(dataset.class_names, counts, strict=True) if c < shots]
    empty = [name for name, count in few if not count]
    if empty:
        raise InputError(
            f'class "{empty[0]}" of {dataset.name} has no training image: add some, or leave the '
            "class out of the split."
        )
    if few:
        listed = ", ".join(f"{name} ({count})" for name, count in few[:5])
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        logging.warning("fewer than %d images, all taken: %s%s", shots, listed, more)
