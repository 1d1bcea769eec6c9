"""Looks closer at runs: calibration, classes, confusion, the worst mistakes, scores."""

import dataclasses
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sotglp_jax import workdir
from sotglp_jax.evaluators import classification, detection, maps, mistakes
from sotglp_jax.evaluators.classification import Predictions
from sotglp_jax.reports import gallery, grids, paper
from sotglp_jax.reports.figures import Picture, legend, panels_of, slug, styles_of
from sotglp_jax.reports.paper import ACCURACY, METHOD, Cell, Table
from sotglp_jax.reports.results import Result, grouped, mains, methods
from sotglp_jax.reports.tables import score_title, threshold_lines

SCORES = "ood_scores.npz"  # in a run folder
SHOWN = 12  # classes of a table
UNCALIBRATED = "ECE before calibration"
FEWEST = 10  # images of a bin of the reliability curve, or it would say nothing
OTHERS = ("#CC6677", "#117733", "#DDCC77", "#88CCEE", "#882255", "#44AA99", "#999933")  # sets
ONE = "A report of another run's folder shows that run."


@dataclasses.dataclass(frozen=True)
class Seen:
    """The runs of a data set at the shots of the tables, with what they say of every image.

    Attributes:
      dataset: its title, with the shots.
      names: of the classes.
      runs: the results and predictions by title: of methods as they are, and of zero-shot CLIP.
    """

    dataset: str
    names: Sequence[str]
    runs: Mapping[str, Sequence[tuple[Result, Predictions]]]

    @property
    def chosen(self) -> tuple[str, Result, Predictions]:
        """The first run of the most accurate method, of those with maps if there are any."""
        mapped = {
            title: x for title, x in self.runs.items() if (x[0][0].folder / maps.FILE).exists()
        }
        runs = mapped or self.runs
        means = {title: statistics.mean(r.accuracy for r, _ in x) for title, x in runs.items()}
        title = max(means, key=means.get)
        return title, *min(self.runs[title], key=lambda x: x[0].seed)

    def caption(self, what: str) -> str:
        """Says what is shown of which run."""
        title, result, _ = self.chosen
        seed = f", seed {result.seed}" if result.learns else ""
        which = " with maps" * (result.folder / maps.FILE).exists()
        return f"{title}{seed}, the most accurate method{which} here: {what} {ONE}"


def seen(results: Sequence[Result]) -> list[Seen]:
    """Reads the predictions of the runs at the shots of the tables; runs without any are left out.

    Raises:
      InputError: predictions are damaged.
    """
    found = []
    for group in grouped(results).values():
        shots = paper.table_shots(group)
        titles = mains(group) | {t: x for t, x in methods(group).items() if x[0].baseline}
        runs = {title: _predicted(paper.at_shots(x, shots)) for title, x in titles.items()}
        if runs := {title: x for title, x in runs.items() if x}:
            folder = next(iter(runs.values()))[0][0].folder
            names = json.loads((folder / workdir.CLASSES).read_text("utf-8"))
            title = paper.dataset_title(group[0].dataset)
            title += f", {shots} shots" * any(r.learns for r in group)
            found.append(Seen(title, names, runs))
    return found


def _predicted(runs: Sequence[Result]) -> list[tuple[Result, Predictions]]:
    there = [r for r in runs if (r.folder / classification.FILE).exists()]
    return [(r, classification.load(r.folder)) for r in there]


def tables(found: Sequence[Seen], results: Sequence[Result]) -> list[Table]:
    """Makes a table of calibration, and one of each data set's classes."""
    return [table for table in (calibration(found, results), *map(_classes, found)) if table.rows]


def calibration(found: Sequence[Seen], results: Sequence[Result]) -> Table:
    """Compares accuracy and mean probability, and shows the calibration error."""
    rows = {
        (one.dataset, title): {
            ACCURACY: _cell(runs, lambda p: p.correct.mean()),
            "Mean probability": _cell(runs, lambda p: p.probability.mean()),
            "ECE ↓": _cell(runs, classification.calibration_error),
            **_uncalibrated(runs),
        }
        for one in found
        for title, runs in one.runs.items()
    }
    columns = tuple(dict.fromkeys(column for numbers in rows.values() for column in numbers))
    divided = f"{UNCALIBRATED}: before logits were divided by a temperature of validation images."
    return Table(
        "calibration",
        paper.caption_of("Calibration, in %", results),
        ("Data set", METHOD),
        columns or (ACCURACY,),
        rows,
        (
            "Probability: the softmax of the deciding logits, of the class that is given. Above "
            "the accuracy, it promises too much.",
            f"ECE: expected calibration error over {classification.BINS} bins of equal width.",
            *[divided] * (UNCALIBRATED in columns),
        ),
        (ACCURACY, "Mean probability", UNCALIBRATED),
    )


