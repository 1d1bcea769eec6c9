"""Tables of results files, as text. Results of differing protocols do not go into one table."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sotglp_jax.errors import InputError

CLASSIFIERS = {
    "zero_shot": "zero-shot CLIP",
    "fused": "SOT-GLP, fused",
    "global": "SOT-GLP, global only",
    "local": "SOT-GLP, local only",
}
# What the runs of every table differ in; the training images follow from it.
VARY = ("seed", "train_images_sha256")
OOD_SCORES = {
    "mcm": "MCM",
    "l_mcm": "L-MCM",
    "gl_mcm": "GL-MCM",
    "fused": "largest fused logit",
    "transport": "largest φ",
}
GLOBAL_NOTE = (
    "* global branch: these classes were not trained on and have no local prompts of their own"
)

Cells = dict[str, dict[str, list[float]]]  # accuracies over the seeds by row and column


def of_run(results: dict) -> str:
    """The accuracies of one run, and of its targets."""
    protocol, images = results["protocol"], results["images"]
    lines = [
        f"{protocol['dataset']}, {protocol['clip']}, {images['train']} training and "
        f"{images['test']} test images, seed {protocol['seed']}",
        *_accuracies(results["accuracy"]),
    ]
    if results["fusion"] and results["config"]["method.fusion"] != "fixed":
        lines.append(
            "  fused with weights {global:.3g} global, {local:.3g} local".format(
                **results["fusion"]
            )
        )
    titles = _titles(results)
    for name, target in results["targets"].items():
        title = f"{protocol['dataset']}, new classes" if name == "new" else titles[name]
        lines += [f"{title}, {target['images']['test']} test images"]
        lines += _accuracies(target["accuracy"])
    if any(_has_no_local(target) for target in results["targets"].values()):
        lines += ["no local prompts of their own: classes that were not trained on"]
    if "ood" in results:
        lines += _detection(results["ood"])
    return "\n".join(lines)


def _detection(detection: dict) -> list[str]:
    """FPR95 and AUROC of every score and set, as lines of text."""
    sets = [*next(iter(detection["scores"].values()))["sets"], "mean"]
    lines = [
        "out of distribution: FPR95 / AUROC in %, and the threshold at 95 % recall",
        " " * 32 + "".join(f"{name:>16}" for name in sets) + f"{'threshold':>12}",
    ]
    for name, judged in detection["scores"].items():
        columns = judged["sets"] | {"mean": judged["mean"]}
        cells = (f"{100 * columns[s]['fpr95']:.1f} / {100 * columns[s]['auroc']:.1f}" for s in sets)
        written = "".join(f"{cell:>16}" for cell in cells)
        lines.append(f"  {OOD_SCORES[name]:<30}{written}{judged['threshold']:>12.4g}")
    return lines


def _accuracies(accuracy: Mapping[str, float]) -> list[str]:
    return [
        f"  {title:<22}{accuracy[name]:>7.1%}"
        for name, title in CLASSIFIERS.items()
        if name in accuracy
    ]


def _has_no_local(target: dict) -> bool:
    return "global" in target["accuracy"] and "fused" not in target["accuracy"]


def check_comparable(results: Sequence[dict], vary: Sequence[str] = VARY) -> None:
    """Makes sure that results may stand in one table.

    Args:
      results: contents of `results.json` files.
      vary: fields of the protocol that may differ.

    Raises:
      InputError: another field of two protocols differs; says which, and both values.
    """
    for other in results[1:]:
        if found := difference(results[0], other, vary):
            key, ours, theirs = found
            raise InputError(
                f"results of {other['protocol']['dataset']} cannot stand in one table: their {key} "
                f"is {ours} in one run and {theirs} in another: evaluate or train one of them "
                "again."
            )


def difference(first: dict, other: dict, vary: Sequence[str]) -> tuple[str, Any, Any] | None:
    """The first field of two runs' protocols, or of their targets', that differs; both values."""
    pairs = [(first["protocol"], other["protocol"])]
    pairs += [
        (first["targets"][name]["protocol"], target["protocol"])
        for name, target in other["targets"].items()
        if name in first["targets"]
    ]
    for a, b in pairs:
        for key in sorted((a.keys() | b.keys()) - set(vary)):
            if a.get(key) != b.get(key):
                return key, a.get(key), b.get(key)
    return None


def few_shot(results: Sequence[dict]) -> str:
    """Accuracy by number of shots, over the seeds."""
    check_comparable(results, (*VARY, "shots"))
    cells: Cells = {}
    for result in results:
        column = f"{result['protocol']['shots']}-shot"
        for name, title in CLASSIFIERS.items():
            if name in result["accuracy"]:
                cells.setdefault(title, {}).setdefault(column, []).append(result["accuracy"][name])
    return _text(_title(results), cells)


def transfer(results: Sequence[dict]) -> str:
    """Accuracy on the data set of the training and on others, and the mean over the others."""
    check_comparable(results)
    cells = _with_targets(results, results[0]["protocol"]["dataset"])
    for row in cells.values():
        source, *others = row
        row["mean of others"] = [
            statistics.mean(x) for x in zip(*map(row.get, others), strict=True)
        ]
    return _text(_title(results), cells, _marked(results))


def base_to_new(results: Sequence[dict]) -> str:
    """Accuracy on the classes of the training and on new ones, and H, the means' harmonic mean."""
    check_comparable(results)
    cells = _with_targets(results, "base")
    for row in cells.values():
        row["H"] = [statistics.harmonic_mean([statistics.mean(row[c]) for c in ("base", "new")])]
    return _text(_title(results), cells, _marked(results))


