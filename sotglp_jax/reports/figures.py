"""Makes figures: where prompts look, accuracy against detection, over settings, training."""

import dataclasses
import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sotglp_jax.errors import InputError
from sotglp_jax.evaluators import maps
from sotglp_jax.evaluators.maps import Examples
from sotglp_jax.reports import gallery, paper
from sotglp_jax.reports.paper import (
    Cell,
    accuracy_of,
    at_shots,
    cell_of,
    dataset_title,
    logits_rows,
)
from sotglp_jax.reports.published import DIFFERENCE, MARK, PUBLISHED
from sotglp_jax.reports.results import (
    Result,
    by_method,
    by_value,
    group_by,
    grouped,
    identity,
    mains,
    methods,
)
from sotglp_jax.reports.tables import OOD_SCORES, ZERO_SHOT

# Paul Tol's muted colours for the colour-blind; markers and dashes tell lines apart in grey.
COLOURS = ("#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE", "#882255", "#44AA99", "#999933")
COLOURS += ("#AA4499", "#0077BB")
MARKERS = "osD^vPX<>ph"  # more than there are colours by one, so that pairs stay apart for long
DASHES = ("-", "--", "-.", ":")
GREY = "#8A8A8A"
PUBLISHED_LINE = {"linestyle": (0, (1, 1)), "marker": ""}
PUBLISHED_MARKERS = "osD^vPX<>phd*1234"
# Of Figure 3, the first that a method has; GL-MCM as in the paper.
SCORES = tuple(OOD_SCORES[name] for name in ("gl_mcm", "lsn", "mcm"))
PANEL = (4.2, 3.2)  # inches
ROWS = 4  # of Figure 2, if not told otherwise
LEGEND_ROW = 0.18  # inches
SPREAD = "mean and standard deviation over the seeds"


@dataclasses.dataclass(frozen=True)
class Picture:
    """Holds a figure of the report.

    Attributes:
      name: of its files.
      title: above it.
      caption: below it.
      figure: what is drawn.
    """

    name: str
    title: str
    caption: str
    figure: Figure


@gallery.literal
def make(results: Sequence[Result], classes: Sequence[str] = ()) -> list[Picture]:
    """Makes every figure that there are runs for.

    Args:
      results: what `results.check` let pass.
      classes: names of those in Figure 2; of a data set that has none of them the first few.

    Raises:
      InputError: a class that no run kept maps of.
    """
    pictures = [*_looks(results, classes), *_detection(results), *_shots(results)]
    for runs in by_method(results).values():
        for name in runs[0].method["symbols"]:
            pictures += _sweep(results, [r for r in runs if r.full], name)
    return pictures + list(_training(results))


def _looks(results: Sequence[Result], classes: Sequence[str]) -> Iterator[Picture]:
    """Draws Figure 2 of each data set, of one run at the shots of the tables."""
    shown = _examples(results)
    known = dict.fromkeys(name for _, examples in shown.values() for name in examples.names)
    if unknown := [name for name in classes if name not in known]:
        raise _no_maps(unknown[0], [*known])
    for dataset, (title, examples) in shown.items():
        named = [i for i, name in enumerate(examples.names) if name in classes]
        some = examples.take(named or range(len(examples.names))[:ROWS])
        yield Picture(
            f"figure2-{slug(dataset)}",
            f"Figure 2: where local prompts look, {dataset_title(dataset)}",
            f"{title}: the first test image of a class, what is said of it, and over it the "
            "cosines of its patches and each local prompt of the class with the prompt's three "
            "best patches, and their mean with the patches that are kept. Above each prompt: the "
            "share of the kept patches that the transport plan gives mostly to it.",
            gallery.draw(some.images, some.maps, titles(some)),
        )


def titles(examples: Examples) -> Sequence[str]:
    """Writes what a run says of its examples; of older versions' their class alone."""
    if examples.answers is None:
        return examples.names
    said = zip(*vars(examples.answers).values(), examples.names, strict=True)
    return [gallery.title(*one) for one in said]


