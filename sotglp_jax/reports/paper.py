"""Makes the paper's Tables 1 to 4: our results, with the published numbers below them."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from sotglp_jax.data.catalog import BENCHMARKS
from sotglp_jax.reports.published import DIFFERENCE, MARK, PUBLISHED
from sotglp_jax.reports.results import Result, by_method, group_by, grouped, mains, methods
from sotglp_jax.reports.tables import (
    OOD_SCORES,
    ZERO_SHOT,
    logits_title,
    score_title,
    unpublished,
)

MISSING = "–"
MOST = 3  # values of a setting in a caption
ACCURACY = "Accuracy"
METHOD = "Method"  # the head of the labels that say whose a row is
ZERO_SHOT_NOTE = "zero-shot CLIP: one sentence a class; patches in CLIP's own projection."

Cell = dict[int, float]  # in %, by seed; the one key 0 for what no seed of ours decided
Numbers = dict[str, Cell]  # by column or by data set, without the missing ones


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as data.

    Attributes:
      name: of its files; "table1" is the paper's Table 1.
      caption: what is shown, and what all runs have in common.
      head: titles of the label columns, `METHOD` among them.
      columns: titles of the others; "↓" in one says that less is better.
      rows: cells by labels and column; what is not there is a missing cell.
      notes: below the table.
      unranked: columns without a best.
    """

    name: str
    caption: str
    head: tuple[str, ...]
    columns: tuple[str, ...]
    rows: dict[tuple[str, ...], Numbers]
    notes: tuple[str, ...]
    unranked: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        number = self.name.removeprefix("table")
        return self.caption if number == self.name else f"Table {number}: {self.caption}"

    def method(self, labels: tuple[str, ...]) -> str:
        """The label that says whose a row is."""
        return labels[self.head.index(METHOD)]

    def signed(self, labels: tuple[str, ...]) -> bool:
        """Whether a row is of differences, whose sign matters and which no one wins."""
        return self.method(labels).endswith(DIFFERENCE)

    def best(self) -> set[tuple[tuple[str, ...], str]]:
        """(labels, column) of every cell whose printed mean none of its rivals beats.

        Rivals have the same labels before the method, and are ours or published like the cell.
        """
        rivals: dict[tuple, dict[tuple, float]] = {}
        for labels, numbers in self.rows.items():
            if self.signed(labels):
                continue
            published = self.method(labels).endswith(MARK)
            for column in numbers.keys() - set(self.unranked):
                sign = -1 if "↓" in column else 1
                value = sign * float(f"{statistics.mean(numbers[column].values()):.1f}")
                group = (labels[: self.head.index(METHOD)], column, published)
                rivals.setdefault(group, {})[labels, column] = value
        return {
            cell
            for found in rivals.values()
            for cell, value in found.items()
            if len(found) > 1 and value == max(found.values())
        }


def make(results: Sequence[Result]) -> list[Table]:
    """Makes all four tables of results that `results.check` let pass."""
    shown = at_table_shots(results)
    tables = [(accuracy, shown), (ablation, shown), (detection, results), (by_shots, results)]
    return [_with_unpublished(table(of), of) for table, of in tables]


def _with_unpublished(table: Table, results: Sequence[Result]) -> Table:
    """Adds notes on the methods that stand in a table with settings that nobody published."""
    named = {*table.columns, *(label for labels in table.rows for label in labels)}
    shown = {name.partition(", ")[0] for name in named}
    found = [r.contents for r in results if r.method["title"] in shown]
    return dataclasses.replace(table, notes=(*table.notes, *unpublished(found)))


def table_shots(results: Sequence[Result]) -> int:
    """Returns the shots of Tables 1 to 3: 16 as in the paper, or the most there are instead.

    Args:
      results: of one data set, since others may have been run with other shots.
    """
    shots = {r.shots for r in results if r.learns}
    return PUBLISHED["shots"] if PUBLISHED["shots"] in shots or not shots else max(shots)


def at_shots(results: Sequence[Result], shots: int) -> list[Result]:
    """Returns the runs at a number of shots, and those that learn nothing and so need none."""
    return [r for r in results if r.shots == shots or not r.learns]


def at_table_shots(results: Sequence[Result]) -> list[Result]:
    """Returns, of every data set, the runs at its `table_shots`."""
    return [r for found in grouped(results).values() for r in at_shots(found, table_shots(found))]


def said_shots(results: Sequence[Result]) -> str:
    """Writes the shots of runs; "" where there are several, or nothing is learned."""
    shots = _shots(results)
    return f" at {shots[0]} shots" if len(shots) == 1 else ""