def settings(results: Sequence[dict]) -> str:
    """Accuracy by setting, over the seeds."""
    check_comparable(results)
    cells: Cells = {}
    for result in results:
        row = cells.setdefault(result["label"], {})
        for name, title in CLASSIFIERS.items():
            if name in result["accuracy"]:
                column = title.removeprefix("SOT-GLP, ")
                row.setdefault(column, []).append(result["accuracy"][name])
    return _text(_title(results), cells)


TABLES: dict[str, Callable[[Sequence[dict]], str]] = {
    "few_shot": few_shot,
    "base_to_new": base_to_new,
    "transfer": transfer,
    "settings": settings,
}


def _with_targets(results: Sequence[dict], source: str) -> Cells:
    """Rows: CLIP, the whole method as far as it goes on each target, and its global branch."""
    rows = {
        "zero-shot CLIP": ("zero_shot",),
        "SOT-GLP": ("fused", "global"),
        "SOT-GLP, global only": ("global",),
    }
    cells: Cells = {row: {} for row in rows}
    for result in results:
        titles = _titles(result)
        for key, judged in ({source: result} | result["targets"]).items():
            column = titles.get(key, key)
            for row, names in rows.items():
                name = next((name for name in names if name in judged["accuracy"]), None)
                if name:
                    cells[row].setdefault(column, []).append(judged["accuracy"][name])
    return {row: columns for row, columns in cells.items() if columns}


def _marked(results: Sequence[dict]) -> set[str]:
    """Columns where the whole method is its global branch."""
    titles, targets = _titles(results[0]), results[0]["targets"]
    return {titles[key] for key, target in targets.items() if _has_no_local(target)}


def _titles(result: dict) -> dict[str, str]:
    """What targets are called: a data set's name for its path, where that tells them apart."""
    names = {key: target["protocol"]["dataset"] for key, target in result["targets"].items()}
    taken = [result["protocol"]["dataset"], *names.values()]
    return {key: name if taken.count(name) == 1 else key for key, name in names.items()}


def _title(results: Sequence[dict]) -> str:
    protocols = [result["protocol"] for result in results]
    shots = sorted({p["shots"] for p in protocols})
    seeds = sorted({p["seed"] for p in protocols})
    parts = [protocols[0]["dataset"], protocols[0]["clip"], f"recipe {protocols[0]['recipe']}"]
    parts += [f"{shots[0]} shots"] if len(shots) == 1 else []
    parts += ["accuracy in %"]
    if len(seeds) > 1:
        parts += [f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}"]
    else:
        parts += [f"seed {seeds[0]}"]
    return ", ".join(parts)


def _text(title: str, cells: Cells, marked: set[str] = frozenset()) -> str:
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    widths = [max(len(column), 11) + 2 for column in columns]
    lines = [title, " " * 22 + "".join(f"{c:>{w}}" for c, w in zip(columns, widths, strict=True))]
    for name, row in cells.items():
        star = name == "SOT-GLP"
        written = (_cell(row.get(c), star and c in marked) for c in columns)
        lines += [
            f"  {name:<20}" + "".join(f"{x:>{w}}" for x, w in zip(written, widths, strict=True))
        ]
    return "\n".join(lines + [GLOBAL_NOTE] * bool(marked))


def _cell(values: list[float] | None, marked: bool) -> str:
    return spread([100 * x for x in values]) + "*" * marked if values else "-"


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation (n - 1), the mean alone of a single value; one decimal."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"
