"""From a table of the paper to its runs, what they take, and the report."""

import json

import pytest

from configs import ood
from configs import reproduce as config_file
from sotglp_jax import reproduce, study
from sotglp_jax.data.catalog import BENCHMARKS, ENTRIES
from sotglp_jax.errors import InputError
from sotglp_jax.settings import flatten


def runs_of(arg):
    return study.expand(config_file.get_config(arg), "runs")


def name_of(config):
    """The variant, or zero-shot CLIP."""
    return "zero_shot" if config.method.name == "zeroshot" else config.variant


def axes(singles):
    """(data set, variant, shots) of every run, each with its seeds."""
    found = {}
    for c in (single.config for single in singles):
        found.setdefault((c.dataset, name_of(c), c.shots), []).append(c.seed)
    return found


def test_tables_become_the_papers_runs():
    one, two, three, four = (axes(runs_of(f"table={n}")) for n in (1, 2, 3, 4))
    assert set(one) == {(dataset, "full", 16) for dataset in BENCHMARKS}
    assert {variant for _, variant, _ in two} == {"full", "no_vv", "no_proj", "shared_local"}
    assert len(two) == 4 * len(BENCHMARKS) and one.keys() < two.keys()
    assert {v for _, v, _ in three} == {"full", "no_vv", "no_proj", "zero_shot"}
    assert three.pop(("imagenet", "zero_shot", 0)) == [0]
    assert {d for d, _, _ in three} == {"imagenet"}
    assert {(d, k) for d, _, k in four} == {(d, k) for d in BENCHMARKS for k in (1, 2, 4, 8, 16)}
    assert {tuple(x) for found in (one, two, three, four) for x in found.values()} == {(1, 2, 3)}
    assert axes(runs_of("")).keys() == {*one, *two, *three, *four, ("imagenet", "zero_shot", 0)}
    assert all(s.config.clip.name == "ViT-B/16" for s in runs_of(""))
    detecting = [s.config for s in runs_of("") if s.config.ood.sets]
    assert {tuple(c.ood.sets) for c in detecting} == {ood.SETS["imagenet"]}
    assert {(c.dataset, name_of(c), c.shots or 16) for c in detecting} == {
        ("imagenet", variant, 16) for variant in ("full", "no_vv", "no_proj", "zero_shot")
    }


def test_the_demo_holds_all_that_the_report_compares():
    singles = runs_of("suite=demo")
    found = axes(singles)
    variants = ("full", "no_vv", "no_proj", "shared_local")
    assert {("digits", v, k) for v in variants for k in (1, 4, 16)} < found.keys()
    learning = [v for v in (flatten(s.config) for s in singles) if v["shots"]]
    assert {v["method.fusion"] for v in learning} == {"fixed", "validated", "learned"}
    assert {v["method.epsilon"] for v in learning} == {0.01, 0.1, 1.0}
    assert len(singles) == len({s.folder for s in singles}) == 3 * (4 * 3 + 5) + 1
    (seed,) = {s.config.seed for s in runs_of("suite=demo,table=2,seed=2")}
    assert seed == 2


def test_what_may_not_stand_in_one_report_has_a_folder_of_its_own():
    args = ("", ",clip=ViT-B/32", ",recipe=official", ",clip=ViT-B/32,recipe=official")
    folders = [
        str(study.expand(config_file.get_config(f"table=1{arg}"), "")[0].folder.parent)
        for arg in args
    ]
    tails = ("", "-ViT-B-32", "-official", "-ViT-B-32-official")
    assert folders == [f"runs/reproduce-paper{tail}" for tail in tails]
    plain = config_file.get_config("table=1,clip=ViT-B/16,recipe=paper")
    assert str(study.expand(plain, "")[0].folder.parent) == folders[0]


def test_a_weight_is_validated_where_there_are_images_for_it():
    singles = [s for s in runs_of("suite=demo,recipe=official") if s.config.shots]
    ways = {s.config.method.fusion for s in singles}
    assert ways == {"fixed", "learned"}


def test_all_data_is_looked_for_before_the_first_run():
    configs = [s.config for s in runs_of("suite=demo,table=3")]
    reproduce.find_data(configs)
    configs[-1].ood.sets = ("nowhere",)
    with pytest.raises(InputError, match="nowhere"):
        reproduce.find_data(configs)


