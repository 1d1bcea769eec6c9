"""The report's figures: where prompts look, accuracy against detection, over settings, training."""

import dataclasses
import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from sotglp_jax import maps
from sotglp_jax.errors import InputError
from sotglp_jax.maps import Examples
from sotglp_jax.reports import gallery, paper
from sotglp_jax.reports.paper import BRANCHES, MARK, Cell, branch, cell_of, dataset_title
from sotglp_jax.reports.results import (
    SWEPT,
    VARIANTS,
    Result,
    differing,
    grouped,
    methods,
    settings_but,
)

# Paul Tol's muted colours for the colour-blind; markers and dashes tell lines apart in grey.
COLOURS = ("#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE", "#882255", "#44AA99", "#999933")
COLOURS += ("#AA4499", "#000000")
MARKERS = "osD^vPX<>p"
DASHES = ("-", "--", "-.", ":")
GREY = "#8A8A8A"
SCORE = "GL-MCM"  # of Figure 3, as in the paper
PANEL = (4.2, 3.2)  # inches
ROWS = 4  # of Figure 2, if not told otherwise
LEGEND_ROW = 0.18  # inches
SPREAD = "mean and standard deviation over the seeds"
LOSS = ("loss",)
CORRECT = ("accuracy_fused", "accuracy_global", "accuracy_local")
# Where the name of a point may stand around it, in points of type, nearest first.
OFFSETS = sorted(
    ((x, y) for x in range(-90, 91, 6) for y in range(-60, 61, 4) if x and math.hypot(x, y) > 5),
    key=lambda offset: math.hypot(*offset),
)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure of the report.

    Attributes:
      name: of its files.
      caption: below it.
      figure: what is drawn.
    """

    name: str
    caption: str
    figure: Figure


@gallery.literal
def make(results: Sequence[Result], classes: Sequence[str] = ()) -> list[Picture]:
    """Every figure that there are runs for.

    Args:
      results: what `results.check` let pass.
      classes: names of those in Figure 2; of a data set that has none of them the first few.

    Raises:
      InputError: a class that no run kept maps of.
    """
    pictures = [*_looks(results, classes), *_detection(results), *_shots(results)]
    for key in SWEPT:
        pictures += _sweep(results, key)
    return pictures + list(_training(results))


def _looks(results: Sequence[Result], classes: Sequence[str]) -> Iterator[Picture]:
    """Figure 2 of each data set, of one run at the shots of the tables."""
    shown = _examples(results)
    known = dict.fromkeys(name for _, examples in shown.values() for name in examples.names)
    if unknown := [name for name in classes if name not in known]:
        raise _no_maps(unknown[0], [*known])
    for dataset, (title, examples) in shown.items():
        named = [i for i, name in enumerate(examples.names) if name in classes]
        some = examples.take(named or range(len(examples.names))[:ROWS])
        yield Picture(
            f"figure2-{_slug(dataset)}",
            f"Figure 2, {dataset_title(dataset)}, {title}: the first test image of a class, the "
            "cosines of its patches and each local prompt of the class with the prompt's three "
            "best patches, and their mean with the patches that are kept. Above each prompt: the "
            "share of the kept patches that the transport plan gives mostly to it.",
            gallery.draw(some.images, some.maps, some.names),
        )


def _no_maps(name: str, known: Sequence[str]) -> InputError:
    if not known:
        return InputError("no run here keeps maps: evaluate one again with --mode=eval.")
    others = f" and {len(known) - 20} others" if len(known) > 20 else ""
    return InputError(
        f'no run here keeps maps of a class "{name}", but of {", ".join(known[:20])}{others} (of '
        f"the first {maps.CLASSES} classes at most): name one of those."
    )


def _examples(results: Sequence[Result]) -> dict[str, tuple[str, Examples]]:
    """By data set, of the first variant and seed that has some: what run it is, and its images."""
    shots = paper.table_shots(results)
    found: dict[str, tuple[str, Examples]] = {}
    for title, runs in methods(results).items():
        for run in sorted(runs, key=lambda r: r.seed):
            if run.shots == shots and run.dataset not in found:
                if examples := maps.read(run.folder):
                    found[run.dataset] = f"{title}, {shots} shots, seed {run.seed}", examples
    return {dataset: found[dataset] for dataset in grouped(results) if dataset in found}


def _detection(results: Sequence[Result]) -> Iterator[Picture]:
    """Figure 3 of each data set; with published points where it is ImageNet."""
    rows, styles = paper.detection(results).rows, _styles(results)
    for title in dict.fromkeys(labels[0] for labels in rows):
        figure, panels = _panels(2, height=4.0)
        named = []
        for axes, measure in zip(panels, ("FPR95 ↓", "AUROC ↑"), strict=True):
            own = {labels[1:]: row for labels, row in rows.items() if labels[0] == title}
            named.append(_scatter(axes, own, f"Average {measure}", styles))
            axes.set(xlabel=f"accuracy on {title} in %", ylabel=f"average {measure} in %")
        _legend(figure)
        for axes, texts in zip(panels, named, strict=True):
            _place(axes, texts)
        published = " Grey: published." if any(named) else ""
        yield Picture(
            f"figure3-{_slug(title)}",
            f"Figure 3, {title}: accuracy against FPR95 and AUROC of {SCORE}, averaged over the "
            f"out-of-distribution sets, by variant.{published}",
            figure,
        )


def _scatter(axes: Axes, rows: Mapping, column: str, styles: Mapping) -> list[Annotation]:
    """Our points with standard deviations, and the published ones; returns the latter's names."""
    texts = []
    for (method, score), row in rows.items():
        if column in row and method.endswith(MARK):
            (x,), (y,) = row[paper.ACCURACY].values(), row[column].values()
            axes.plot(x, y, "o", color=GREY, markersize=4, zorder=1)
            texts.append(_text(axes, method.removesuffix(MARK), (x, y)))
        elif column in row and score == SCORE:
            (x, dx), (y, dy) = _spread(row[paper.ACCURACY]), _spread(row[column])
            style = styles[method] | {"linestyle": "", "markersize": 9}
            style["marker"] = style["marker"] or "*"  # zero-shot CLIP is a line elsewhere
            axes.errorbar(x, y, dy or None, dx or None, elinewidth=0.8, **style)
    return texts


