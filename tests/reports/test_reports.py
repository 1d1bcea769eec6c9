"""Tables, figures and the page that are made of results files."""

import csv
import html.parser
import itertools
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axis import Axis
from matplotlib.text import Text

from sotglp_jax.errors import InputError
from sotglp_jax.evaluators import classification, detection, maps, mistakes
from sotglp_jax.evaluators.classification import Predictions
from sotglp_jax.inspect import heatmaps, insights
from sotglp_jax.reports import beyond, closeup, figures, formats, paper, report, results, tables
from sotglp_jax.reports.published import MARK, PUBLISHED
from sotglp_jax.workdir import write_arrays

NUMBER = r"(?<![\w.=])\d+\.\d(?!\d)"
SETS = ("inaturalist", "sun", "places", "textures")


METHODS = {
    "sotglp": {
        "title": "SOT-GLP",
        "logits": {"fused": "fused", "global": "global only", "local": "local only"},
        "symbols": {"fusion_weight": "λ", "topk": "K", "epsilon": "ε"},
        "usual": {"fusion_weight": 0.25, "topk": 10, "epsilon": 0.1, "vv": True, "n_local": 4}
        | {"projection": True, "matching": "transport", "fusion": "fixed"},
    },
    "coop": {
        "title": "CoOp",
        "logits": {"prompted": ""},
        "symbols": {"n_context": "M"},
        "usual": {"n_context": 16, "per_class": False},
    },
    "linear_probe": {
        "title": "linear probe",
        "logits": {"probe": ""},
        "symbols": {"c": "C"},
        "usual": {"c": 0.0},
    },
    "zeroshot": {"title": "zero-shot CLIP", "logits": {"zero_shot": ""}},
}
VARIANTS = {
    "no_vv": ("w/o V-V attention", {"method.vv": False}),
    "no_proj": ("w/o projection", {"method.projection": False}),
    "no_ot": ("w/o transport", {"method.matching": "uniform"}),
    "independent_topk": ("independent top-K", {"method.matching": "independent"}),
}


def method_of(name, variant):
    """What results say of their method, and the settings of its variant."""
    usual = {"usual": {}, "symbols": {}} | METHODS[name]
    title, changes = VARIANTS.get(variant, (usual["title"], {}))
    learns = name != "zeroshot"
    return usual | {"name": name, "variant": variant, "title": title, "learns": learns}, changes


def write(
    root,
    value,
    *,
    method="sotglp",
    variant="full",
    dataset="digits",
    shots=16,
    seed=1,
    ood=None,
    **config,
):
    """A run folder with results of an accuracy; `ood`: FPR95 of GL-MCM."""
    named = "-".join(map(str, (dataset, shots, seed, method, variant, *config.values())))
    about, changes = method_of(method, variant)
    protocol = {"dataset": dataset, "classes": 10, "sampler": "coop", "shots": shots, "seed": seed}
    protocol |= {"clip": "tiny", "recipe": "paper", "template": f"{dataset} {{}}"}
    protocol |= {"method": method, "changed": changes | config}
    settings = {"dataset": dataset, "shots": shots, "seed": seed, "recipe": "paper"}
    settings |= {"variant": variant, "method.name": method}
    settings |= {f"method.{k}": x for k, x in about["usual"].items()}
    settings |= {"train.epochs": 50 if method == "sotglp" else 200} | changes | config
    below = (value, value - 0.1, value - 0.05)
    accuracy = dict(zip(about["logits"], below, strict=False)) | {"zero_shot": 0.5}
    contents = {"method": about, "accuracy": accuracy, "protocol": protocol, "config": settings}
    contents |= {"targets": {}, "learned": {}}
    if ood is not None:
        scores = {"sotglp": ("mcm", "l_mcm", "gl_mcm", "fused", "transport")}
        scores |= {"coop": ("mcm", "prompted"), "zeroshot": ("mcm", "l_mcm", "gl_mcm")}
        scores |= {"linear_probe": ("probe",)}
        contents["ood"] = detected(ood, scores[method])
        local = {"sotglp": "vv", "zeroshot": "value"}.get(method, "")
        contents["ood"]["local"] = config.get("method.local", local)
    folder = root / named
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(contents))
    (folder / "train_images.txt").write_text("x\n")
    lines = [{"step": k, "loss": 1 / k} for k in (10, 20) if about["learns"]]
    lines = [x | {f"accuracy_{k}": value for k in about["logits"]} for x in lines]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines))
    return folder


def detected(fpr95, scores):
    """What results say of detection."""
    sets = {name: {"fpr95": fpr95, "auroc": 1 - fpr95 / 3} for name in SETS}
    found = {"threshold": 0.5, "sets": sets, "mean": sets["sun"]}
    images = {"test": 9} | {name: 4 for name in SETS}
    return {"temperature": 1.0, "images": images, "scores": dict.fromkeys(scores, found)}


