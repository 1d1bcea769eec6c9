"""From a table of the paper to its runs, what they take, and the report."""

import json
import re

import pytest
from conftest import ROOT

from sotglp_jax import reproduce, study
from sotglp_jax.configs import ood
from sotglp_jax.configs import reproduce as config_file
from sotglp_jax.data.catalog import BENCHMARKS, ENTRIES
from sotglp_jax.errors import InputError
from sotglp_jax.settings import flatten


def runs_of(arg):
    return study.expand(config_file.get_config(arg), "runs")


def axes(singles):
    """(data set, method, variant, shots) of every run, each with its seeds."""
    found = {}
    for c in (single.config for single in singles):
        found.setdefault((c.dataset, c.method.name, c.variant, c.shots), []).append(c.seed)
    return found


TEN = {"linear_probe", "coop", "cocoop", "maple", "plotpp", "promptsrc", "locoop", "proda"}
TEN |= {"gallop", "sotglp"}
FIVE = {"coop", "promptsrc", "maple", "gallop", "sotglp"}


def test_tables_become_the_papers_runs():
    one, two, four = (axes(runs_of(f"table={n},seeds=1")) for n in (1, 2, 4))
    three = axes(runs_of("table=3"))
    assert set(one) == {(d, m, "full", 16) for d in BENCHMARKS for m in TEN}
    variants = {"full", "no_vv", "no_proj", "shared_local"}
    assert set(two) == {(d, "sotglp", v, 16) for d in BENCHMARKS for v in variants}
    assert three.pop(("imagenet", "zeroshot", "full", 0)) == [0]
    detecting = {"coop", "plotpp", "promptsrc", "locoop", "lsn", "lsn_cocoop", "gallop", "sotglp"}
    expected = {("imagenet", m, "full", 16) for m in detecting}
    expected |= {("imagenet", "sotglp", v, 16) for v in ("no_vv", "no_proj")}
    assert set(three) == expected
    shots = (1, 2, 4, 8, 16)
    assert set(four) == {(d, m, "full", k) for d in BENCHMARKS for m in FIVE for k in shots}
    assert {tuple(x) for x in three.values()} == {(1, 2, 3)}
    singles = runs_of("seeds=1,datasets=imagenet+dtd")
    zero_shot = ("imagenet", "zeroshot", "full", 0)
    every = {x for x in (*one, *two, *three, *four) if x[0] in ("imagenet", "dtd")}
    assert axes(singles).keys() == {*every, zero_shot}
    assert all(s.config.clip.name == "ViT-B/16" for s in singles)
    with_sets = [s for s in singles if s.config.ood.sets]
    assert {tuple(s.config.ood.sets) for s in with_sets} == {ood.SETS["imagenet"]}
    assert axes(with_sets).keys() == {*three, zero_shot}


def test_a_run_is_the_same_in_every_table():
    """So that a table finds the runs of another one finished."""
    found = {}
    for n in (1, 2, 3, 4):
        for single in runs_of(f"suite=demo,table={n}"):
            values = flatten(single.config) | {"ood.sets": ()}
            values = {k: x for k, x in values.items() if not k.startswith("study.")}
            assert found.setdefault(single.folder, values) == values
    (coop,) = [s.config for s in runs_of("table=1,methods=coop,datasets=imagenet,seeds=2")]
    assert coop.method.local == "value" and coop.recipe == "official" and coop.seed == 2
    (probe,) = runs_of("table=1,methods=linear_probe,datasets=imagenet,seeds=1")
    assert probe.config.method.c > 0  # which has no validation images to search it on


def test_the_demo_holds_all_that_the_report_compares():
    singles = runs_of("suite=demo")
    found = axes(singles)
    assert {("digits", m, "full", 16) for m in TEN} < found.keys()
    assert {("digits", m, "full", k) for m in FIVE for k in (1, 4, 16)} < found.keys()
    detecting = axes([s for s in singles if s.config.ood.sets])
    assert TEN | {"zeroshot"} <= {m for _, m, _, _ in detecting}
    assert not {"lsn", "lsn_cocoop"} & {m for _, m, _, _ in found}  # unless asked for
    assert axes(runs_of("suite=demo,methods=lsn,table=3")) == {
        ("digits", "lsn", "full", 16): [1, 2, 3]
    }
    learning = [v for v in (flatten(s.config) for s in singles) if v["method.name"] == "sotglp"]
    assert {v["method.fusion"] for v in learning} == {"fixed", "validated", "learned"}
    assert {v["method.epsilon"] for v in learning} == {0.01, 0.1, 1.0}
    assert len(singles) == len({s.folder for s in singles})


