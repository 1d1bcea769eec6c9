"""Makes the paper's Tables 1 to 4: our results, and the published numbers beside them."""

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from sotglp_jax.reports.results import Result, by_method, grouped, mains, methods
from sotglp_jax.reports.tables import ZERO_SHOT, logits_title, score_title, unpublished

PUBLISHED = json.loads(
    (Path(__file__).parent.parent / "assets" / "published.json").read_text("utf-8")
)
MARK = " †"  # behind the name of a published row or column
MISSING = "–"
ACCURACY = "Accuracy"
ZERO_SHOT_NOTE = "zero-shot CLIP: one sentence a class; patches in CLIP's own projection."

Cell = dict[int, float]  # in %, by seed; the one key 0 for what no seed of ours decided
Numbers = dict[str, Cell]  # by column or by data set, without the missing ones


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as data.

    Attributes:
      name: of its files; "table1" is the paper's Table 1.
      caption: what is shown, and what all runs have in common.
      head: titles of the label columns.
      columns: titles of the others; "↓" in one says that less is better.
      rows: cells by labels and column; what is not there is a missing cell.
      best_of: "row", or "column": among the rows with the same first label.
      notes: below the table.
      unranked: columns without a best.
    """

    name: str
    caption: str
    head: tuple[str, ...]
    columns: tuple[str, ...]
    rows: dict[tuple[str, ...], Numbers]
    best_of: str
    notes: tuple[str, ...]
    unranked: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        number = self.name.removeprefix("table")
        return self.caption if number == self.name else f"Table {number}: {self.caption}"

    def best(self) -> set[tuple[tuple[str, ...], str]]:
        """(labels, column) of every cell whose printed mean none of its rivals beats."""
        rivals: dict[tuple, dict[tuple, float]] = {}
        for labels, numbers in self.rows.items():
            for column in numbers.keys() - set(self.unranked):
                cell = numbers[column]
                group = (labels, "") if self.best_of == "row" else (labels[0], column)
                sign = -1 if "↓" in column else 1
                value = sign * float(f"{statistics.mean(cell.values()):.1f}")
                rivals.setdefault(group, {})[labels, column] = value
        return {
            cell
            for found in rivals.values()
            for cell, value in found.items()
            if len(found) > 1 and value == max(found.values())
        }


def make(results: Sequence[Result]) -> list[Table]:
    """Makes all four tables of results that `results.check` let pass."""
    tables = [table(results) for table in (accuracy, ablation, detection, by_shots)]
    return [_with_unpublished(table, results) for table in tables]


def _with_unpublished(table: Table, results: Sequence[Result]) -> Table:
    """Adds notes on the methods that stand in a table with settings that nobody published."""
    named = {*table.columns, *(label for labels in table.rows for label in labels)}
    shown = {name.partition(", ")[0] for name in named}
    found = [r.contents for r in results if r.method["title"] in shown]
    return dataclasses.replace(table, notes=(*table.notes, *unpublished(found)))


def table_shots(results: Sequence[Result]) -> int:
    """Returns the shots of Tables 1 to 3: 16 as in the paper, or the most there are instead."""
    shots = {r.shots for r in results if r.learns}
    return PUBLISHED["shots"] if PUBLISHED["shots"] in shots or not shots else max(shots)


def at_shots(results: Sequence[Result], shots: int) -> list[Result]:
    """Returns the runs at a number of shots, and those that learn nothing and so need none."""
    return [r for r in results if r.shots == shots or not r.learns]


def accuracy(results: Sequence[Result]) -> Table:
    """Makes Table 1: accuracy by data set of CLIP, every method with all its logits, and others."""
    shots = table_shots(results)
    published = PUBLISHED["table1"] if shots == PUBLISHED["shots"] else {}
    columns = _zero_shot(results) | _logits(results, shots) | _published(published, results)
    return _of_sets(1, f"accuracy in % at {shots} shots", results, columns)


def ablation(results: Sequence[Result]) -> Table:
    """Makes Table 2: accuracy by data set and variant, of methods that have variants here."""
    shots = table_shots(results)
    published = PUBLISHED["table2"] if shots == PUBLISHED["shots"] else {}
    names = [runs[0].method["name"] for runs in methods(results).values()]
    ablated = [
        r
        for r in results
        if names.count(r.method["name"]) > 1 or r.method["title"] in PUBLISHED["table2"]
    ]
    columns = _variants(ablated, shots) | _zero_shot(results) | _published(published, results)
    return _of_sets(2, f"ablation, accuracy in % at {shots} shots", results, columns)


def detection(results: Sequence[Result]) -> Table:
    """Makes Table 3: accuracy, and FPR95 and AUROC of each out-of-distribution set, by score."""
    shots = table_shots(results)
    with_scores = grouped([r for r in at_shots(results, shots) if "ood" in r.contents])
    rows: dict[tuple[str, ...], Numbers] = {}
    for dataset, found in with_scores.items():
        for title, runs in methods(results).items():
            runs = [r for r in runs if r in found]
            for score in runs[0].contents["ood"]["scores"] if runs else ():
                labels = dataset_title(dataset), title, score_title(runs[0].contents, score)
                rows[labels] = _detected(runs, score)
        if dataset == "imagenet" and shots == PUBLISHED["shots"]:
            rows |= _published_detection(ood_sets(found))
    sets = dict.fromkeys(name for found in with_scores.values() for name in ood_sets(found))
    columns = [c for name in [*sets, "average"] if with_scores for c in _pair(name)]
    plain = any(ZERO_SHOT in labels for labels in rows)
    return Table(
        "table3",
        caption_of(f"accuracy and out-of-distribution detection in % at {shots} shots", results),
        ("ID data set", "Method", "Score"),
        (ACCURACY, *columns),
        rows,
        "column",
        _notes(3, rows, ACCURACY, *columns) + (ZERO_SHOT_NOTE,) * plain,
    )


def by_shots(results: Sequence[Result]) -> Table:
    """Makes Table 4: accuracy by data set, method and number of shots."""
    shots = sorted({r.shots for r in results if r.learns})
    cells: dict[tuple[str, str], Numbers] = {}
    full = mains(results)  # which stand there with all their logits
    for k in shots:
        found = _zero_shot(results) | _logits(results, k)
        found |= {title: x for title, x in _variants(results, k).items() if title not in full}
        found |= _published_at(k, results)
        for method, numbers in _averaged(found, results).items():
            for dataset, cell in numbers.items():
                cells.setdefault((dataset, method), {})[str(k)] = cell
    order = [*grouped(results), "average"]
    rows = {
        (dataset_title(dataset), method): cells[dataset, method]
        for dataset, method in sorted(cells, key=lambda x: (order.index(x[0]), MARK in x[1]))
    }
    return Table(
        "table4",
        caption_of("accuracy in % by number of shots", results),
        ("Data set", "Method"),
        tuple(map(str, shots)),
        rows,
        "column",
        _notes(4, rows, *map(str, shots)),
    )


def dataset_title(name: str) -> str:
    """Returns the name of a data set as the paper writes it."""
    return PUBLISHED["titles"].get(name, "Average" if name == "average" else name)


def ood_sets(results: Sequence[Result]) -> list[str]:
    """Returns, of results of one data set, the names of the out-of-distribution sets."""
    return [name for name in results[0].contents["ood"]["images"] if name != "test"]


def cell_of(results: Iterable[Result], value: Callable[[Result], float | None]) -> Cell:
    """Collects a value of each seed's run; of a repeated run the first counts.

    Args:
      results: of one method, data set and number of shots.
      value: of a result, None where it has none.
    """
    found = [(r.seed, value(r)) for r in results]
    return {seed: x for seed, x in reversed(found) if x is not None}


def accuracy_of(result: Result, name: str) -> float | None:
    """Returns the accuracy of some logits, or of "zero_shot", in %; None where there is none."""
    found = result.contents["accuracy"]
    return 100 * found[name] if name in found else None


def logits_rows(title: str, method: Mapping) -> dict[str, str]:
    """Returns the names of a method's logits by the titles of their rows.

    Args:
      title: of the method, as `results.methods` gives it.
      method: "method" of a results file.
    """
    return {logits_title(method | {"title": title}, name): name for name in method["logits"]}


def _zero_shot(results: Sequence[Result]) -> dict[str, Numbers]:
    """Returns the accuracy of CLIP by data set: one number, for no seed changes it."""
    numbers = _by_set(results, lambda r: accuracy_of(r, "zero_shot"))
    alike = {d: {0: x} for d, c in numbers.items() for x in c.values() if len({*c.values()}) == 1}
    return {ZERO_SHOT: numbers | alike}


def _logits(results: Sequence[Result], shots: int) -> dict[str, Numbers]:
    """Returns the accuracy by data set of all logits of the methods as they are."""
    found = {
        row: _by_set(at_shots(runs, shots), lambda r, name=name: accuracy_of(r, name))
        for title, runs in mains(results).items()
        for row, name in logits_rows(title, runs[0].method).items()
    }
    return {title: numbers for title, numbers in found.items() if numbers}


def _variants(results: Sequence[Result], shots: int) -> dict[str, Numbers]:
    """Returns the accuracy by data set of every method and variant."""
    found = {
        title: _by_set(at_shots(runs, shots), lambda r: r.accuracy)
        for title, runs in methods(results).items()
        if not runs[0].baseline
    }
    return {title: numbers for title, numbers in found.items() if numbers}


def _by_set(results: Sequence[Result], value: Callable[[Result], float | None]) -> Numbers:
    cells = {dataset: cell_of(found, value) for dataset, found in grouped(results).items()}
    return {dataset: cell for dataset, cell in cells.items() if cell}


def _published(printed: Mapping[str, Mapping[str, float]], results) -> dict[str, Numbers]:
    """Returns printed numbers of our data sets, and the averages where those are all of theirs."""
    sets = set(grouped(results))
    sets |= {"average"} if sets == PUBLISHED["titles"].keys() else set()
    found = {
        method + MARK: {d: {0: x} for d, x in numbers.items() if d in sets}
        for method, numbers in printed.items()
    }
    return {method: numbers for method, numbers in found.items() if numbers}


def _published_at(shots: int, results: Sequence[Result]) -> dict[str, Numbers]:
    """Returns the column of the paper's Table 4 for a number of shots."""
    if shots not in PUBLISHED["table4_shots"]:
        return {}
    i = PUBLISHED["table4_shots"].index(shots)
    printed = {m: {d: x[i] for d, x in sets.items()} for m, sets in PUBLISHED["table4"].items()}
    return _published(printed, results)