def rows_of(text: str) -> dict[tuple[str, str], str]:
    """Cells of a Markdown table by (labels joined, column)."""
    head, _, *lines = [x.strip("| ").split(" | ") for x in text.splitlines() if x[:1] == "|"]
    titles = ("Data set", "ID data set", "Method", "Score", "λ")
    labels = sum(title in titles for title in head)
    return {
        (" ".join(line[:labels]).strip(), column): cell
        for line in lines
        for column, cell in zip(head[labels:], line[labels:], strict=True)
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two data sets, one of the paper's; a method with a variant, another, and plain CLIP."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (1, 2, 3):
        write(root, 0.70 + seed / 100, dataset="imagenet", seed=seed, ood=0.2 + seed / 50)
        write(root, 0.60 + seed / 50, dataset="imagenet", seed=seed, shots=4)
        write(root, 0.80 + seed / 100, seed=seed)
        write(root, 0.72, dataset="imagenet", seed=seed, variant="no_proj", ood=0.1)
        for value in (0.0, 1.0):
            write(root, 0.65 + value / 10, seed=seed, **{"method.fusion_weight": value})
    write(root, 0.5, dataset="imagenet", shots=0, method="zeroshot")
    for seed in (1, 2, 3):
        write(root, 0.55 + seed / 100, dataset="imagenet", seed=seed, method="coop", ood=0.3)
    return root


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    """The report of those runs."""
    out = tmp_path_factory.mktemp("report")
    assert report.write(runs, out) == []
    return out


def test_every_number_is_in_all_formats(made):
    for name in ("table1", "table2", "table3", "table4"):
        markdown, plain, latex = (
            (made / f"{name}.{ending}").read_text() for ending in ("md", "csv", "tex")
        )
        markdown = "\n".join(x for x in markdown.splitlines() if x.startswith("|"))
        latex = latex.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
        numbers = re.findall(NUMBER, markdown)
        assert len(numbers) > 10
        assert numbers == re.findall(NUMBER, latex) == re.findall(NUMBER, plain)
        lengths = {len(row) for row in csv.reader(plain.splitlines())}
        assert len(lengths) == 1
        assert all(number in (made / "report.html").read_text() for number in numbers)
        assert markdown.count("**") // 2 == latex.count(r"\textbf") > 0


def test_cells_are_means_over_the_seeds_at_the_papers_setting(made):
    cells = rows_of((made / "table1.md").read_text())
    values = [70 + seed for seed in (1, 2, 3)]
    expected = f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
    assert cells["SOT-GLP, fused", "ImageNet"] == f"**{expected}**"
    assert cells["SOT-GLP, fused", "digits"] == "**82.0 ± 1.0**"  # without the sweep
    assert cells["zero-shot CLIP", "digits"] == "50.0"
    assert "over seeds 1, 2, 3" in (made / "table1.md").read_text()
    shots = rows_of((made / "table4.md").read_text())
    assert shots["ImageNet SOT-GLP, fused", "4"] == "**64.0 ± 2.0**"
    assert shots["ImageNet SOT-GLP †", "4"] == "**72.9**"
    assert shots["ImageNet SOT-GLP − †", "4"] == "−8.9"


def test_missing_cells_are_shown_as_missing(made):
    cells = rows_of((made / "table2.md").read_text())
    assert cells["w/o projection", "ImageNet"].strip("*") == "72.0 ± 0.0"
    assert cells["w/o projection", "digits"] == "–"
    cells = rows_of((made / "table1.md").read_text())
    assert cells["CoOp †", "digits"] == "–" and cells["CoOp †", "ImageNet"] == "71.7"
    rows = csv.DictReader((made / "table1.csv").read_text().splitlines())
    (row,) = [row for row in rows if row["Method"] == "CoOp †"]
    assert row["ImageNet"] == "71.7" and row["digits"] == ""
    assert "& -- " in (made / "table1.tex").read_text()
    assert "– is missing" in (made / "table1.md").read_text()


def test_the_best_is_bold_among_ours_and_among_the_published():
    def table(head, rows):
        rows = {labels: {c: {0: x} for c, x in row.items()} for labels, row in rows.items()}
        named = tuple(dict.fromkeys(c for row in rows.values() for c in row))
        return paper.Table("table1", "T", head, named, rows, ())

    rows = {"x": {"up": 1.04, "down ↓": 7.0}, "y": {"up": 1.0, "down ↓": 5.0}, "z": {"up": 0.9}}
    rows |= {"x †": {"up": 3.0}, "y †": {"up": 2.0}, "x − †": {"up": 9.0}}
    best = table(("Method",), {(name,): row for name, row in rows.items()}).best()
    assert best == {(("x",), "up"), (("y",), "up"), (("y",), "down ↓"), (("x †",), "up")}
    rows = {("a", "x"): {"one": 2.0}, ("b", "y"): {"one": 1.0}}
    assert not table(("Data set", "Method"), rows).best()  # nothing to beat


def test_detection_stands_beside_the_published(made):
    cells = rows_of((made / "table3.md").read_text())
    patches = "GL-MCM, V-V stream"
    assert cells[f"ImageNet SOT-GLP {patches}", "Average FPR95 ↓"] == "24.0 ± 2.0"
    assert cells[f"ImageNet SOT-GLP † {patches}", "Average FPR95 ↓"] == "28.1"
    assert cells[f"ImageNet SOT-GLP − † {patches}", "SUN FPR95 ↓"] == "−7.7"
    assert cells[f"ImageNet w/o projection {patches}", "SUN FPR95 ↓"] == "**10.0 ± 0.0**"
    assert cells[f"ImageNet w/o Proj † {patches}", "Average AUROC ↑"] == "**94.2**"
    assert cells["ImageNet LoCoOp (M) † MCM", "Accuracy"] == "71.5"  # without a run of ours
    assert not [labels for labels, _ in cells if labels.startswith("digits")]


def test_each_number_of_shots_has_its_detection_and_a_missing_score_is_a_dash(tmp_path):
    write(tmp_path, 0.9)
    write(tmp_path, 0.8, shots=8, ood=0.1)
    rows = paper.detection(results.load(tmp_path)[0]).rows
    assert {labels[0] for labels in rows} == {"digits"} and len(rows) == 5
    write(tmp_path, 0.7, shots=4, ood=0.1, method="linear_probe")
    table = paper.detection(results.load(tmp_path)[0])
    assert {labels[0] for labels in table.rows} == {"digits, 4 shots", "digits, 8 shots"}
    assert list(table.rows["digits, 4 shots", "linear probe", "MCM"]) == [paper.ACCURACY]
    cells = rows_of(formats.markdown(table))
    assert cells["digits, 4 shots linear probe MCM", "SUN FPR95 ↓"] == "–"
    assert cells["digits, 4 shots linear probe largest logit", "SUN FPR95 ↓"] == "10.0"


def test_an_average_is_over_the_papers_data_sets_at_the_same_shots_alone(tmp_path):
    for i, dataset in enumerate(("dtd", "eurosat", "digits")):
        write(tmp_path, 0.8 + i / 100, dataset=dataset)
    row = paper.accuracy(results.load(tmp_path)[0]).rows["SOT-GLP, fused",]
    assert row["Average"][1] == pytest.approx(80.5) and row["digits"] == {1: 82.0}
    write(tmp_path, 0.9, dataset="ucf101", shots=8)
    table = paper.accuracy(results.load(tmp_path)[0])
    assert table.columns == (
        "DTD, 16 shots",
        "EuroSAT, 16 shots",
        "UCF101, 8 shots",
        "digits, 16 shots",
    )
    assert [*table.rows["SOT-GLP †",]] == ["DTD, 16 shots", "EuroSAT, 16 shots"]
    change(tmp_path / "ucf101-8-1-sotglp-full", "protocol", "shots", value=16)
    write(tmp_path, 0.9, shots=8, dataset="own")  # which the others' average is not mixed with
    row = paper.accuracy(results.load(tmp_path)[0]).rows["SOT-GLP, fused",]
    assert row["Average"][1] == pytest.approx((80 + 81 + 90) / 3)


def test_zero_shot_detects_beside_what_is_trained(tmp_path):
    write(tmp_path, 0.9, ood=0.1)
    for seed in (1, 2):
        write(tmp_path, 0.5, shots=0, seed=seed, ood=0.4, method="zeroshot")
    found, warnings = results.load(tmp_path)
    rows, accuracy = paper.detection(found).rows, paper.ACCURACY
    assert not warnings and len(rows) == 5 + 3
    assert ("digits", "SOT-GLP", "largest fused logit") in rows
    assert paper.detection(found).notes[-1] == paper.ZERO_SHOT_NOTE
    row = rows["digits", "zero-shot CLIP", "GL-MCM, value path"]
    assert row["Average FPR95 ↓"] == {0: 40.0} and row[accuracy] == {0: 50.0}
    picture, _ = figures.make(found)
    own, clip = picture.figure.axes[0].containers
    assert clip.get_label() == "zero-shot CLIP" and clip.lines[0].get_marker() == "*"


def test_scores_of_other_patches_stand_apart(tmp_path):
    write(tmp_path, 0.5, shots=0, ood=0.4, method="zeroshot")
    write(tmp_path, 0.5, shots=0, ood=0.2, method="zeroshot", **{"method.local": "vv"})
    rows = paper.detection(results.load(tmp_path)[0]).rows
    found = {labels[2]: row["Average FPR95 ↓"] for labels, row in rows.items()}
    assert found["GL-MCM, value path"] == {0: 40.0} and found["GL-MCM, V-V stream"] == {0: 20.0}


def test_settings_that_nobody_published_are_in_the_footnotes(tmp_path):
    for seed in (1, 2):
        write(tmp_path, 0.5, seed=seed)
        for method in ("coop", "linear_probe"):
            folder = write(tmp_path, 0.5, seed=seed, method=method)
            change(folder, "protocol", "unpublished", value="guesses")
    found, warnings = results.load(tmp_path)
    said = "linear probe, CoOp on digits: guesses."
    assert not warnings and paper.accuracy(found).notes[-1] != said
    assert [table.notes[-1] == said for table in paper.make(found)] == [True, False, False, True]
    assert tables.few_shot([r.contents for r in found]).splitlines()[-1] == said


def test_footnotes_are_of_the_runs_that_stand_in_the_table(tmp_path):
    for shots in (4, 16):
        folder = write(tmp_path, 0.5, shots=shots, method="coop")
        change(folder, "protocol", "unpublished", value=f"guesses at {shots}")
    found, _ = results.load(tmp_path)
    said = [[x for x in table.notes if "guesses" in x] for table in paper.make(found)]
    of = {shots: f"CoOp on digits: guesses at {shots}." for shots in (4, 16)}
    assert said[0] == [of[16]] and {*said[3]} == {*of.values()}


def test_captions_say_what_a_training_searched(tmp_path):
    def caption(*values):
        for seed, value in enumerate(values):
            folder = write(tmp_path / str(len(values)), 0.8, seed=seed, method="linear_probe")
            change(folder, "learned", value={"regularisation": {"C": value}})
        return paper.accuracy(results.load(folder.parent)[0]).caption

    assert "; C = 0.333, 3.33; mean" in caption(1 / 3, 10 / 3, 1 / 3)
    assert "; C = 0.0001 to 1e+06; mean" in caption(1.0, 1e6, 1e-4, 10.0)


def test_several_methods_stand_in_every_table(made, runs):
    cells = rows_of((made / "table1.md").read_text())
    assert cells["CoOp", "ImageNet"] == "57.0 ± 1.0" and cells["CoOp †", "ImageNet"] == "71.7"
    assert cells["CoOp − †", "ImageNet"] == "−14.7" and cells["CoOp", "digits"] == "–"
    caption = (made / "table1.md").read_text().splitlines()[0]
    assert "CoOp: M = 16; SOT-GLP: λ = 0.25, K = 10, ε = 0.1; mean" in caption
    assert not [row for row, _ in rows_of((made / "table2.md").read_text()) if "CoOp" in row]
    cells = rows_of((made / "table3.md").read_text())
    assert cells["ImageNet CoOp MCM", "SUN FPR95 ↓"] == "30.0 ± 0.0"
    assert not [labels for labels, _ in cells if "CoOp GL-MCM" in labels]
    assert rows_of((made / "table4.md").read_text())["ImageNet CoOp", "4"] == "–"
    titles = list(results.methods(results.load(runs)[0]))
    assert titles == ["CoOp", "SOT-GLP", "w/o projection", "zero-shot CLIP"]


def learned(root: Path, value: float, weights=(1.0, 0.25), spec=None, **config):
    """A run folder with the weights of the branches, and (entropy, overlap, share) of prompts."""
    folder = write(root, value, **config)
    of_global, of_local = weights
    change(folder, "learned", value={"fusion": {"global": of_global, "local": of_local}})
    if spec:
        names = ("plan_entropy", "overlap", "share")
        change(folder, "specialisation", value=dict(zip(names, spec, strict=True)))


def test_ways_to_choose_the_weight_stand_in_one_table(tmp_path):
    for seed in (1, 2):
        learned(tmp_path, 0.80, seed=seed)
        learned(tmp_path, 0.9, (0.0, 1.0), seed=seed, **{"method.fusion": "validated"})
        learned(tmp_path, 0.85, (1.0, seed), seed=seed, **{"method.fusion": "learned"})
        learned(tmp_path, 0.99, seed=seed, **{"method.fusion_weight": 1.0})
        write(tmp_path, 0.99, seed=seed, method="coop")
    learned(tmp_path, 0.99, variant="no_vv", **{"method.fusion": "learned"})
    (table,) = beyond.make(results.load(tmp_path)[0])
    ways = ("fixed", "learned", "validated")
    assert list(table.rows) == [("digits", "SOT-GLP", way) for way in ways]
    cells = rows_of(formats.markdown(table))
    assert cells["digits SOT-GLP validated", "Accuracy, fused"] == "**90.0 ± 0.0**"
    column = "Local branch's share of the weights"
    share = [cells[f"digits SOT-GLP {way}", column] for way in ways]
    assert share == ["20.0 ± 0.0", "58.3 ± 11.8", "100.0 ± 0.0"]  # no best among them


@pytest.mark.parametrize(
    ("overlap", "said"),
    [
        (0.1, "by 11.5 %, .* by 51.5 %: in every seed SOT-GLP's prompts look .* differ more"),
        (0.5, r"SOT-GLP's prompts do not look .* more .differences \+0.0, \+0.0 for seeds 1, 2"),
        (0.9, "by 91.5 %, .*: SOT-GLP's prompts do not look"),
    ],
)
def test_the_report_says_whether_prompts_specialise(overlap, said, tmp_path):
    for seed in (1, 2):
        at = seed / 100
        learned(tmp_path, 0.8, spec=(0.999, overlap + at, [0.5, 0.5]), seed=seed)
        for value in (0.01, 1.0):
            spec = (1 - value / 10, 0.3, [0.25, 0.75])
            learned(tmp_path, 0.8, spec=spec, seed=seed, **{"method.epsilon": value})
        own = {"variant": "independent_topk", "seed": seed}
        learned(tmp_path, 0.8, spec=(1.0, 0.5 + at, [0.5, 0.5]), **own)
        learned(tmp_path, 0.8, spec=(1.0, 0.0, [0.5, 0.5]), **own, **{"method.topk": 1})
        write(tmp_path, 0.8, method="coop", seed=seed)
    (table,) = beyond.make(results.load(tmp_path)[0])
    titles = ["SOT-GLP", "independent top-K", "SOT-GLP, ε = 0.01", "SOT-GLP, ε = 1"]
    assert list(table.rows) == [("digits", title) for title in titles]
    plan, comparison, _ = table.notes
    assert plan.startswith("digits: the plan of SOT-GLP is close to uniform (entropy 99.90 %")
    assert re.search(said, comparison) and not table.best()
    cells = rows_of(formats.markdown(table))
    assert cells["digits SOT-GLP, ε = 1", "Prompt 2"] == "75.0 ± 0.0"
    assert cells["digits independent top-K", beyond.OVERLAP] == "51.5 ± 0.7"
    (table,) = beyond.make([r for r in results.load(tmp_path)[0] if r.seed == 1])
    assert table.notes[1].endswith("of one seed nothing follows.")


def test_a_plan_that_is_not_uniform_is_said_to_be_none(tmp_path):
    learned(tmp_path, 0.8, spec=(0.6, 0.1, [0.5, 0.5]))
    (table,) = beyond.make(results.load(tmp_path)[0])
    assert "is not close to uniform (entropy 60.00 %" in table.notes[0]


def test_published_averages_are_right_but_for_the_named_slips():
    columns = {}
    for number in (1, 2):
        for method, cells in PUBLISHED[f"table{number}"].items():
            values = [x for name, x in cells.items() if name != "average"]
            assert len(values) == 11
            columns[number, method, "average"] = (values, cells["average"])
    for method, cells in PUBLISHED["table3"].items():
        for i, measure in enumerate(("FPR95", "AUROC")):
            values = [cells[name][i] for name in SETS]
            columns[3, method, f"average {measure}"] = (values, cells["average"][i])
    for method, sets in PUBLISHED["table4"].items():
        for i, shots in enumerate(PUBLISHED["table4_shots"]):
            values = [sets[name][i] for name in PUBLISHED["titles"]]
            columns[4, method, f"{shots} shots"] = (values, sets["average"][i])
    # The numbers and their averages are rounded, each by up to 0.05.
    slips = {
        place: (printed, round(statistics.mean(values), 1))
        for place, (values, printed) in columns.items()
        if abs(statistics.mean(values) - printed) > 0.1 + 1e-9
    }
    named = {
        (s["table"], s["row"], s["column"]): (s["printed"], s["mean"]) for s in PUBLISHED["slips"]
    }
    assert slips == named
    differing = {
        method
        for method, sets in PUBLISHED["table4"].items()
        for name in PUBLISHED["titles"]
        if sets[name][-1] != PUBLISHED["table1"][method][name]
    }
    assert differing == {"CoOp", "PromptSRC", "GalLoP"}
    assert all(m in PUBLISHED["notes"]["4"][1] for m in differing)


def test_published_numbers_are_there_for_their_data_sets_and_shots_alone(tmp_path):
    write(tmp_path / "a", 0.9, dataset="dtd", shots=8)
    table = paper.accuracy(results.load(tmp_path / "a")[0])
    assert not any(MARK in method for (method,) in table.rows)
    assert "at 8 shots" in table.title and "seed 1" in table.title
    for i, name in enumerate(PUBLISHED["titles"]):
        write(tmp_path / "b", 0.5 + i / 100, dataset=name)
    table = paper.accuracy(results.load(tmp_path / "b")[0])
    assert table.rows["CLIP †",]["Average"] == {0: 75.7}  # as printed
    assert table.rows["CLIP − †",]["Average"][0] == pytest.approx(50 - 64.8, abs=0.05)
    assert table.columns[:2] == ("ImageNet", "Caltech101")  # in the paper's order


def test_runs_that_learned_nothing_make_a_report_too(tmp_path):
    write(tmp_path, 0.0, dataset="eurosat", shots=0, seed=0, method="zeroshot")
    found, warnings = results.load(tmp_path)
    first, _, _, last = paper.make(found)
    assert first.rows["zero-shot CLIP",] == {"EuroSAT": {0: 50.0}} and not warnings
    assert first.rows["SOT-GLP †",]["EuroSAT"] == {0: 91.7}
    assert last.notes == ("No run has such results.",) and figures.make(found) == []
    assert not any("shots" in table.title for table in paper.make(found)[:3])
    assert all(write_as(last) for write_as in (*report.TABLES.values(), formats.web))


def test_what_differs_in_the_method_is_told_apart(tmp_path):
    write(tmp_path, 0.9, **{"method.fusion": "learned"})
    write(tmp_path, 0.9)
    write(tmp_path, 0.8, **{"method.vv": False})
    write(tmp_path, 0.8, method="coop", **{"method.per_class": True})
    for n in (2, 4):
        write(tmp_path, 0.8, variant="no_ot", **{"method.n_local": n})
    write(tmp_path, 0.8, dataset="dtd", variant="no_ot", ood=0.1, **{"method.n_local": 4})
    found, _ = results.load(tmp_path)
    assert list(results.methods(found)) == [
        "CoOp, per_class=True",  # a method of which there are only odd runs
        "SOT-GLP",
        "SOT-GLP, fusion=learned",
        "SOT-GLP, vv=False",
        "w/o transport",
        "w/o transport, n_local=2",
    ]
    assert list(results.mains(found)) == ["CoOp, per_class=True", "SOT-GLP"]
    figures.make(found)
    titles = {labels[1] for table in paper.make(found)[2:] for labels in table.rows}
    assert "w/o transport" in titles and "w/o transport, n_local=4" not in titles


def test_an_odd_run_of_one_data_set_hides_no_other(tmp_path):
    for dataset in ("dtd", "eurosat"):
        for seed in (1, 2):
            write(tmp_path, 0.8, dataset=dataset, seed=seed, **{"method.n_local": 4})
    for n in (1, 2, 3):
        write(tmp_path, 0.1, dataset="dtd", **{"method.n_local": n})
    found, warnings = results.load(tmp_path)
    table = paper.accuracy(found)
    for column in ("DTD", "EuroSAT", "Average"):
        assert formats.written(table.rows["SOT-GLP, fused",][column]) == "80.0 ± 0.0"
    assert ("SOT-GLP, n_local=2",) in paper.ablation(found).rows
    assert len(warnings) == 3  # those have one seed


def test_a_repeated_run_counts_once_and_missing_seeds_are_said(tmp_path):
    for seed in (1, 2):
        folder = write(tmp_path, 0.8 + seed / 100, seed=seed)
    write(tmp_path, 0.7, variant="no_vv")
    shutil.copytree(folder, tmp_path / "y-same")
    shutil.copytree(folder, tmp_path / "z-other")
    change(tmp_path / "z-other", "accuracy", "fused", value=0.1)
    write(tmp_path, 0.7, **{"data.classes": "base"})
    found, warnings = results.load(tmp_path)
    assert formats.written(paper.ablation(found).rows["SOT-GLP",]["digits"]) == "81.5 ± 0.7"
    assert len(warnings) == 3 and "no runs of half the classes" in warnings[0]
    assert "z-other are the same run with other accuracies" in warnings[1]
    assert (
        warnings[2] == f"{tmp_path / 'digits-16-1-sotglp-no_vv'} and its like: only seed 1 of 1, 2."
    )


def test_seeds_that_a_sweep_or_detection_lacks_are_said(tmp_path):
    for seed in (1, 2):
        write(tmp_path, 0.8, seed=seed, ood=0.1 if seed == 1 else None)
    swept = write(tmp_path, 0.8, **{"method.epsilon": 1.0})
    assert results.load(tmp_path)[1] == [
        f"{tmp_path / 'digits-16-1-sotglp-full'} and its like: detection only of seed 1 of 1, 2.",
        f"{swept} and its like: only seed 1 of 1, 2.",
    ]


def test_a_setting_that_an_older_run_lacks_has_its_usual_value(tmp_path):
    write(tmp_path, 0.8)
    older = write(tmp_path, 0.9, seed=2)
    contents = json.loads((older / "results.json").read_text())
    del contents["config"]["method.n_local"], contents["config"]["train.epochs"]
    (older / "results.json").write_text(json.dumps(contents))
    found, warnings = results.load(tmp_path)
    assert warnings == []
    assert formats.written(paper.accuracy(found).rows["SOT-GLP, fused",]["digits"]) == "85.0 ± 7.1"


def test_a_recipe_may_train_longer_with_more_shots(tmp_path):
    write(tmp_path, 0.8)
    fewer = write(tmp_path, 0.7, shots=4)
    change(fewer, "config", "train.epochs", value=20)
    assert len(results.load(tmp_path)[0]) == 2
    change(fewer, "protocol", "changed", value={"train.epochs": 20})
    with pytest.raises(InputError, match="train.epochs is 50 in .* and 20 in"):
        results.load(tmp_path)


def test_odd_names_and_a_cut_line_are_no_trouble(tmp_path):
    folder = write(tmp_path / "runs", 0.9, dataset="$a$ & <b>_{", ood=0.1)
    keep_maps(folder, "$x^$")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3')
    report.write(tmp_path / "runs", tmp_path / "out")
    assert "$a$ &amp; &lt;b&gt;_{" in (tmp_path / "out" / "report.html").read_text()


def test_a_missing_average_is_explained(tmp_path):
    write(tmp_path, 0.9, ood=0.1)
    change(write(tmp_path, 0.9, ood=0.1, dataset="dtd"), "ood", "images", value={"test": 1, "a": 1})
    change(tmp_path / "dtd-16-1-sotglp-full", "ood", "scores", value={})
    write(tmp_path, 0.9, dataset="eurosat")
    found, _ = results.load(tmp_path)
    assert any("is missing" in note for note in paper.detection(found).notes)
    assert not any("75.7" in note for note in paper.accuracy(found).notes)  # no published average


def test_the_page_is_one_whole_file_that_fetches_nothing(runs, made):
    page = (made / "report.html").read_text()
    opened, loaded, tags, linked, places = [], [], [], [], set()

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append((tag, dict(attrs)))
            loaded.extend(v for k, v in attrs if k in ("src", "srcset", "data", "poster"))
            if tag == "a":
                linked.append(dict(attrs)["href"])
            places.add(f"#{dict(attrs).get('id')}")
            if tag not in ("meta", "img"):
                opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Reader().feed(page)
    assert opened == [] and not re.search(r"@import|url\(|fetch\(|https?:", page)
    assert len(linked) > 8 and {*linked} <= places
    pictures = sorted(path.stem for path in made.glob("*.png"))
    assert len(loaded) == len(pictures) == len(list(made.glob("*.pdf"))) > 4
    assert all(source.startswith("data:image/png;base64,") for source in loaded)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags
    assert [tag for tag, _ in tags].count("table") == 4 and page.count("<div class=wide>") == len(
        [*pictures, *range(4)]
    )
    assert page.count("<b>") == sum(len(t.best()) for t in paper.make(results.load(runs)[0]))


def texts_apart(picture):
    """No two texts of a figure overlap; labels of ticks that are out of sight do not count."""
    picture.figure.draw_without_rendering()
    outside = {
        label
        for axis in picture.figure.findobj(Axis)
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if not axis.axes.axison
        or not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    texts = [t for t in picture.figure.findobj(Text) if t.get_visible() and t.get_text()]
    boxes = [(t.get_text(), Text.get_window_extent(t)) for t in texts if t not in outside]
    assert len(boxes) > 5
    for (a, one), (b, other) in itertools.combinations(boxes, 2):
        assert not one.padded(-0.5).overlaps(other), (picture.name, a, b)


def test_figures_have_no_overlapping_text(runs):
    pictures = figures.make(results.load(runs)[0])
    assert [p.name for p in pictures] == [
        "figure3-imagenet",
        "shots",
        "sotglp-fusion_weight",
        "training-imagenet",
        "training-digits",
    ]
    for picture in pictures:
        texts_apart(picture)
    (legend,) = pictures[0].figure.legends
    names = {text.get_text() for text in legend.get_texts()}
    assert {"CoOp", "SOT-GLP", "w/o projection", "GalLoP †", "CLIP (GL) †", "w/o V-V †"} < names
    assert not {"CoOp †", "SOT-GLP †", "CLIP (MCM) †", "LoCoOp (M) †"} & names  # once each


def test_a_curve_is_of_runs_that_differ_in_just_that(tmp_path):
    for k, epsilon in ((1, 0.1), (10, 0.1), (20, 0.5)):
        write(tmp_path, 0.8, **{"method.topk": k, "method.epsilon": epsilon})
    (picture,) = [p for p in figures.make(results.load(tmp_path)[0]) if "topk" in p.name]
    (axes,) = picture.figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "10"]


def keep_maps(folder: Path, *names, **answers):
    """Maps of random numbers, two prompts on 2 x 2 patches, as an evaluation keeps them."""
    rng, n = np.random.default_rng(len(names)), len(names)
    drawn = {"prompts": rng.random((n, 2, 2, 2)), "combined": rng.random((n, 2, 2))}
    drawn |= {"tops": np.tile([0, 1, 3], (n, 2, 1)), "kept": rng.random((n, 2, 2)) > 0.5}
    drawn |= {"shares": np.full((n, 2), 0.5), "images": np.zeros((n, 8, 8, 3), np.uint8)}
    write_arrays(folder / maps.FILE, names=np.array(names), **drawn, **answers)


def test_figure_2_shows_the_classes_that_were_asked_for(tmp_path):
    keep_maps(write(tmp_path / "runs", 0.9), *"abcdefg")
    keep_maps(write(tmp_path / "runs", 0.9, seed=2), "z")  # one run is enough
    keep_maps(write(tmp_path / "runs", 0.9, dataset="dtd"), "zigzagged", "dotted", "b")
    found, _ = results.load(tmp_path / "runs")

    def titles(*classes):
        pictures = figures.make(found, classes)[:2]
        assert [p.name for p in pictures] == ["figure2-dtd", "figure2-digits"]
        assert "SOT-GLP, 16 shots, seed 1" in pictures[1].caption
        panels = [[axes.get_title() for axes in p.figure.axes] for p in pictures]
        assert "prompt 1: 50%" in panels[0] and "combined" in panels[0]
        return [[t for t in p if t and ":" not in t and t != "combined"] for p in panels]

    assert titles() == [["zigzagged", "dotted", "b"], list("abcd")]
    assert titles("f", "b") == [["b"], ["b", "f"]]
    assert titles("dotted") == [["dotted"], list("abcd")]
    with pytest.raises(InputError, match='of a class "x", but of zigzagged, dotted, b, a, c') as e:
        report.write(tmp_path / "runs", tmp_path / "out", ["b", "x"])
    assert "\n" not in str(e.value) and not (tmp_path / "out").exists()


def test_figure_2_shows_what_is_said_of_the_images(tmp_path):
    said = {"given": np.array(["a", "$x^$"]), "probability": np.array([0.9, 0.5])}
    keep_maps(write(tmp_path, 0.9), "a", "b", **said, flagged=np.array([False, True]))
    picture = figures.make(results.load(tmp_path)[0])[0]
    titles = [axes.get_title() for axes in picture.figure.axes]
    assert titles[0] == "a (90%)" and titles[4] == "b, taken for $x^$\n(50%)\nout of distribution"
    texts_apart(picture)


def keep_predictions(folder: Path, label, predicted, probability, maps_of=False, sets=()):
    """What evaluation says of every image, and its mistakes, as it keeps them."""
    given = {"label": np.array(label), "predicted": np.array(predicted)}
    given["probability"] = np.full(len(label), probability)
    found = Predictions(**given, own=given["probability"] / 2)
    write_arrays(folder / classification.FILE, **vars(found))
    (folder / "classes.json").write_text('["cat", "dog", "$x^$"]')
    worst = found.mistakes[: mistakes.MOST]
    arrays = {name: x[worst] for name, x in given.items()}
    if maps_of:
        values = np.linspace(0, 0.5, len(worst) * 8).reshape(-1, 2, 2, 2)
        drawn = {"prompts": values, "combined": values.mean(1)}
        drawn |= {"tops": np.tile([0, 1, 3], (len(worst), 2, 1))}
        drawn |= {"kept": np.ones((len(worst), 2, 2), bool), "shares": np.ones((len(worst), 2))}
        arrays |= drawn
    write_arrays(folder / mistakes.FILE, images=np.zeros((len(worst), 8, 8, 3), np.uint8), **arrays)
    names = json.loads((folder / "results.json").read_text()).get("ood", {"scores": ()})["scores"]
    rng = np.random.default_rng(0)
    scores = {f"{s}/{k}": rng.random(20) for s in sets for k in names}
    if sets:
        write_arrays(folder / closeup.SCORES, **scores)


@pytest.fixture
def looked_at(tmp_path):
    """Two seeds of a method and one of a better one, all right about cats alone."""
    label = [0] * 8 + [1] * 8 + [2] * 4
    for seed in (1, 2):
        folder = write(tmp_path, 0.5 + seed / 100, seed=seed, method="coop")
        keep_predictions(folder, label, [0] * 8 + [2] * 8 + [2] * 4, 0.7)
    folder = write(tmp_path, 0.9, ood=0.1, method="sotglp")
    options = {"maps_of": True, "sets": ("test", *SETS)}
    keep_predictions(folder, label, [0] * 8 + [1] * 8 + [0] * 4, 0.95, **options)
    write(tmp_path, 0.5, dataset="dtd")  # of a version that kept nothing of every image
    return tmp_path


def test_a_closer_look_is_taken_at_the_best_run_and_compares_all(looked_at):
    found, _ = results.load(looked_at)
    (best,) = (r for r in found if "ood" in r.contents)
    best.contents["calibration"] = {"ece": {"before": 0.2, "after": 0.15}}
    told = {"images": 9, "flagged": 0.1, "auroc": 0.48, "separates": False}
    about = {"value": 0.3, "chosen": "recall", "part": "val", "images": 40, "passing": 0.95}
    about |= {"interval": [0.83, 0.99], "unknown": {"none": told}, "score": "gl_mcm"}
    best.contents["ood_threshold"] = about
    seen = closeup.seen(found)
    calibration, classes = closeup.tables(seen, found)
    cells = rows_of(formats.markdown(calibration))
    of = "digits, 16 shots"
    assert cells[f"{of} CoOp", "Accuracy"] == "60.0 ± 0.0"
    assert cells[f"{of} CoOp", "ECE ↓"] == "**10.0 ± 0.0**"
    assert cells[f"{of} SOT-GLP", "ECE ↓"] == "15.0"
    assert cells[f"{of} SOT-GLP", "Mean probability"] == "95.0"
    assert cells[f"{of} SOT-GLP", "ECE before calibration"] == "20.0"
    assert cells[f"{of} CoOp", "ECE before calibration"] == "–"
    assert classes.columns == ("dog (8)", "$x^$ (4)", "cat (8)")  # of equal ones the first
    assert rows_of(formats.markdown(classes))["SOT-GLP", "dog (8)"] == "**100.0**"
    pictures = closeup.pictures(seen, found)
    names = [f"{name}-digits-16-shots" for name in ("confusion", "mistakes", "scores", "roc")]
    assert [p.name for p in pictures] == [*names, "reliability-digits-16-shots"]
    assert all("SOT-GLP, seed 1" in p.caption for p in pictures[:4])
    assert "none: the scores do not separate: AUROC 48 %; 10.0 % of 9 images" in pictures[2].caption
    assert "95.0 % of 40 validation images, so 83.0 to 99.0 % of others" in pictures[2].caption
    kept = [axes.lines[-1].get_xdata()[0] for axes in pictures[2].figure.axes]
    assert kept[2] == 0.3 and kept.count(0.3) == 1  # of the score that predictions take
    with np.load(best.folder / closeup.SCORES) as arrays:
        areas = [detection.auroc(arrays["test/mcm"], arrays[f"{name}/mcm"]) for name in SETS]
    lines = pictures[3].figure.axes[0].lines[: len(SETS)]
    drawn = [np.trapezoid(line.get_ydata(), line.get_xdata()) / 100**2 for line in lines]
    np.testing.assert_allclose(drawn, areas)
    titles = [axes.get_title() for axes in pictures[1].figure.axes]
    assert titles.count("$x^$, taken for cat\n(95%)") == 4 and "combined" in titles
    assert len(pictures[2].figure.axes) == 5  # a score each
    for picture in pictures:
        texts_apart(picture)


def test_mistakes_of_a_method_without_maps_are_shown_too(looked_at):
    found = [r for r in results.load(looked_at)[0] if r.method["name"] == "coop"]
    pictures = closeup.pictures(closeup.seen(found), found)
    assert [p.name.partition("-")[0] for p in pictures] == ["confusion", "mistakes", "reliability"]
    titles = [axes.get_title() for axes in pictures[1].figure.axes]
    assert len(titles) == mistakes.MOST and {*titles} == {"dog, taken for $x^$\n(70%)"}


class Words:
    """A tokenizer of three words."""

    vocab_size = 3

    def word(self, token):
        return "abc"[token]


def test_what_a_run_learned_is_said_as_far_as_there_is_such():
    table = np.eye(4, 2, dtype=np.float32)  # the last row is no word
    contexts = {"context": table[:2], "global": table[None, :2], "own": table[None, None, 1:3]}
    frozen, params = {"text": {"token_embedding": table}}, {"prompt": table}
    said = "\n".join(insights.lines(["cat"], params, frozen, Words(), contexts))
    for line in ("context   a 0.00  b 0.00", "global 1  a 0.00  b 0.00", "cat 1  b 0.00  c 0.00"):
        assert re.search("^  " + line.replace("  ", " +") + "$", said, re.MULTILINE), line
    assert (
        "| prompt | (4, 2) | float32 " in said and "cosines" not in said and "confused" not in said
    )
    alike, counts = np.full((2, 2, 2), 0.5), np.array([[3, 1], [0, 2]])
    said = "\n".join(insights.lines(["cat", "dog"], params, frozen, Words(), {}, alike, counts))
    assert "nearest words" not in said and "least alike: cat, 0.500" in said
    assert "cat for dog: 1 of 4" in said


def test_a_picture_of_what_was_learned_has_the_panels_that_there_are():
    alike, counts = np.full((2, 2, 2), 0.5), np.array([[3, 1], [0, 2]])
    for arguments, panels in (((alike, counts), 2), ((None, counts), 1), ((alike, None), 1)):
        assert len(heatmaps.draw(*arguments, ["cat", "dog"]).axes) == panels


def change(folder: Path, *keys, value):
    contents = json.loads((folder / "results.json").read_text())
    place = contents
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (folder / "results.json").write_text(json.dumps(contents))


def nothing(root):
    root.mkdir()


def unfinished(root):
    (write(root, 0.9) / "results.json").unlink()


def damaged(root):
    (write(root, 0.9) / "results.json").write_text("{")


def other_version(root):
    """Results of before methods said what they are."""
    folder = write(root, 0.9)
    contents = json.loads((folder / "results.json").read_text())
    del contents["method"]
    (folder / "results.json").write_text(json.dumps(contents))


def mixed(*keys, value, dataset="digits"):
    def write_two(root):
        write(root, 0.9, ood=0.1)
        change(write(root, 0.8, ood=0.1, seed=2, dataset=dataset), *keys, value=value)

    return write_two


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (other_version, "results.json is damaged or of another version"),
        (mixed("protocol", "recipe", value="official"), "recipe is paper in .* and official in"),
        (lambda root: None, "is no folder"),
        (nothing, "holds no run: train"),
        (unfinished, "holds no finished run: .*digits-16-1-sotglp-full is unfinished"),
        (damaged, "results.json is damaged or of another version"),
        (mixed("protocol", "template", value="a {}"), "template is digits {} in .* and a {} in"),
        (
            mixed("protocol", "clip", value="x", dataset="dtd"),
            "clip is tiny in .* and x in .*dtd.* put",
        ),
        (mixed("config", "train.epochs", value=3), "train.epochs is 50 in .* and 3 in"),
        (mixed("ood", "temperature", value=2.0), "ood.temperature is 1.0 in .* and 2.0 in"),
    ],
)
def test_bad_runs_folders_are_one_sentence(make, said, tmp_path):
    make(tmp_path / "runs")
    with pytest.raises(InputError, match=said) as caught:
        report.write(tmp_path / "runs", tmp_path / "out")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert not (tmp_path / "out").exists()


