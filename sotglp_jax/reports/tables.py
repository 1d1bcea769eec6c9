"""Tables of results files, as text. Results of differing protocols do not go into one table."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sotglp_jax.errors import InputError

ZERO_SHOT = "zero-shot CLIP"  # its accuracy stands beside every method's
# What the runs of every table differ in; the training images follow from it, and what is
# unpublished from all else.
VARY = ("seed", "train_images_sha256", "unpublished")
# What differs between the methods of a table, but not between the runs of one of them.
OF_METHOD = ("method", "recipe", "changed")
# Scores of detection that are not the largest of a method's logits.
OOD_SCORES = {"mcm": "MCM", "l_mcm": "L-MCM", "gl_mcm": "GL-MCM", "lsn": "LSN"}
OOD_SCORES |= {"transport": "largest φ"}
OF_PATCHES = ("l_mcm", "gl_mcm")
# The features of patches that they are of; see `Method.local`.
PATCHES = {"value": "value path", "vv": "V-V stream", "tokens": "last layer"}

Cells = dict[str, dict[str, list[float]]]  # accuracies over the seeds by row and column
Notes = dict[tuple[str, str], str]  # what is to be said of a cell, by row and column


def of_run(results: dict) -> str:
    """Writes the accuracies of one run and of its targets."""
    protocol, images = results["protocol"], results["images"]
    lines = [
        f"{protocol['dataset']}, {protocol['clip']}, {images['train']} training and "
        f"{images['test']} test images, seed {protocol['seed']}",
        *_accuracy_lines(results["method"], results["accuracy"]),
        *_learned_lines(results),
        *_calibration_lines(results),
    ]
    titles = _target_titles(results)
    for name, target in results["targets"].items():
        title = f"{protocol['dataset']}, new classes" if name == "new" else titles[name]
        lines += [f"{title}, {target['images']['test']} test images"]
        lines += _accuracy_lines(results["method"], target["accuracy"])
        lines += [f"  {target['note']}"] if target["note"] else []
    if "ood" in results:
        lines += [*_detection_lines(results), *threshold_lines(results)]
    return "\n".join(lines)


def counted(number: int, noun: str) -> str:
    """Writes a number of things, such as "1 run" or "2 runs"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def logits_title(method: Mapping, name: str) -> str:
    """Returns the title of a method's logits, such as "SOT-GLP, global only".

    Args:
      method: "method" of a results file.
      name: of the logits.
    """
    said = method["logits"][name]
    return f"{method['title']}, {said}" if said else method["title"]


def score_title(results: Mapping, score: str) -> str:
    """Returns the title of a score of detection, such as "GL-MCM, V-V stream".

    Args:
      results: contents of a `results.json` file.
      score: its name in "ood".
    """
    logits, local = results["method"]["logits"], results["ood"].get("local")
    if score in logits:
        return " ".join(filter(None, ("largest", logits[score], "logit")))
    title = OOD_SCORES.get(score, score)
    return f"{title}, {PATCHES[local]}" if score in OF_PATCHES and local in PATCHES else title


def deciding(method: Mapping, accuracy: Mapping[str, float]) -> str | None:
    """Returns the name of the first of a method's logits that have an accuracy."""
    return next((name for name in method["logits"] if name in accuracy), None)


def _accuracies(method: Mapping, accuracy: Mapping[str, float]) -> dict[str, float]:
    """Returns the accuracies of CLIP and of every logits of a method, by title."""
    names = {logits_title(method, name): name for name in method["logits"] if name != "zero_shot"}
    titles = {ZERO_SHOT: "zero_shot"} | names
    return {title: accuracy[name] for title, name in titles.items() if name in accuracy}


def _accuracy_lines(method: Mapping, accuracy: Mapping[str, float]) -> list[str]:
    found = _accuracies(method, accuracy)
    width = max(22, *(len(title) + 1 for title in found))
    return [f"  {title:<{width}}{value:>7.1%}" for title, value in found.items()]


def _learned_lines(results: dict) -> list[str]:
    """Writes what the method says it learned, but for what a setting at its usual value decides."""
    usual, config = results["method"]["usual"], results["config"]
    return [
        f"  {name}: " + ", ".join(f"{_short(value)} {key}" for key, value in values.items())
        for name, values in results["learned"].items()
        if name not in usual or config.get(f"method.{name}", usual[name]) != usual[name]
    ]


def _calibration_lines(results: dict) -> list[str]:
    """Writes what the temperature of the validation images did to the calibration error."""
    if not (found := results.get("calibration")):
        return []
    before, after = (100 * found["ece"][key] for key in ("before", "after"))
    images = counted(found["images"], "validation image")
    if found["right"] == 1:
        return [
            f"  calibration: ECE {before:.1f} %; all of {images} are right, so no temperature fits"
        ]
    fitted = found["temperature"][next(iter(results["method"]["logits"]))]
    said = f"divided by {fitted:.3g}, from {images}"
    return [f"  calibration: ECE {before:.1f} % before and {after:.1f} % after, logits {said}"]