def dataset_titles(results: Sequence[Result]) -> dict[str, str]:
    """Returns the titles of data sets, with their shots where these are not the same of all.

    Args:
      results: of one number of shots for each data set.
    """
    several = len(_shots(results)) > 1
    return {
        d: ", ".join([dataset_title(d), *(f"{k} shots" for k in _shots(found) if several)])
        for d, found in grouped(results).items()
    }


def accuracy(results: Sequence[Result]) -> Table:
    """Makes Table 1: accuracy by data set of CLIP and of every method with all its logits."""
    results = at_table_shots(results)
    ours, printed = _zero_shot(results) | _logits(results), _published("table1", results)
    return _of_sets(1, "accuracy in %", results, _beside(ours, printed, _partners(results)))


def ablation(results: Sequence[Result]) -> Table:
    """Makes Table 2: accuracy by data set and variant, of methods that have variants here."""
    results = at_table_shots(results)
    names = [runs[0].method["name"] for runs in methods(results).values()]
    ablated = [
        r
        for r in results
        if names.count(r.method["name"]) > 1 or r.method["title"] in PUBLISHED["table2"]
    ]
    ours, printed = _variants(ablated) | _zero_shot(results), _published("table2", results)
    rows = _beside(ours, printed, {title: title for title in printed})
    return _of_sets(2, "ablation, accuracy in %", results, rows, ablated)


def detection(results: Sequence[Result]) -> Table:
    """Makes Table 3: accuracy, and FPR95 and AUROC of each out-of-distribution set, by score.

    Every number of shots that there are such results of has rows of its own.
    """
    with_scores = grouped([r for r in results if "ood" in r.contents])
    every = [r for found in with_scores.values() for r in found]
    rows: dict[tuple[str, ...], Numbers] = {}
    for dataset, found in with_scores.items():
        for k in _shots(found) or [PUBLISHED["shots"]]:
            title = dataset_title(dataset)
            title += f", {k} shots" * (len(_shots(every)) > 1 and k in _shots(found))
            own = _detected_rows(results, at_shots(found, k), dataset == "imagenet" and k)
            rows |= {(title, *labels): numbers for labels, numbers in own.items()}
    sets = dict.fromkeys(name for found in with_scores.values() for name in ood_sets(found))
    columns = [c for name in [*sets, "average"] if with_scores for c in _pair(name)]
    plain = any(ZERO_SHOT in labels for labels in rows)
    return Table(
        "table3",
        caption_of(f"accuracy and out-of-distribution detection in %{said_shots(every)}", results),
        ("ID data set", METHOD, "Score"),
        (ACCURACY, *columns),
        rows,
        _notes(3, rows, ACCURACY, *columns) + (ZERO_SHOT_NOTE,) * plain,
    )


def by_shots(results: Sequence[Result]) -> Table:
    """Makes Table 4: accuracy by data set, method and number of shots.

    A method that has runs at the shots of the other tables alone stands there, unless the paper
    has it here too.
    """
    rows: dict[tuple[str, str], Numbers] = {}
    for k in reversed(_shots(results)):
        found = at_shots(results, k)
        ours = _zero_shot(results) | _logits(found)
        ours |= {title: x for title, x in _variants(found).items() if title not in mains(found)}
        own = _beside(ours, _published("table4", results, k), _partners(found))
        for method, numbers in _averaged(own, results).items():
            for dataset, cell in numbers.items():
                rows.setdefault((dataset, method), {})[str(k)] = cell
    order, columns = [*grouped(results), "average"], tuple(map(str, _shots(results)))
    shared = {title for title, name in _partners(results).items() if name in PUBLISHED["table4"]}
    usual = {d: str(table_shots(found)) for d, found in grouped(results).items()}
    rows = {
        (dataset_title(dataset), method): dict(reversed(rows[dataset, method].items()))
        for dataset, method in sorted(rows, key=lambda x: order.index(x[0]))
        if len(columns) == 1
        or method in shared
        or [*rows[dataset, method]] != [usual.get(dataset, columns[-1])]
    }
    return Table(
        "table4",
        caption_of("accuracy in % by number of shots", results),
        ("Data set", METHOD),
        columns,
        rows,
        _notes(4, rows, *columns),
    )


def _shots(results: Sequence[Result]) -> list[int]:
    """Returns the shots of the runs that learn something, ascending."""
    return sorted({r.shots for r in results if r.learns})


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


def _logits(results: Sequence[Result]) -> dict[str, Numbers]:
    """Returns the accuracy by data set of all logits of the methods as they are."""
    found = {
        row: _by_set(runs, lambda r, name=name: accuracy_of(r, name))
        for title, runs in mains(results).items()
        for row, name in logits_rows(title, runs[0].method).items()
    }
    return {title: numbers for title, numbers in found.items() if numbers}