def _published_detection(sets: Sequence[str]) -> dict[tuple[str, ...], Numbers]:
    rows = {}
    for method, printed in PUBLISHED["table3"].items():
        numbers = {ACCURACY: {0: printed["accuracy"]}}
        whole = ["average"] if set(sets) == PUBLISHED["ood_titles"].keys() else []
        for name in [*(s for s in sets if s in printed), *whole]:
            numbers |= {c: {0: x} for c, x in zip(_pair(name), printed[name], strict=True)}
        rows[dataset_title("imagenet"), method + MARK, ""] = numbers
    return rows


def _detected(results: Sequence[Result], score: str) -> Numbers:
    numbers = {ACCURACY: cell_of(results, lambda r: r.accuracy)}
    for name in [*ood_sets(results), "average"]:
        for column, key in zip(_pair(name), ("fpr95", "auroc"), strict=True):
            numbers[column] = cell_of(results, lambda r, n=name, k=key: _rate(r, score, n, k))
    return numbers


def _rate(result: Result, score: str, name: str, key: str) -> float:
    """Returns FPR95 or AUROC of a score and an out-of-distribution set or their average, in %."""
    found = result.contents["ood"]["scores"][score]
    return 100 * (found["mean"] if name == "average" else found["sets"][name])[key]


def _pair(name: str) -> tuple[str, str]:
    title = PUBLISHED["ood_titles"].get(name, "Average" if name == "average" else name)
    return f"{title} FPR95 ↓", f"{title} AUROC ↑"