def _short(value: float) -> str:
    """Writes whole numbers as they are."""
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _detection_lines(results: dict) -> list[str]:
    """Writes FPR95 and AUROC of every score and set."""
    scores = results["ood"]["scores"]
    sets = [*next(iter(scores.values()))["sets"], "mean"]
    lines = [
        "out of distribution: FPR95 / AUROC in %, and the threshold at 95 % recall",
        " " * 32 + "".join(f"{name:>16}" for name in sets) + f"{'threshold':>12}",
    ]
    for name, found in scores.items():
        columns = found["sets"] | {"mean": found["mean"]}
        cells = (f"{100 * columns[s]['fpr95']:.1f} / {100 * columns[s]['auroc']:.1f}" for s in sets)
        written = "".join(f"{cell:>16}" for cell in cells)
        title = score_title(results, name)
        lines.append(f"  {title:<30}{written}{found['threshold']:>12.4g}")
    return lines


def threshold_lines(results: Mapping) -> list[str]:
    """Writes what the threshold of predictions lets through, of the classes and of unknown images.

    Args:
      results: contents of a `results.json` file.
    """
    kept = results.get("ood_threshold", {})
    if not kept.get("unknown"):
        return []
    low, high = (100 * x for x in kept["interval"])
    images = f"{kept['images']} {'validation' if kept['part'] == 'val' else 'test'} images"
    how = {"recall": "at 95 % recall", "unknown": "chosen on half of the unknown images"}
    lines = [
        f"threshold of predictions, {how[kept['chosen']]}: {kept['value']:.4g}; it lets through "
        f"{100 * kept['passing']:.1f} % of {images}, so {low:.1f} to {high:.1f} % of others like "
        "them (95 % interval)"
    ]
    for name, one in kept["unknown"].items():
        said = f"{100 * one['flagged']:.1f} % of {counted(one['images'], 'image')} flagged"
        if not one["separates"]:
            said = f"the scores do not separate: AUROC {100 * one['auroc']:.0f} %; {said}"
        lines.append(f"  {name}: {said}")
    return lines


def check_comparable(results: Sequence[dict], vary: Sequence[str] = VARY) -> None:
    """Makes sure that results may stand in one table.

    Args:
      results: contents of `results.json` files.
      vary: fields of the protocol that may differ between the runs of one method.

    Raises:
      InputError: another field of two protocols differs; says which, and both values.
    """
    _check_equal(results, (*vary, *OF_METHOD))
    for title in {result["method"]["title"] for result in results}:
        _check_equal([r for r in results if r["method"]["title"] == title], vary)


def _check_equal(results: Sequence[dict], vary: Sequence[str]) -> None:
    for other in results[1:]:
        if found := difference(results[0], other, vary):
            key, ours, theirs = found
            raise InputError(
                f"results of {other['protocol']['dataset']} cannot stand in one table: their {key} "
                f"is {ours} in one run and {theirs} in another: evaluate or train one of them "
                "again."
            )


def difference(first: dict, other: dict, vary: Sequence[str]) -> tuple[str, Any, Any] | None:
    """Returns the first field that differs in two runs' protocols or in those of their targets.

    Args:
      first: contents of a `results.json` file.
      other: contents of another.
      vary: fields that may differ.

    Returns:
      The field and both values; None where nothing differs.
    """
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
    """Writes accuracy by number of shots, over the seeds."""
    check_comparable(results, (*VARY, "shots"))
    cells: Cells = {}
    for result in results:
        column = f"{result['protocol']['shots']}-shot"
        for title, value in _accuracies(result["method"], result["accuracy"]).items():
            cells.setdefault(title, {}).setdefault(column, []).append(value)
    return _write(results, cells)


def transfer(results: Sequence[dict]) -> str:
    """Writes accuracy on the data set of the training, on others, and the mean over the others."""
    check_comparable(results)
    cells, notes = _with_targets(results, results[0]["protocol"]["dataset"])
    _, *others = dict.fromkeys(column for row in cells.values() for column in row)
    for row in cells.values():
        values = [row.get(column, []) for column in others]
        if len({len(x) for x in values}) == 1:
            row["mean of others"] = [statistics.mean(x) for x in zip(*values, strict=True)]
    return _write(results, cells, notes)


def base_to_new(results: Sequence[dict]) -> str:
    """Writes accuracy on base and new classes, and H, the harmonic mean of their means."""
    check_comparable(results)
    cells, notes = _with_targets(results, "base")
    for row in cells.values():
        if row.keys() >= {"base", "new"}:
            means = [statistics.mean(row[column]) for column in ("base", "new")]
            row["H"] = [statistics.harmonic_mean(means)]
    return _write(results, cells, notes)