def test_each_data_set_keeps_its_own_defaults():
    of = {s.config.dataset: s.config for s in runs_of("table=1,dataset=eurosat+dtd+digits")}
    assert of["digits"].data.crop_scale == (0.6, 1.0) and not of["digits"].data.flip
    assert of["dtd"].data.crop_scale == (0.08, 1.0) and of["dtd"].data.flip
    of = {
        s.config.dataset: s.config for s in runs_of("table=1,dataset=eurosat+dtd,recipe=official")
    }
    assert (of["eurosat"].train.batch_size, of["dtd"].train.batch_size) == (10, 128)


@pytest.mark.parametrize(
    ("arg", "said"),
    [
        ("table=5", "table=5 is none of the paper's"),
        ("table=one", "table must be a whole number"),
        ("suite=all", 'suite "all" is unknown: take paper or demo'),
        ("shots=4", "the keys are table, suite, dataset, clip, recipe, seed"),
        ("table=3,dataset=eurosat", "Table 3 is of digits or imagenet"),
    ],
)
def test_what_is_not_in_the_paper_is_refused(arg, said):
    with pytest.raises(InputError, match=said):
        config_file.get_config(arg)


def test_a_plan_counts_runs_and_images(capsys):
    config = config_file.get_config("table=1,dataset=eurosat+dtd")
    with pytest.raises(InputError, match="nothing was started: --yes runs that and writes runs/x"):
        reproduce.reproduce(config, "runs/x", "train", False)
    # 50 epochs of 5 batches of 32 for the 10 classes of EuroSAT, of 23 for the 47 of DTD; 3 seeds.
    steps = 3 * 50 * (5 + 23)
    tests = 3 * (ENTRIES["eurosat"].images[-1] + ENTRIES["dtd"].images[-1])
    said = f"to do: {steps * 32:,} training images in {steps:,} steps, {tests:,} images in "
    assert capsys.readouterr().out.splitlines() == [
        "6 runs, 0 of them finished",
        f"{said}evaluation",
    ]


def test_detection_looks_at_more_images_and_zero_shot_at_no_training():
    config = runs_of("table=3,dataset=digits,clip=tiny")[0].config
    assert reproduce.size(config).tested == 897 + 4 * 400
    zero_shot = reproduce.size(runs_of("suite=demo,table=3")[-1].config)
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
    singles = study.expand(config_file.get_config("suite=demo,table=1"), str(tmp_path))
    run_one(singles[1].config, str(singles[1].folder), "train")
    assert study.run_missing(singles, "train", (100, 0, 200))
    assert capsys.readouterr().out.splitlines() == [
        f"[1 of 3] {singles[0].folder}",
        f"[3 of 3] {singles[2].folder}, about 20 min left",
    ]


def test_a_finished_run_counts_where_its_sets_were_asked_for(tmp_path):
    single = study.expand(config_file.get_config("suite=demo,table=1"), str(tmp_path))[0]
    asking = study.expand(config_file.get_config("suite=demo,table=3"), str(tmp_path))[0]
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
    arg = f"suite=demo,table=1,seed=1,clip={clip_folder}"
    once = ("--config.train.epochs=1", "--config.train.warmup_epochs=0")
    once += ("--config.precision=float32",)
    config = f"--config=configs/reproduce.py:{arg}"
    code, out, err = main(config, f"--workdir={tmp_path}", *once, "--yes")
    assert code == 0, err
    assert "1 runs, 0 of them finished" in out and f"report: {tmp_path}/report/report.html" in out
    (results,) = tmp_path.glob("*/results.json")
    fused = json.loads(results.read_text())["accuracy"]["fused"]
    assert f"{100 * fused:.1f}" in (tmp_path / "report" / "table1.md").read_text()
    config = config_file.get_config(arg)
    config.precision = "float32"
    config.train.update(epochs=1, warmup_epochs=0)
    with pytest.raises(InputError, match="nothing was started"):
        reproduce.reproduce(config, str(tmp_path), "train", False)
    assert capsys.readouterr().out.startswith(
        "1 runs, 1 of them finished\nto do: 0 training images"
    )