def test_the_suites_that_the_pages_name_exist():
    pages = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    named = {x for p in pages for x in re.findall(r"reproduce\.py:(\S+)", p.read_text())}
    assert len(named) >= 3
    for arg in named:
        config_file.get_config(arg.rstrip("`,"))


def test_lists_leave_runs_out():
    singles = runs_of("suite=demo,methods=coop+zeroshot,shots=1+2,seeds=2+3")
    assert axes(singles) == {
        ("digits", "coop", "full", 1): [2, 3],
        ("digits", "coop", "full", 2): [2, 3],
        ("digits", "zeroshot", "full", 0): [0],
    }
    assert [s.config.shots for s in singles if s.config.ood.sets and s.config.shots] == [2, 2]


def test_what_may_not_stand_in_one_report_has_a_folder_of_its_own():
    args = ("", ",clip=ViT-B/32", ",recipe=official", ",clip=ViT-B/32,recipe=official")
    folders = [
        str(study.expand(config_file.get_config(f"table=3,seeds=1{arg}"), "")[0].folder.parent)
        for arg in args
    ]
    tails = ("", "-ViT-B-32", "-official", "-ViT-B-32-official")
    assert folders == [f"runs/reproduce-paper{tail}" for tail in tails]
    plain = config_file.get_config("table=3,seeds=1,clip=ViT-B/16,recipe=paper")
    assert str(study.expand(plain, "")[0].folder.parent) == folders[0]


def test_a_weight_is_validated_where_there_are_images_for_it():
    singles = runs_of("suite=demo,recipe=official,methods=sotglp")
    ways = {s.config.method.fusion for s in singles}
    assert ways == {"fixed", "learned"}


def test_all_is_looked_for_before_the_first_run():
    """Data, and whether methods fit CLIP and have the images that they need."""
    singles = runs_of("suite=demo,table=3,methods=maple+linear_probe+zeroshot,seeds=1")
    probe, maple, last = (s.config for s in singles)
    maple.method.depth = 1
    reproduce.find_data([probe, maple, last])
    maple.method.depth = 9
    with pytest.raises(InputError, match="depth=9 is more than the 2 layers"):
        reproduce.find_data([maple])
    with pytest.raises(InputError, match="digits gives no validation images"):
        probe.data.sampler = "stratified"
        reproduce.find_data([probe])
    (few,) = runs_of("suite=demo,table=4,methods=sotglp,recipe=official,shots=1,seeds=1")
    with pytest.raises(InputError, match="10 training images make no whole batch of 32"):
        reproduce.find_data([few.config])
    with pytest.raises(InputError, match="nowhere"):
        last.ood.sets = ("nowhere",)
        reproduce.find_data([last])


def test_runs_that_no_report_would_take_together_are_refused_before_the_first(tmp_path):
    arg = "suite=demo,table=1,recipe=official,methods=coop+sotglp"
    with pytest.raises(InputError, match="coop with coop and stratified with sotglp"):
        reproduce.reproduce(config_file.get_config(arg), str(tmp_path), "train", yes=True)
    assert not list(tmp_path.iterdir())


def test_each_data_set_keeps_its_own_defaults():
    of = {
        s.config.dataset: s.config
        for s in runs_of("table=1,methods=sotglp,datasets=eurosat+dtd+digits")
    }
    assert of["digits"].data.crop_scale == (0.6, 1.0) and not of["digits"].data.flip
    assert of["dtd"].data.crop_scale == (0.08, 1.0) and of["dtd"].data.flip
    of = {
        s.config.dataset: s.config
        for s in runs_of("table=1,datasets=eurosat+dtd,recipe=official,methods=sotglp")
    }
    assert (of["eurosat"].train.batch_size, of["dtd"].train.batch_size) == (10, 128)


@pytest.mark.parametrize(
    ("arg", "said"),
    [
        ("table=5", "table=5 is none of the paper's"),
        ("table=one", "table must be a whole number"),
        ("suite=all", 'suite "all" is unknown: take paper or demo'),
        ("dataset=dtd", "the keys are table, suite, methods, datasets, shots, seeds, clip, rec"),
        ("shots=4+x", r"shots=4\+x must be whole numbers"),
        ("methods=coop+cop", '"cop" is none of the tables\': take some of linear_probe, coop'),
        ("table=4,methods=proda", "Table 4 is of coop, promptsrc, maple, gallop, sotglp"),
        ("table=3,datasets=eurosat", "Table 3 is of digits or imagenet"),
    ],
)
def test_what_is_not_in_the_paper_is_refused(arg, said):
    with pytest.raises(InputError, match=said):
        config_file.get_config(arg)