def _no_maps(name: str, known: Sequence[str]) -> InputError:
    if not known:
        return InputError("no run here keeps maps: evaluate one again with --mode=eval.")
    others = f" and {len(known) - 20} others" if len(known) > 20 else ""
    return InputError(
        f'no run here keeps maps of a class "{name}", but of {", ".join(known[:20])}{others} (of '
        f"the first {maps.CLASSES} classes at most): name one of those."
    )


def _examples(results: Sequence[Result]) -> dict[str, tuple[str, Examples]]:
    """Returns, by data set, what run is the first that has maps, and its images."""
    found: dict[str, tuple[str, Examples]] = {}
    for dataset, group in grouped(results).items():
        usual = paper.table_shots(group)
        runs = [(title, r) for title, runs in methods(group).items() for r in runs]
        for title, run in sorted(runs, key=lambda x: (x[1].shots != usual, x[1].seed)):
            if dataset not in found and (examples := maps.load(run.folder)):
                found[dataset] = f"{title}, {run.shots} shots, seed {run.seed}", examples
    return found


def _detection(results: Sequence[Result]) -> Iterator[Picture]:
    """Draws Figure 3 of each data set; with published points where it is ImageNet."""
    table, styles = paper.detection(results), styles_of(results)
    for title in dict.fromkeys(labels[0] for labels in table.rows):
        own = _points({labels[1:]: row for labels, row in table.rows.items() if labels[0] == title})
        printed = _printed_styles(results, own)
        figure, panels = panels_of(2, height=4.0)
        for axes, rate in zip(panels, ("FPR95 ↓", "AUROC ↑"), strict=True):
            _scatter(axes, own, f"Average {rate}", styles | printed)
            axes.set(xlabel=f"accuracy on {title} in %", ylabel=f"average {rate} in %")
        legend(figure)
        published = f" Hollow or {MARK.strip()}: published." if printed else ""
        yield Picture(
            f"figure3-{slug(title)}",
            f"Figure 3: accuracy and detection, {title}",
            f"Accuracy against FPR95 and AUROC of {SCORES[0]}, or of "
            f"{SCORES[-1]} where a method has no local features, averaged over the "
            f"out-of-distribution sets; Table 3 says which patches.{published}",
            figure,
        )


def _points(rows: Mapping[tuple[str, str], Mapping]) -> dict[str, Mapping]:
    """Returns, by method, the row of the score that Figure 3 is of: of ours, then of the paper's.

    The paper has rows of the same method under several names, of which one is taken too.
    """
    found, printed = {}, {}
    for wanted in reversed(SCORES):
        for (method, score), row in rows.items():
            if score.partition(", ")[0] != wanted or method.endswith(DIFFERENCE):
                continue
            if method.endswith(MARK):
                printed[_printed_method(method)] = method
            else:
                found[method] = row
    kept = {*printed.values()}
    return found | {method: row for (method, _), row in rows.items() if method in kept}


def _printed_method(name: str) -> tuple[str, str]:
    """Returns the name and the variant of the method that a published row is of."""
    return tuple(PUBLISHED["table3_rows"][name.removesuffix(MARK)][:2])


def _printed_styles(results: Sequence[Result], points: Mapping[str, Mapping]) -> dict[str, dict]:
    """Returns the styles of published points: hollow ones of ours where there is such a method."""
    ours = {
        tuple(r.method[x] for x in ("name", "variant")): t
        for t, (r, *_) in methods(results).items()
    }
    styles, forms, found = styles_of(results), iter(PUBLISHED_MARKERS), {}
    for name in (x for x in points if x.endswith(MARK)):
        title = ours.get(_printed_method(name))
        if title in points:
            found[name] = styles[title] | {"markerfacecolor": "none", "label": "_hollow"}
            found[name] |= {"markeredgecolor": styles[title]["color"], "markeredgewidth": 1.4}
        else:
            found[name] = {"color": GREY, "marker": next(forms), "label": name, "zorder": 1}
    return found