def _text(axes: Axes, text: str, point: tuple[float, float]) -> Annotation:
    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 2}
    options = {"textcoords": "offset points", "fontsize": 6.5, "color": "#555555"}
    return axes.annotate(text, point, (0, 0), arrowprops=line, **options)


def _place(axes: Axes, texts: Sequence[Annotation]) -> None:
    """Moves each text to the nearest place around its point where it covers nothing."""
    axes.figure.draw_without_rendering()
    lines = [line.get_xydata() for line in axes.get_lines()]
    lines += [bar for bars in axes.collections for bar in bars.get_segments()]
    taken = [_box(axes.transData.transform(x)).padded(6) for x in lines]
    for text in texts:
        for x, y in OFFSETS:
            text.set(position=(x, y), ha="left" if x > 0 else "right", va="center")
            box = Text.get_window_extent(text).padded(1)  # an annotation's own has its line
            inside = axes.bbox.count_contains(box.corners()) == 4
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break


def _box(points) -> Bbox:
    return Bbox([points.min(0), points.max(0)])


def _shots(results: Sequence[Result]) -> Iterator[Picture]:
    """Accuracy over the number of shots, a panel for each data set."""
    table, styles = paper.by_shots(results), _styles(results)
    if len(table.columns) < 2:
        return
    sets = list(dict.fromkeys(labels[0] for labels in table.rows))
    figure, panels = _panels(len(sets))
    for axes, title in zip(panels, sets, strict=True):
        for method, style in styles.items():
            row = table.rows.get((title, method), {})
            if len(row) > 1:
                _curve(axes, {int(k): cell for k, cell in row.items()}, style)
        axes.set_xscale("log", base=2)
        axes.set_xticks([int(k) for k in table.columns], table.columns)
        axes.set_xticks([], minor=True)
        axes.set(title=title, xlabel="training images per class", ylabel="accuracy in %")
    _legend(figure)
    yield Picture("shots", f"Accuracy over the number of shots, {SPREAD}.", figure)


def _sweep(results: Sequence[Result], key: str) -> Iterator[Picture]:
    """Accuracy over one setting, from runs that differ in it and in their seed alone."""
    groups: dict[tuple[str, str], dict[float, list[Result]]] = {}
    for result in (r for r in results if r.variant == "full" and key in r.config):
        group = groups.setdefault((result.dataset, settings_but(result, key)), {})
        group.setdefault(result.config[key], []).append(result)
    swept = [group for group in groups.values() if len(group) > 1]
    if not swept:
        return
    symbol, styles = SWEPT[key][0], _styles(results)
    figure, panels = _panels(len(swept))
    for axes, title, group in zip(panels, _told_apart(swept), swept, strict=True):
        values = sorted(group)
        for name, said in BRANCHES.items():
            cells = [cell_of(group[v], lambda r, name=name: branch(r, name)) for v in values]
            _curve(axes, dict(enumerate(cells)), styles[f"{VARIANTS['full']}, {said}"])
        axes.set_xticks(range(len(values)), [f"{v:g}" for v in values])
        axes.set(title=title, xlabel=f"{symbol}, evenly spaced", ylabel="accuracy in %")
    _legend(figure)
    name = key.rpartition(".")[2]
    yield Picture(name, f"Accuracy over {symbol}, all else being equal, {SPREAD}.", figure)