def _uncalibrated(runs: Sequence[tuple[Result, Predictions]]) -> dict[str, Cell]:
    """Returns the cell of the calibration error that those runs had that were calibrated."""
    found = {
        r.seed: 100 * r.contents["calibration"]["ece"]["before"]
        for r, _ in reversed(runs)
        if "calibration" in r.contents
    }
    return {UNCALIBRATED: found} if found else {}


def _cell(runs: Sequence[tuple[Result, Predictions]], value) -> Cell:
    return {result.seed: 100 * float(value(predictions)) for result, predictions in reversed(runs)}


def _classes(one: Seen) -> Table:
    """Shows accuracy by class, of many classes those that are hardest for all methods."""
    labels = next(iter(one.runs.values()))[0][1].label
    counts = np.bincount(labels, minlength=len(one.names))
    of_class = {title: _by_class(runs, counts) for title, runs in one.runs.items()}
    means = np.mean([np.mean(list(x.values()), axis=0) for x in of_class.values()], axis=0)
    order = [int(i) for i in np.argsort(means, kind="stable") if counts[i]][:SHOWN]
    columns = {i: f"{grids.short(one.names[i])} ({counts[i]})" for i in order}
    rows = {
        (title,): {columns[i]: {seed: float(x[i]) for seed, x in found.items()} for i in order}
        for title, found in of_class.items()
    }
    which = f"the {len(order)} hardest of " if len(order) < len(one.names) else "hardest first, "
    return Table(
        f"classes-{slug(one.dataset)}",
        f"Accuracy in % by class, {one.dataset}; {which}{len(one.names)} classes",
        (METHOD,),
        tuple(columns.values()),
        rows,
        ("Behind a class stands its number of test images. Best in bold; of equal ones, all.",),
    )


def _by_class(
    runs: Sequence[tuple[Result, Predictions]], counts: np.ndarray
) -> dict[int, Float[Array, " C"]]:
    """Returns the accuracy in % of every class by seed; 0 of a class without test images."""
    return {
        r.seed: 100 * np.bincount(p.label, p.correct, len(counts)) / np.maximum(counts, 1)
        for r, p in runs
    }


@gallery.literal
def pictures(found: Sequence[Seen], results: Sequence[Result]) -> list[Picture]:
    """Draws confusion, mistakes, scores and reliability, as far as there are some."""
    drawn = []
    for one in found:
        drawn += [_confusion(one), *_mistakes(one), *_scores(one), _reliability(one, results)]
    return drawn


def _confusion(one: Seen) -> Picture:
    counts = classification.confusion(one.chosen[2], len(one.names))
    side = grids.side(len(counts))
    figure = Figure((side + 1.8, side + 0.8), layout="constrained")
    grids.confusion(figure.subplots(), counts, one.names)
    which = "test images by true and by given class; mistakes are coloured."
    if len(counts) > grids.CLASSES:
        which = (
            f"test images of the {grids.CLASSES} classes with most mistakes, which are coloured."
        )
    return _picture("confusion", "Confusion", one, one.caption(which), figure)


def _picture(name: str, title: str, one: Seen, caption: str, figure: Figure) -> Picture:
    return Picture(f"{name}-{slug(one.dataset)}", f"{title}, {one.dataset}", caption, figure)


def _mistakes(one: Seen) -> Iterator[Picture]:
    wrong = mistakes.load(one.chosen[1].folder)
    if wrong is None or not len(wrong.label):
        return
    places = zip(wrong.label, wrong.predicted, wrong.probability, strict=True)
    titles = [
        gallery.title(one.names[given], chance, true=one.names[label])
        for label, given, chance in places
    ]
    what = "the wrong answers with the highest probability."
    if wrong.maps is None:
        figure = _images(wrong.images, titles)
    else:
        figure = gallery.draw(wrong.images, wrong.maps, titles)
        what += " The maps are of the class that was given, as in Figure 2."
    yield _picture("mistakes", "Worst mistakes", one, one.caption(what), figure)