def settings(results: Sequence[dict]) -> str:
    """Writes accuracy by setting, which is "label" of each result, over the seeds."""
    check_comparable(results, (*VARY, "changed"))
    cells: Cells = {}
    for result in results:
        row, method = (
            cells.setdefault(result["label"], {}),
            result["method"] | {"title": "accuracy"},
        )
        for title, value in _accuracies(method, result["accuracy"]).items():
            row.setdefault(title.removeprefix("accuracy, "), []).append(value)
    return _write(results, cells)


TABLES: dict[str, Callable[[Sequence[dict]], str]] = {
    "few_shot": few_shot,
    "base_to_new": base_to_new,
    "transfer": transfer,
    "settings": settings,
}


def _with_targets(results: Sequence[dict], source: str) -> tuple[Cells, Notes]:
    """Returns accuracies on the data set of the training and on each target."""
    cells: Cells = {}
    notes: Notes = {}
    for result in results:
        titles, targets = _target_titles(result), result["targets"]
        columns = {source: result} | {titles[key]: target for key, target in targets.items()}
        for row, names in _rows(result["method"], columns.values()).items():
            row_cells = cells.setdefault(row, {})
            for column, part in columns.items():
                if name := next((x for x in names if x in part["accuracy"]), None):
                    row_cells.setdefault(column, []).append(part["accuracy"][name])
        said = {titles[key]: target["note"] for key, target in targets.items() if target["note"]}
        notes |= {(result["method"]["title"], column): note for column, note in said.items()}
    return cells, notes


def _rows(method: Mapping, parts: Iterable[Mapping]) -> dict[str, Sequence[str]]:
    """Returns the logits of each row, of which the first that are there count.

    They are CLIP, the method by the logits that decide on each target, and its other logits that
    there are on all targets.
    """
    found = [part["accuracy"] for part in parts]
    others = [name for name in [*method["logits"]][1:] if all(name in x for x in found)]
    rows = {ZERO_SHOT: ["zero_shot"], method["title"]: [*method["logits"]]}
    return rows | {logits_title(method, name): [name] for name in others}


def _target_titles(result: dict) -> dict[str, str]:
    """Returns titles of targets: a data set's name for its path, where that tells them apart."""
    names = {key: target["protocol"]["dataset"] for key, target in result["targets"].items()}
    taken = [result["protocol"]["dataset"], *names.values()]
    return {key: name if taken.count(name) == 1 else key for key, name in names.items()}


def _title(results: Sequence[dict]) -> str:
    protocols = [result["protocol"] for result in results]
    shots, seeds = (sorted({p[key] for p in protocols}) for key in ("shots", "seed"))
    recipes = " and ".join(dict.fromkeys(p["recipe"] for p in protocols))
    parts = [protocols[0]["dataset"], protocols[0]["clip"], f"recipe {recipes}"]
    parts += [f"{shots[0]} shots"] if len(shots) == 1 else []
    parts += ["accuracy in %"]
    if len(seeds) > 1:
        parts += [f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}"]
    else:
        parts += [f"seed {seeds[0]}"]
    return ", ".join(parts)


def unpublished(results: Sequence[dict]) -> list[str]:
    """Returns, by methods and data sets, what of their settings their authors have not published.

    Args:
      results: contents of `results.json` files.
    """
    said = {}
    for result in results:
        protocol = result["protocol"]
        if sentence := protocol.get("unpublished"):
            key = result["method"]["title"], sentence
            said.setdefault(key, []).append(protocol["dataset"])
    alike = {}
    for (title, sentence), sets in said.items():
        alike.setdefault((", ".join(dict.fromkeys(sets)), sentence), []).append(title)
    return [f"{', '.join(titles)} on {on}: {said}." for (on, said), titles in alike.items()]


def _write(results: Sequence[dict], cells: Cells, notes: Notes | None = None) -> str:
    """Writes a table; stars lead from cells to their notes below it."""
    notes = notes or {}
    stars = {note: "*" * n for n, note in enumerate(dict.fromkeys(notes.values()), 1)}
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    widths = [max(len(column), 11) + 2 for column in columns]
    label = max(20, *map(len, cells))
    lines = [
        _title(results),
        " " * (label + 2) + "".join(f"{c:>{w}}" for c, w in zip(columns, widths, strict=True)),
    ]
    for name, row in cells.items():
        written = (_cell(row.get(c)) + stars.get(notes.get((name, c)), "") for c in columns)
        line = "".join(f"{x:>{w}}" for x, w in zip(written, widths, strict=True))
        lines.append(f"  {name:<{label}}{line}")
    lines += [f"{star} {note}" for note, star in stars.items()]
    return "\n".join(lines + unpublished(results))


def _cell(values: list[float] | None) -> str:
    return spread([100 * x for x in values]) if values else "-"


def spread(values: Sequence[float]) -> str:
    """Writes mean ± standard deviation (n - 1), the mean alone of a single value; one decimal."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"