def _scatter(axes: Axes, rows: Mapping[str, Mapping], column: str, styles: Mapping) -> None:
    """Draws points, ours with standard deviations."""
    for method, row in rows.items():
        if column not in row:
            continue
        (x, dx), (y, dy) = _spread(row[paper.ACCURACY]), _spread(row[column])
        style = styles[method] | {"linestyle": "", "markersize": 9}
        style["marker"] = style["marker"] or "*"  # zero-shot CLIP is a line elsewhere
        axes.errorbar(x, y, dy or None, dx or None, elinewidth=0.8, **style)


def _shots(results: Sequence[Result]) -> Iterator[Picture]:
    """Draws accuracy over the number of shots, a panel for each data set that was run with some."""
    table, styles = paper.by_shots(results), styles_of(results)
    ours = {labels: row for labels, row in table.rows.items() if MARK.strip() not in labels[1]}
    several = [x for x, row in ours.items() if len(row) > 1 and x[1] != ZERO_SHOT]
    if not several:
        return
    sets = list(dict.fromkeys(title for title, _ in several))
    figure, panels = panels_of(len(sets))
    for axes, title in zip(panels, sets, strict=True):
        for method, style in styles.items():
            row = table.rows.get((title, method), {})
            if len(row) > 1:
                _curve(axes, {int(k): cell for k, cell in row.items()}, style)
        axes.set_xscale("log", base=2)
        axes.set_xticks([int(k) for k in table.columns], table.columns)
        axes.set_xticks([], minor=True)
        axes.set(title=title, xlabel="training images per class", ylabel="accuracy in %")
    legend(figure)
    title = "Accuracy over the number of shots"
    yield Picture("shots", title, f"{SPREAD.capitalize()}.", figure)


def _sweep(results: Sequence[Result], runs: Sequence[Result], name: str) -> Iterator[Picture]:
    """Draws accuracy over one setting, from runs that differ in it and in their seed alone.

    Args:
      results: all of the report.
      runs: of one method, as it is.
      name: of the setting.
    """
    groups = group_by(runs, lambda r: identity(r, name)).values()
    swept = [x for group in groups if len(x := by_value(group, name)) > 1]
    if not swept:
        return
    method, styles = runs[0].method, styles_of(results)
    figure, panels = panels_of(len(swept))
    for axes, title, group in zip(panels, _told_apart(swept, name), swept, strict=True):
        for row, logits in logits_rows(method["title"], method).items():
            cells = [cell_of(x, lambda r, k=logits: accuracy_of(r, k)) for x in group.values()]
            _curve(axes, dict(enumerate(cells)), styles[row])
        axes.set_xticks(range(len(group)), [f"{value:g}" for value in group])
        symbol = method["symbols"][name]
        axes.set(title=title, xlabel=f"{symbol}, evenly spaced", ylabel="accuracy in %")
    legend(figure)
    yield Picture(
        slug(f"{method['name']}-{name}"),
        f"{method['title']}: accuracy over {symbol}",
        f"All else being equal; {SPREAD}.",
        figure,
    )


def _told_apart(swept: Sequence[Mapping[float, list[Result]]], free: str) -> list[str]:
    """Writes a title for each group of runs: data set, shots, and what is not the same in all."""
    firsts = [next(iter(group.values()))[0] for group in swept]
    symbols = firsts[0].method["symbols"]
    names = sorted({name for r in firsts for name in r.changed} - {free})
    names = [n for n in names if any(r.setting(n) != firsts[0].setting(n) for r in firsts)]
    return [
        f"{dataset_title(r.dataset)}, {r.shots} shots"
        + "".join(f", {symbols.get(name, name)} = {r.setting(name)}" for name in names)
        for r in firsts
    ]