def _images(images: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    columns = min(3, len(images))
    rows = -(-len(images) // columns)
    figure = Figure((2.2 * columns, 2.5 * rows), layout="constrained")
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        axes.imshow(image)
        axes.set_title(title, fontsize=9)
    return figure


def _scores(one: Seen) -> Iterator[Picture]:
    """Draws a histogram of each score of the chosen run, with the threshold, and its ROC curve."""
    result = one.chosen[1]
    path = result.folder / SCORES
    if "ood" not in result.contents or not path.exists():
        return
    with workdir.read_arrays(path) as found:
        arrays = found
    names, kept = list(result.contents["ood"]["scores"]), result.contents.get("ood_threshold", {})
    (histograms, above), (curves, below) = panels_of(len(names)), panels_of(len(names))
    for upper, lower, name in zip(above, below, names, strict=True):
        sets = {key.rpartition("/")[0]: x for key, x in arrays.items() if key.endswith(f"/{name}")}
        title = score_title(result.contents, name)
        _histogram(upper, sets)
        if name == kept.get("score") and result.contents["ood"]["temperature"] == 1:
            style = {"color": "black", "linestyle": ":", "label": "threshold of predictions"}
            upper.axvline(kept["value"], **style)
        upper.set(xlabel=title, ylabel="share of the images in %")
        _curves(lower, sets)
        lower.set(title=title, xlabel="other images let through in %", ylabel="test images in %")
    what = (
        "scores of the test images (filled) and of other sets. Right of the dashed line are "
        f"{100 * detection.RECALL:g} % of the test images; what else is there is taken for one of "
        "them."
    )
    what += "".join(f" {line.strip()}." for line in threshold_lines(result.contents))
    curve = (
        "images let through by every threshold. At 95 % of the test images (dashed) a curve gives "
        "FPR95, the area below it is AUROC, and on the diagonal a score says nothing."
    )
    for name, title, said, figure in (
        ("scores", "Scores in and out of distribution", what, histograms),
        ("roc", "Images in and out of distribution, by the threshold", curve, curves),
    ):
        legend(figure)
        yield _picture(name, title, one, one.caption(said), figure)


def _curves(axes: Axes, sets: Mapping[str, np.ndarray]) -> None:
    """Draws the ROC curve of every set against the test images."""
    from sklearn.metrics import roc_curve

    inside, colours = sets["test"], iter(OTHERS)
    for name, outside in sets.items():
        if name != "test":
            labels = np.repeat([1, 0], [len(inside), len(outside)])
            false, true, _ = roc_curve(labels, np.concatenate([inside, outside]))
            style = {"color": next(colours, "#8A8A8A"), "linewidth": 1.3, "label": name}
            axes.plot(100 * false, 100 * true, **style)
    axes.plot([0, 100], [0, 100], color="#8A8A8A", linewidth=1)
    axes.axhline(100 * detection.RECALL, color="black", linestyle="--", linewidth=1)


def _histogram(axes: Axes, sets: Mapping[str, np.ndarray]) -> None:
    inside = sets["test"]
    low, high = (f(x.min() if f is min else x.max() for x in sets.values()) for f in (min, max))
    edges = np.linspace(low, high if high > low else low + 1, 31)
    colours = iter(OTHERS)
    for name, values in sets.items():
        options = {"weights": np.full(len(values), 100 / len(values)), "bins": edges}
        if name == "test":
            axes.hist(values, **options, color="#332288", alpha=0.35, label="test images")
        else:
            colour = next(colours, "#8A8A8A")
            axes.hist(values, **options, histtype="step", color=colour, linewidth=1.3, label=name)
    axes.axvline(detection.threshold(inside), color="black", linestyle="--", linewidth=1)


def _reliability(one: Seen, results: Sequence[Result]) -> Picture:
    """Draws accuracy over probability, and how often each probability is given."""
    styles = styles_of(results)
    figure, (left, right) = panels_of(2)
    left.plot([0, 100], [0, 100], color="#8A8A8A", linewidth=1, linestyle="--")
    for title, runs in one.runs.items():
        every = [vars(p) for _, p in runs]
        joined = Predictions(**{k: np.concatenate([x[k] for x in every]) for k in every[0]})
        count, probability, correct = classification.reliability(joined).T
        enough = count >= FEWEST
        left.plot(100 * probability[enough], 100 * correct[enough], **styles[title])
        middles = (np.arange(len(count)) + 0.5) * 100 / len(count)
        right.plot(middles, 100 * count / count.sum(), **styles[title])
    left.set(xlabel="probability in %", ylabel="accuracy in %")
    right.set_yscale("log")
    right.set(xlabel="probability in %", ylabel="share of the images in %")
    legend(figure)
    caption = (
        f"All methods and seeds: accuracy where a class was given with some "
        f"probability, and how often that was. On the dashed line a method is calibrated, below it "
        f"it promises too much. Bins with fewer than {FEWEST} images are left out on the left."
    )
    return _picture("reliability", "Calibration", one, caption, figure)