def _averaged(found: Mapping[str, Numbers], results: Sequence[Result]) -> dict[str, Numbers]:
    """Adds the average over several data sets to the methods that miss none."""
    sets = list(grouped(results))
    averages = {
        method: {"average": _average([numbers[d] for d in sets])}
        for method, numbers in found.items()
        if len(sets) > 1 and numbers.keys() >= set(sets)
    }
    return {method: averages.get(method, {}) | numbers for method, numbers in found.items()}


def _average(cells: Sequence[Cell]) -> Cell:
    """Averages cells, seed by seed where all are of the same seeds."""
    if all(cell.keys() == cells[0].keys() for cell in cells):
        return {seed: statistics.mean(cell[seed] for cell in cells) for seed in cells[0]}
    return {0: statistics.mean(statistics.mean(cell.values()) for cell in cells)}


def _of_sets(
    number: int, what: str, results: Sequence[Result], columns: Mapping[str, Numbers]
) -> Table:
    """Makes a table with a row for each data set."""
    columns = _averaged(columns, results)
    average = ["average"] * any("average" in numbers for numbers in columns.values())
    rows = {
        (dataset_title(d),): {title: x[d] for title, x in columns.items() if d in x}
        for d in [*grouped(results), *average]
    }
    caption, notes = caption_of(what, results), _notes(number, rows, *columns)
    return Table(f"table{number}", caption, ("Data set",), tuple(columns), rows, "row", notes)