def test_a_plan_counts_runs_and_images(capsys):
    config = config_file.get_config("table=2,datasets=eurosat+dtd")
    with pytest.raises(InputError, match="nothing was started: --yes runs that and writes runs/x"):
        reproduce.reproduce(config, "runs/x", "train", False)
    # 50 epochs of 5 batches of 32 for the 10 classes of EuroSAT, of 23 for the 47 of DTD; 3 seeds.
    steps = 12 * 50 * (5 + 23)
    tests = 12 * (ENTRIES["eurosat"].images[-1] + ENTRIES["dtd"].images[-1])
    said = f"to do: {steps * 32:,} training images in {steps:,} steps, {tests:,} images in "
    assert capsys.readouterr().out.splitlines() == [
        "24 runs, 0 of them finished",
        f"{said}evaluation",
    ]


def test_detection_looks_at_more_images_and_zero_shot_at_no_training():
    config = runs_of("table=3,datasets=digits,clip=tiny,methods=sotglp")[0].config
    assert reproduce.size(config).tested == 897 + 4 * 400
    zero_shot = reproduce.size(runs_of("suite=demo,table=3,methods=zeroshot")[-1].config)
    assert zero_shot == reproduce.Size(steps=0, trained=0, tested=897 + 4 * 400)


def test_the_time_left_is_said_from_the_first_run_of_this_session_on(monkeypatch, tmp_path, capsys):
    """Three runs, of ten minutes each; the second is finished."""
    now = [0.0]

    def run_one(config, folder, mode):
        now[0] += 600
        single = next(s for s in singles if str(s.folder) == folder)
        single.folder.mkdir()
        (single.folder / "results.json").write_text(json.dumps({"config": flatten(config)}))

    monkeypatch.setattr(study, "run_one", run_one)
    monkeypatch.setattr(study.time, "monotonic", lambda: now[0])
    singles = study.expand(
        config_file.get_config("suite=demo,table=1,methods=sotglp"), str(tmp_path)
    )
    run_one(singles[1].config, str(singles[1].folder), "train")
    assert study.run_missing(singles, "train", (100, 0, 200))
    assert capsys.readouterr().out.splitlines() == [
        f"[1 of 3] {singles[0].folder}",
        f"[3 of 3] {singles[2].folder}, about 20 min left",
    ]


def test_a_finished_run_counts_where_its_sets_were_asked_for(tmp_path):
    single = study.expand(
        config_file.get_config("suite=demo,table=1,methods=sotglp"), str(tmp_path)
    )[0]
    asking = study.expand(
        config_file.get_config("suite=demo,table=3,methods=sotglp"), str(tmp_path)
    )[0]
    assert asking.folder == single.folder and not single.finished
    results = {"config": flatten(single.config)}
    single.folder.mkdir()
    path = single.folder / "results.json"
    path.write_text(json.dumps(results))
    assert single.finished and not asking.finished
    results["ood"] = {"images": {"test": 897} | dict.fromkeys(ood.SETS["digits"], 400)}
    results["ood"]["temperature"] = 1.0
    path.write_text(json.dumps(results))
    assert single.finished and asking.finished
    asking.config.ood.temperature = 2.0
    assert not asking.finished
    path.write_text('{"config": ')
    assert not single.finished


@pytest.mark.slow
def test_a_suite_runs_to_its_report(main, clip_folder, tmp_path, capsys):
    arg = f"suite=demo,table=1,methods=sotglp,seeds=1,clip={clip_folder}"
    once = ("--config.train.epochs=1", "--config.train.warmup_epochs=0")
    once += ("--config.precision=float32",)
    config = f"--config=configs/reproduce.py:{arg}"
    code, out, err = main(config, f"--workdir={tmp_path}", *once, "--yes")
    assert code == 0, err
    assert "1 run, 0 of them finished" in out and f"report: {tmp_path}/report/report.html" in out
    (results,) = tmp_path.glob("*/results.json")
    fused = json.loads(results.read_text())["accuracy"]["fused"]
    assert f"{100 * fused:.1f}" in (tmp_path / "report" / "table1.md").read_text()
    config = config_file.get_config(arg)
    config.precision = "float32"
    config.train.update(epochs=1, warmup_epochs=0)
    with pytest.raises(InputError, match="nothing was started"):
        reproduce.reproduce(config, str(tmp_path), "train", False)
    assert capsys.readouterr().out.startswith("1 run, 1 of them finished\nto do: 0 training images")