def _training(results: Sequence[Result]) -> Iterator[Picture]:
    """Draws loss and accuracy on the training images over the steps, for each data set."""
    styles = styles_of(results)
    for dataset, group in grouped(results).items():
        shots = paper.table_shots(group)
        figure, panels = panels_of(2)
        for title, found in methods(results).items():
            correct = [f"accuracy_{name}" for name in found[0].method["logits"]]
            runs = [r for r in reversed(at_shots(found, shots)) if r.dataset == dataset]
            seeds = {r.seed: _metrics(r.folder) for r in runs}
            for axes, keys, scale in zip(panels, (["loss"], correct), (1, 100), strict=True):
                series = [_series(lines, keys, scale) for lines in seeds.values()]
                _band(axes, series, styles[title])
        if not any(axes.lines for axes in panels):
            continue
        title = f"{dataset_title(dataset)}, {shots} shots"
        panels[0].set(title=title, xlabel="step", ylabel="training loss")
        panels[1].set(title=title, xlabel="step", ylabel="training accuracy in %")
        legend(figure)
        caption = "Mean over the seeds, and their range."
        caption += " Losses of different methods are sums of different terms."
        yield Picture(f"training-{slug(dataset)}", f"Training, {title}", caption, figure)


def _metrics(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]  # a kill cuts one short


def _series(lines: Sequence[dict], keys: Sequence[str], scale: float) -> dict[int, float]:
    """Returns, by step, the first of some metrics that is there."""
    found = {line["step"]: [line[key] for key in keys if key in line] for line in lines}
    return {step: scale * values[0] for step, values in found.items() if values}


def _band(axes: Axes, series: Sequence[Mapping[int, float]], style: Mapping) -> None:
    steps = sorted({step for one in series for step in one})
    values = [[one[step] for one in series if step in one] for step in steps]
    if steps:
        style = style if len(steps) == 1 else style | {"marker": ""}
        axes.plot(steps, [statistics.mean(x) for x in values], **style)
        low, high = [min(x) for x in values], [max(x) for x in values]
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _curve(axes: Axes, cells: Mapping[float, Cell], style: Mapping) -> None:
    """Draws means, with standard deviations as bars."""
    spreads = {x: _spread(cell) for x, cell in sorted(cells.items()) if cell}
    if spreads:
        means, deviations = zip(*spreads.values(), strict=True)
        bars = deviations if any(deviations) else None
        axes.errorbar(list(spreads), means, bars, elinewidth=0.8, **style)


def _spread(cell: Cell) -> tuple[float, float]:
    """Computes mean and standard deviation; the latter is 0 of a single value."""
    values = list(cell.values())
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def styles_of(results: Sequence[Result]) -> dict[str, dict]:
    """Returns the style of each row by its title: the same in every figure of a report."""
    styles, full = {}, mains(results)
    for i, (title, runs) in enumerate(methods(results).items()):
        styles[title] = _style(i, i, i)
        if title in full:
            method = runs[0].method
            for name in (title, method["title"]):
                rows = enumerate(logits_rows(name, method))
                styles |= {row: _style(i, i + j, j) for j, row in rows}
            styles[method["title"] + MARK] = _style(i, i, i) | PUBLISHED_LINE
    styles[ZERO_SHOT] = {"color": "black", "linestyle": ":", "marker": "", "linewidth": 1.2}
    return {title: style | {"label": title} for title, style in styles.items()}


def _style(colour: int, marker: int, dash: int) -> dict:
    return {
        "color": COLOURS[colour % len(COLOURS)],
        "marker": MARKERS[marker % len(MARKERS)],
        "linestyle": DASHES[dash % len(DASHES)],
        "markersize": 6,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "linewidth": 1.4,
    }


def panels_of(count: int, height: float = PANEL[1]) -> tuple[Figure, list[Axes]]:
    """Makes a figure with that many axes, two in a row."""
    columns, rows = min(count, 2), -(-count // 2)
    figure = Figure((PANEL[0] * columns, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.grid(alpha=0.3)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def legend(figure: Figure) -> None:
    """Draws one legend below all panels, for which the figure grows."""
    pairs = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {label: h for hs, labels in pairs for h, label in zip(hs, labels, strict=True)}
    columns = min(2, len(figure.axes))
    rows = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * (rows + 1))
    options = {"ncols": columns, "fontsize": 8}
    figure.legend(handles.values(), handles, loc="outside lower center", **options)


def slug(name: str) -> str:
    """Returns a name as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", name).lower()