def caption_of(what: str, results: Sequence[Result]) -> str:
    """Writes what is shown, and what the runs of the tables have in common."""
    learned = [r for r in results if r.learns] or results
    recipes = dict.fromkeys(r.contents["protocol"]["recipe"] for r in learned)
    clip = results[0].contents["protocol"]["clip"]
    parts = [what, f"CLIP {clip}", f"recipe {' and '.join(recipes)}", *_symbols(results)]
    seeds = sorted({r.seed for r in learned if r.learns})
    if len(seeds) > 1:
        parts += [f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}"]
    elif seeds:
        parts += [f"seed {seeds[0]}"]
    return "; ".join(parts)


def _symbols(results: Sequence[Result]) -> list[str]:
    """Writes, of each method as it is, the values of the settings with symbols."""
    full = by_method([r for runs in methods(results).values() for r in runs if r.full])
    said = {}
    for runs in full.values():
        method = runs[0].method
        values = {
            x: sorted({r.setting(name) for r in runs}) for name, x in method["symbols"].items()
        }
        said[method["title"]] = [f"{x} = {', '.join(map(str, v))}" for x, v in values.items()]
    if len(said) == 1:
        return said.popitem()[1]
    return [f"{title}: {', '.join(values)}" for title, values in said.items() if values]


def _notes(number: int, rows: Mapping[tuple[str, ...], Numbers], *columns: str) -> tuple[str, ...]:
    if not rows:
        return ("No run has such results.",)
    notes = ["Best in bold; of equal ones, all."]
    if any(c not in numbers for numbers in rows.values() for c in columns):
        notes += [f"{MISSING} is missing: there is no such run or published number."]
    if any(MARK in name for name in [*columns, *(x for labels in rows for x in labels)]):
        notes += [f"{MARK.strip()} published: {PUBLISHED['source']} (CLIP {PUBLISHED['clip']})."]
        shown = [" ".join([*labels, c]) for labels, numbers in rows.items() for c in numbers]
        averages = any("Average" in text and MARK in text for text in shown)
        notes += [n for n in PUBLISHED["notes"][str(number)] if averages or "average" not in n]
    if any("Average" in labels for labels in rows):
        notes += [
            "The average is over the data sets shown; of published numbers as printed if those "
            "are all of the paper's."
        ]
    return tuple(notes)