def test_the_command_leaves_out_unfinished_runs_and_exits_with_2(tmp_path):
    write(tmp_path / "runs", 0.9)
    folder = write(tmp_path / "runs", 0.9, seed=2)
    (folder / "results.json").unlink()

    def command(*arguments):
        started = [sys.executable, "-m", "sotglp_jax.reports", *map(str, arguments)]
        done = subprocess.run(started, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout, done.stderr

    code, out, err = command(tmp_path / "runs", f"--out={tmp_path / 'out'}")
    assert code == 0 and out == f"report: {tmp_path / 'out' / 'report.html'}\n"
    assert err == f"warning: {folder} is unfinished and left out.\n"
    assert f"{folder} is unfinished" in (tmp_path / "out" / "report.html").read_text()
    code, out, err = command(folder, f"--out={tmp_path / 'out' / 'report.html'}")
    assert code == 2 and err.startswith(f"error: {folder} holds no finished run")
    assert "Traceback" not in err and err.count("\n") == 1


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs the browser chromium")
def test_a_phone_shows_the_page_without_scrolling_it_sideways(made, tmp_path):
    frame = '<iframe id=page src="{}" style="width:375px;height:800px;border:0"></iframe>'
    script = "page.onload=()=>{document.title=page.contentDocument.documentElement.scrollWidth}"
    (tmp_path / "phone.html").write_text(
        frame.format(made / "report.html") + f"<script>{script}</script>"
    )
    browser = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu"]
    browser += ["--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]
    page = f"file://{tmp_path / 'phone.html'}"
    seen = subprocess.run([*browser, "--dump-dom", page], capture_output=True, text=True)
    (width,) = re.findall(r"<title>(\d+)</title>", seen.stdout)
    assert int(width) <= 375
    picture = tmp_path / "phone.png"
    subprocess.run([*browser, f"--screenshot={picture}", page], capture_output=True, check=True)
    assert picture.stat().st_size > 10_000