def _variants(results: Sequence[Result]) -> dict[str, Numbers]:
    """Returns the accuracy by data set of every method and variant."""
    found = {
        title: _by_set(runs, lambda r: r.accuracy)
        for title, runs in methods(results).items()
        if not runs[0].baseline
    }
    return {title: numbers for title, numbers in found.items() if numbers}


def _by_set(results: Sequence[Result], value: Callable[[Result], float | None]) -> Numbers:
    cells = {dataset: cell_of(found, value) for dataset, found in grouped(results).items()}
    return {dataset: cell for dataset, cell in cells.items() if cell}


def _partners(results: Sequence[Result]) -> dict[str, str]:
    """Returns the paper's name of each row of ours that it has: methods at their usual settings."""
    names = {ours: printed for printed, ours in PUBLISHED["methods"].items()}
    found = {ZERO_SHOT: names["zeroshot"]}
    for title, runs in mains(results).items():
        method = runs[0].method
        if title == method["title"] and method["name"] in names:
            found[next(iter(logits_rows(title, method)))] = names[method["name"]]
    return found


def _published(table: str, results: Sequence[Result], shots: int = 0) -> dict[str, Numbers]:
    """Returns printed numbers of our data sets, and the averages where those are all of theirs.

    Args:
      table: its key; Table 4 has a number for each of some numbers of shots.
      results: those of other shots than the table's have no printed numbers.
      shots: the column of Table 4.
    """
    sets = {d for d, found in grouped(results).items() if table_shots(found) == PUBLISHED["shots"]}
    if table == "table4":
        sets = set(grouped(results)) if shots in PUBLISHED["table4_shots"] else set()
    sets |= {"average"} if sets == PUBLISHED["titles"].keys() else set()
    at = PUBLISHED["table4_shots"].index(shots) if table == "table4" and sets else None
    return {
        name: {d: {0: x if at is None else x[at]} for d, x in numbers.items() if d in sets}
        for name, numbers in PUBLISHED[table].items()
        if sets & numbers.keys()
    }


def _beside(
    ours: Mapping[str, Numbers], printed: Mapping[str, Numbers], partners: Mapping[str, str]
) -> dict[str, Numbers]:
    """Puts below each row of ours what the paper prints, and the difference; then the paper's rest.

    Args:
      ours: numbers by row.
      printed: those of the paper, by its names.
      partners: the paper's names of rows of ours.
    """
    rows: dict[str, Numbers] = {}
    for title, numbers in ours.items():
        rows[title] = numbers
        if (name := partners.get(title)) in printed:
            rows[name + MARK] = printed[name]
            rows[name + DIFFERENCE] = _difference(numbers, printed[name])
    return rows | {name + MARK: x for name, x in printed.items() if name + MARK not in rows}


def _difference(ours: Numbers, printed: Numbers) -> Numbers:
    """Subtracts means; an average is then taken of the differences, since some are misprinted."""
    both = [name for name in ours if name in printed and name != "average"]
    return {c: {0: statistics.mean(ours[c].values()) - printed[c][0]} for c in both}


def _detected_rows(
    results: Sequence[Result], found: Sequence[Result], shots: int
) -> dict[tuple[str, str], Numbers]:
    """Returns the rows of one data set and number of shots, by method and score.

    Args:
      results: of the whole table, for the titles of methods.
      found: the runs of these rows.
      shots: of ImageNet's runs, whose published rows may stand there; False of others.
    """
    printed = PUBLISHED["table3"] if shots == PUBLISHED["shots"] else {}
    partners = {tuple(key): name for name, key in PUBLISHED["table3_rows"].items()}
    rows: dict[tuple[str, str], Numbers] = {}
    for title, runs in methods(results).items():
        of_patches = group_by(
            [r for r in runs if r in found], lambda r: r.contents["ood"].get("local")
        )
        for same in of_patches.values():
            for score in _scores(same[0]):
                method, said = same[0].method, score_title(same[0].contents, score)
                rows[title, said] = _detected(same, score)
                name = partners.get((method["name"], method["variant"], score))
                if title == method["title"] and name in printed:
                    theirs = _printed_rates(name, ood_sets(found))
                    rows[name + MARK, said] = theirs
                    rows[name + DIFFERENCE, said] = _difference(rows[title, said], theirs)
    shown = {method for method, _ in rows}
    left = [name for name in printed if name + MARK not in shown]
    scores = {n: OOD_SCORES.get(x[2], x[2]) for n, x in PUBLISHED["table3_rows"].items()}
    return rows | {(n + MARK, scores[n]): _printed_rates(n, ood_sets(found)) for n in left}