def _told_apart(swept: Sequence[Mapping[float, list[Result]]]) -> list[str]:
    """A title for each group of runs: data set, shots, and what else is not the same in all."""
    firsts = [next(iter(group.values()))[0] for group in swept]
    keys = {key for r in firsts for key in differing(firsts[0], r)}
    keys = sorted(k for k in keys if k.startswith(("method.", "transport.")))
    return [
        f"{dataset_title(r.dataset)}, {r.shots} shots"
        + "".join(f", {SWEPT.get(k, (k,))[0]} = {r.config.get(k)}" for k in keys)
        for r in firsts
    ]


def _training(results: Sequence[Result]) -> Iterator[Picture]:
    """Loss and accuracy on the training images over the steps, for each data set."""
    shots, styles = paper.table_shots(results), _styles(results)
    for dataset in grouped(results):
        figure, panels = _panels(2)
        for title, found in methods(results).items():
            runs = [r for r in reversed(found) if r.dataset == dataset and r.shots == shots]
            seeds = {r.seed: _metrics(r.folder) for r in runs}
            for axes, keys, scale in zip(panels, (LOSS, CORRECT), (1, 100), strict=True):
                series = [_series(lines, keys, scale) for lines in seeds.values()]
                _band(axes, series, styles[title])
        if not any(axes.lines for axes in panels):
            continue
        title = f"{dataset_title(dataset)}, {shots} shots"
        panels[0].set(title=title, xlabel="step", ylabel="training loss")
        panels[1].set(title=title, xlabel="step", ylabel="training accuracy in %")
        _legend(figure)
        caption = f"Training on {title}: mean over the seeds, and their range."
        if any(r.config.get("method.fusion") == "learned" for r in results):
            caption += " Where λ is learned, the loss has one more term."
        yield Picture(f"training-{_slug(dataset)}", caption, figure)


def _metrics(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]  # a kill cuts one short


def _series(lines: Sequence[dict], keys: Sequence[str], scale: float) -> dict[int, float]:
    """By step, the first of some metrics that is there."""
    found = {line["step"]: [line[key] for key in keys if key in line] for line in lines}
    return {step: scale * values[0] for step, values in found.items() if values}


def _band(axes: Axes, series: Sequence[Mapping[int, float]], style: Mapping) -> None:
    steps = sorted({step for one in series for step in one})
    values = [[one[step] for one in series if step in one] for step in steps]
    if steps:
        style = style | {"marker": ""}
        axes.plot(steps, [statistics.mean(x) for x in values], **style)
        low, high = [min(x) for x in values], [max(x) for x in values]
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _curve(axes: Axes, cells: Mapping[float, Cell], style: Mapping) -> None:
    """Means, with standard deviations as bars."""
    spreads = {x: _spread(cell) for x, cell in sorted(cells.items()) if cell}
    if spreads:
        means, deviations = zip(*spreads.values(), strict=True)
        bars = deviations if any(deviations) else None
        axes.errorbar(list(spreads), means, bars, elinewidth=0.8, **style)


def _spread(cell: Cell) -> tuple[float, float]:
    """Mean and standard deviation; the latter is 0 of a single value."""
    values = list(cell.values())
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _styles(results: Sequence[Result]) -> dict[str, dict]:
    """By the title of a row: the same in every figure of a report."""
    full = VARIANTS["full"]
    styles = {f"{full}, {said}": _style(0, i) for i, said in enumerate(BRANCHES.values())}
    titles = dict.fromkeys([full, *methods(results)])
    styles |= {title: _style(i, i) for i, title in enumerate(titles)}
    plain = {"marker": "", "linewidth": 1.2}
    styles[VARIANTS["zero_shot"]] = plain | {"color": "black", "linestyle": ":"}
    styles[full + MARK] = plain | {"color": GREY, "linestyle": "--"}
    label = {full + MARK: f"{full}, published"}
    return {title: style | {"label": label.get(title, title)} for title, style in styles.items()}


def _style(colour: int, form: int) -> dict:
    return {
        "color": COLOURS[colour % len(COLOURS)],
        "marker": MARKERS[form % len(MARKERS)],
        "linestyle": DASHES[form % len(DASHES)],
        "markersize": 6,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "linewidth": 1.4,
    }


def _panels(count: int, height: float = PANEL[1]) -> tuple[Figure, list[Axes]]:
    """A figure with that many axes, two in a row."""
    columns, rows = min(count, 2), -(-count // 2)
    figure = Figure((PANEL[0] * columns, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.grid(alpha=0.3)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def _legend(figure: Figure) -> None:
    """One legend below all panels, for which the figure grows."""
    pairs = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {label: h for hs, labels in pairs for h, label in zip(hs, labels, strict=True)}
    columns = min(2, len(figure.axes))
    rows = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * (rows + 1))
    options = {"ncols": columns, "fontsize": 8}
    figure.legend(handles.values(), handles, loc="outside lower center", **options)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).lower()