def _scores(result: Result) -> list[str]:
    """Returns the scores of a run; MCM where it has none of cosines, so that a dash says so."""
    found = list(result.contents["ood"]["scores"])
    return found if {"mcm", "gl_mcm"} & {*found} else ["mcm", *found]


def _printed_rates(name: str, sets: Sequence[str]) -> Numbers:
    printed = PUBLISHED["table3"][name]
    numbers = {ACCURACY: {0: printed["accuracy"]}}
    whole = ["average"] if set(sets) == PUBLISHED["ood_titles"].keys() else []
    for key in [*(s for s in sets if s in printed), *whole]:
        numbers |= {c: {0: x} for c, x in zip(_pair(key), printed[key], strict=True)}
    return numbers


def _detected(results: Sequence[Result], score: str) -> Numbers:
    numbers = {ACCURACY: cell_of(results, lambda r: r.accuracy)}
    for name in [*ood_sets(results), "average"]:
        for column, key in zip(_pair(name), ("fpr95", "auroc"), strict=True):
            numbers[column] = cell_of(results, lambda r, n=name, k=key: _rate(r, score, n, k))
    return {column: cell for column, cell in numbers.items() if cell}


def _rate(result: Result, score: str, name: str, key: str) -> float | None:
    """Returns FPR95 or AUROC of a score and an out-of-distribution set or their average, in %."""
    found = result.contents["ood"]["scores"].get(score)
    if found is None:
        return None
    return 100 * (found["mean"] if name == "average" else found["sets"][name])[key]


def _pair(name: str) -> tuple[str, str]:
    title = PUBLISHED["ood_titles"].get(name, "Average" if name == "average" else name)
    return f"{title} FPR95 ↓", f"{title} AUROC ↑"


def _averaged(found: Mapping[str, Numbers], results: Sequence[Result]) -> dict[str, Numbers]:
    """Adds the average over the paper's data sets to the rows that miss none of those here.

    Other data sets stand for themselves, and so do those of different shots.
    """
    sets = [d for d in grouped(results) if d in BENCHMARKS]
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
    number: int,
    what: str,
    results: Sequence[Result],
    rows: Mapping[str, Numbers],
    shown: Sequence[Result] = (),
) -> Table:
    """Makes a table with a column for each data set; its caption is of all results or of some."""
    said, titles = said_shots(results), dataset_titles(results) | {"average": "Average"}
    alike = len(_shots([r for r in results if r.dataset in BENCHMARKS])) < 2
    rows = _averaged(rows, results) if alike else rows
    there = [d for d in titles if any(d in numbers for numbers in rows.values())]
    columns = tuple(titles[d] for d in there)
    cells = {
        (method,): {titles[d]: x[d] for d in there if d in x} for method, x in rows.items() if x
    }
    caption, notes = caption_of(f"{what}{said}", shown or results), _notes(number, cells, *columns)
    return Table(f"table{number}", caption, (METHOD,), columns, cells, notes)


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
        said[method["title"]] = [
            f"{symbol} = {_listed({r.used(name) for r in runs})}"
            for name, symbol in method["symbols"].items()
        ]
    if len(said) == 1:
        return said.popitem()[1]
    return [f"{title}: {', '.join(values)}" for title, values in said.items() if values]


def _listed(values: Iterable) -> str:
    """Writes values, and of many, such as what every run searched, the least and the largest."""
    said = [f"{x:.3g}" if isinstance(x, float) else str(x) for x in sorted(values)]
    return ", ".join(said) if len(said) <= MOST else f"{said[0]} to {said[-1]}"


def _notes(number: int, rows: Mapping[tuple[str, ...], Numbers], *columns: str) -> tuple[str, ...]:
    if not rows:
        return ("No run has such results.",)
    notes = ["Best in bold, of ours and of the published each; of equal ones, all."]
    if any(c not in numbers for numbers in rows.values() for c in columns):
        notes += [f"{MISSING} is missing: there is no such run, score or published number."]
    labels = [label for row in rows for label in row]
    if any(label.endswith(MARK) for label in labels):
        notes += [f"{MARK.strip()} published: {PUBLISHED['source']} (CLIP {PUBLISHED['clip']})."]
        whole = number == 3 or {*PUBLISHED["titles"].values()} <= {*columns, *labels}
        notes += [n for n in PUBLISHED["notes"][str(number)] if whole or "average" not in n]
    if any(label.endswith(DIFFERENCE) for label in labels):
        notes += [f"{DIFFERENCE.strip()} is ours minus the published, in percentage points."]
    if "Average" in [*columns, *labels]:
        notes += [
            "The average is over the paper's data sets that are shown; of published numbers as "
            "printed if those are all of the paper's, of differences their mean."
        ]
    return tuple(notes)
