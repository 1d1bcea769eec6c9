"""Several runs and their table: numbers of shots, base to new, transfer to other data sets."""

import copy
import json
import re
import statistics

import numpy as np
import pytest
from PIL import Image

from sotglp_jax import study as studies
from sotglp_jax.configs import ablation, beyond, common, sensitivity, shots
from sotglp_jax.data import datasets
from sotglp_jax.data.sources import choose_classes
from sotglp_jax.errors import InputError
from sotglp_jax.methods.sotglp import SotGlp
from sotglp_jax.reports import tables
from sotglp_jax.run import prepare
from sotglp_jax.settings import flatten
from sotglp_jax.workdir import check_same

SHORT = (
    "--config.train.epochs=1",
    "--config.train.warmup_epochs=0",
    "--config.train.batch_size=16",
    "--config.precision=float32",
)


def test_the_halves_of_the_classes_share_the_same_shots():
    digits = datasets.resolve("digits")
    base, new = (choose_classes(digits, half) for half in (range(5), range(5, 10)))
    assert base.class_names == ("zero", "one", "two", "three", "four")
    assert new.class_names[0] == "five" and set(new.test.labels) == set(range(5))
    assert len(base.test) + len(new.test) == 897
    for half, first in ((base, 0), (new, 5)):
        for i in (0, len(half.test) - 1):
            assert (
                digits.class_names[half.test[i]["label"] + first]
                == (
                    digits.class_names[
                        digits.test.labels[digits.test.names.index(half.test.names[i])]
                    ]
                )
            )


@pytest.fixture(scope="module")
def study(main, clip_folder, tmp_path_factory):
    """Base-to-new on the digits over two seeds, one step each: folder, output."""
    folder = tmp_path_factory.mktemp("study")
    command = (
        f"--config=configs/base_to_new.py:clip={clip_folder},shots=2",
        "--config.study.seeds=(1, 2)",
        f"--workdir={folder}",
        *SHORT,
    )
    code, out, err = main(*command)
    assert code == 0, err
    return folder, command, out


def results_of(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/results.json"))]


def test_base_to_new_trains_on_base_and_judges_both(study):
    folder, _, out = study
    results = results_of(folder)
    assert [r["protocol"]["seed"] for r in results] == [1, 2]
    for result in results:
        assert result["images"] == {"train": 10, "test": 448}
        new = result["targets"]["new"]
        assert set(new["accuracy"]) == {"zero_shot", "global"} and new["images"]["test"] == 449
        assert new["protocol"]["classes"] == result["protocol"]["classes"] == 5
    table = out[out.rindex("digits, ") :].splitlines()
    assert "mean ± standard deviation over seeds 1, 2" in table[0] and table[1].split()[-1] == "H"
    base, new = (
        [100 * r["accuracy"]["fused"] for r in results],
        [100 * r["targets"]["new"]["accuracy"]["global"] for r in results],
    )
    row = table[3].replace(" ± ", "±").split()
    assert row[0] == "SOT-GLP"
    assert row[1] == f"{statistics.mean(base):.1f}±{statistics.stdev(base):.1f}"
    assert row[2] == f"{statistics.mean(new):.1f}±{statistics.stdev(new):.1f}*"
    means = statistics.mean(base), statistics.mean(new)
    assert row[3] == f"{2 * means[0] * means[1] / sum(means):.1f}"
    assert table[5].startswith("* global branch")


def test_finished_runs_are_not_run_again(study, main):
    folder, command, out = study
    before = [path.stat().st_mtime_ns for path in sorted(folder.glob("*/results.json"))]
    code, again, err = main(*command)
    assert code == 0, err
    assert again == out[out.rindex("digits, ") :]
    assert [p.stat().st_mtime_ns for p in sorted(folder.glob("*/results.json"))] == before
    code, _, err = main(*command, "--config.method.topk=4")
    assert code == 2 and "method.topk (10 there, 4 now)" in err


def test_one_run_of_a_study_can_be_run_alone(monkeypatch, tmp_path, capsys):
    ran = []
    monkeypatch.setattr(studies, "run_one", lambda *arguments: ran.append(arguments))
    config = shots.get_config()
    studies.run_only(config, str(tmp_path), "train", 4)
    single = studies.expand(config, str(tmp_path))[4]
    ((alone, folder, mode),) = ran
    assert (alone.shots, alone.seed, folder, mode) == (2, 2, str(single.folder), "train")
    assert capsys.readouterr().out == f"[1 of 1] {folder}\n"  # and no table


def written(config, folder, without=(), **more):
    """The only run of a study, and its results as a version without some settings wrote them."""
    (single,) = studies.expand(config, str(folder))
    theirs = {k: x for k, x in flatten(config).items() if k.split(".")[0] != "study"}
    theirs = {k: x for k, x in theirs.items() if k not in without} | more
    single.folder.mkdir()
    (single.folder / "results.json").write_text(json.dumps({"config": theirs}))
    (single.folder / "config.json").write_text(json.dumps(theirs))
    return single


NEWER = ("train.batch_size", "data.flip", "variant", "targets")


def test_a_setting_that_an_older_run_lacks_had_its_default(tmp_path):
    arg = "dataset=eurosat,recipe=official,shots=1,seed=1"
    single = written(shots.get_config(arg), tmp_path, without=NEWER)
    assert single.finished
    check_same(single.folder, flatten(single.config), (), ())
    single.config.train.batch_size = 32  # of the recipe, but not of this data set in it
    assert not single.finished
    with pytest.raises(InputError, match=r"in train.batch_size \(default 10 there, 32 now\):"):
        check_same(single.folder, flatten(single.config), (), ())


def test_a_run_is_finished_when_it_was_evaluated_as_is_asked(tmp_path):
    single = written(shots.get_config("shots=1,seed=1"), tmp_path)
    for key, value, more in (
        ("eval.calibrate", True, {"calibration": {}}),
        ("ood.sets", ("noise",), {"ood": {"images": {"noise": 1}, "temperature": 1.0}}),
        ("ood.threshold", "unknown", {"ood_threshold": {"chosen": "unknown"}}),
    ):
        single.config.update_from_flattened_dict({key: value})
        assert not single.finished
        path = single.folder / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
        assert single.finished


def test_a_setting_that_is_gone_makes_a_difference(tmp_path):
    single = written(shots.get_config("shots=1,seed=1"), tmp_path, **{"method.old": 3})
    assert not single.finished
    with pytest.raises(InputError, match=r"in method.old \(3 there, no such setting now\):"):
        check_same(single.folder, flatten(single.config), (), ())


@pytest.fixture(scope="module")
def insects(tmp_path_factory):
    """Ten of the digits' class names in another order, and two other classes."""
    root = tmp_path_factory.mktemp("others")
    for folder, names in (("same", ["nine", "zero", "two"]), ("strange", ["bee", "zero"])):
        for c, name in enumerate(names):
            for part in ("train", "test"):
                path = root / folder / part / name
                path.mkdir(parents=True)
                pixels = np.random.default_rng(c).integers(0, 256, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(path / "x.png")
    return root


@pytest.mark.parametrize("recipe", ["paper", "official"])
def test_a_sweep_has_its_usual_point_once(recipe):
    singles = studies.expand(sensitivity.get_config(f"recipe={recipe}"), "")
    keys = ("fusion_weight", "topk", "epsilon")
    points = [(*(s.config.method[key] for key in keys), s.config.seed) for s in singles]
    assert len(points) == len(set(points)) == 3 * (7 + 5 + 3 - 2)


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("/a/photos", "/b/photos", "dtd"), ("a-photos", "b-photos", "dtd")),
        (("/a/split.json", "/b/split.json"), ("a-split", "b-split")),
        (("eurosat", "/a/eurosat/"), ("eurosat", "a-eurosat")),
        (("/a/photos", "/b/pictures"), ("photos", "pictures")),
    ],
)
def test_data_sets_of_one_stem_have_folders_of_their_own(names, folders):
    config = common.study(
        common.get_config(), "seed=1", "few_shot", (16,), [("", {"dataset": x}) for x in names]
    )
    singles = studies.expand(config, "runs")
    assert [s.config.dataset for s in singles] == list(names)
    assert [s.folder.name for s in singles] == [f"{x}-tiny-16shot-seed1" for x in folders]


def test_variants_that_need_validation_images_are_in_a_study_of_their_own():
    ablated, more = (
        {single.config.variant for single in studies.expand(file.get_config(), "")}
        for file in (ablation, beyond)
    )
    assert ablated | more == {"full", *SotGlp.variants}
    assert more - ablated == {"validated_epsilon", "ensemble"}


def test_runs_that_differ_do_not_share_a_folder():
    same = [("x", {"method.topk": 4}), ("x", {"method.topk": 5})]
    config = common.study(common.get_config(), "seed=1", "settings", (16,), same)
    with pytest.raises(InputError, match=r"seed1-x, .* method.topk \(4 there, 5 now\)"):
        studies.expand(config, "runs")


@pytest.mark.slow  # its small case is test_prompts_are_selected_by_class
def test_local_prompts_go_where_their_classes_go(main, insects, clip_folder, tmp_path):
    run = tmp_path / "run"
    config = f"--config=configs/fewshot.py:clip={clip_folder},shots=1"
    targets = f"--config.targets=('{insects}/same','{insects}/strange')"
    cached = ("--config.cache.views=1", f"--config.cache.folder={tmp_path}/cache")
    code, out, err = main(config, targets, f"--workdir={run}", *cached, *SHORT)
    assert code == 0, err
    judged = json.loads((run / "results.json").read_text())["targets"]
    assert set(judged[f"{insects}/same"]["accuracy"]) == {"zero_shot", "fused", "global", "local"}
    assert set(judged[f"{insects}/strange"]["accuracy"]) == {"zero_shot", "global"}
    assert "no local prompts of their own" in out


def test_prompts_are_selected_by_class(insects, clip_folder, tmp_path):
    config = common.get_config(f"clip={clip_folder},targets={insects}/same+{insects}/strange")
    config.precision = "float32"
    run = prepare(config, str(tmp_path))
    from sotglp_jax.run import seen_classes

    same, strange = (target.dataset for target in run.targets.values())
    assert same.class_names == ("nine", "two", "zero")
    assert seen_classes(run, same) == (9, 2, 0) and seen_classes(run, strange) == ()
    params = {"local_prompts": np.arange(10.0)[:, None], "global_prompts": 1}
    method, selected = run.method.on(params, (9, 2, 0))
    assert method == run.method and selected["global_prompts"] == 1
    assert selected["local_prompts"][:, 0].tolist() == [9, 2, 0]
    assert list(run.method.on(params, ())[0].logits) == ["global"]


def test_a_table_refuses_to_mix_protocols(study):
    results = results_of(study[0])
    assert "SOT-GLP" in tables.base_to_new(results)
    for field, value in (("template", "a {}"), ("sampler", "stratified"), ("transforms", 0)):
        other = copy.deepcopy(results)
        other[1]["protocol"][field] = value
        with pytest.raises(InputError, match=f"their {field} is .* and {value} in another"):
            tables.base_to_new(other)
    other = copy.deepcopy(results)
    other[1]["targets"]["new"]["protocol"]["test_images_sha256"] = "0"
    with pytest.raises(InputError, match="test_images_sha256"):
        tables.base_to_new(other)
    mixed = copy.deepcopy(results)
    mixed[1]["protocol"]["shots"] = 4
    with pytest.raises(InputError, match="shots"):
        tables.base_to_new(mixed)
    mixed = copy.deepcopy(results)
    mixed[1]["protocol"]["changed"] = {"method.topk": 4}
    with pytest.raises(InputError, match="their changed is .*topk"):
        tables.base_to_new(mixed)


SOTGLP = {"title": "SOT-GLP", "usual": {"topk": 10, "fusion": "fixed"}}
SOTGLP |= {"logits": {"fused": "fused", "global": "global only", "local": "local only"}}
COOP = {"title": "CoOp", "usual": {}, "logits": {"prompted": ""}}
NOTE = "global branch: these classes were not trained on"


def result_of(method, value, shots=16, seed=1, targets=()):
    """Contents of a results file; `targets`: (name, accuracies beside zero_shot, note) of each."""
    protocol = {"dataset": "dtd", "clip": "tiny", "shots": shots, "seed": seed}
    protocol |= {"recipe": "paper", "method": method["title"].lower(), "changed": {}}
    said = {
        name: {
            "protocol": protocol | {"dataset": dataset},
            "accuracy": {"zero_shot": 0.4, **accuracy},
            "images": {"test": 9},
            "note": note,
        }
        for name, dataset, accuracy, note in targets
    }
    accuracy = {"zero_shot": 0.5} | dict.fromkeys(method["logits"], value)
    return {
        "method": method,
        "protocol": protocol,
        "accuracy": accuracy,
        "images": {"train": 8, "test": 9},
        "targets": said,
        "config": {"method.topk": 10, "method.fusion": "fixed"},
        "learned": {},
    }


def cells(table):
    """(title, columns, rows of cells by the title) of a written table."""
    title, head, *lines = table.splitlines()
    split = [re.split(r"  +", line.strip()) for line in lines if line.startswith("  ")]
    return title, re.split(r"  +", head.strip()), {row[0]: row[1:] for row in split}


def test_accuracy_by_shots_of_several_methods():
    results = [
        result_of(method, base + k / 100 + s / 10, k, s)
        for method, base in ((SOTGLP, 0.6), (COOP, 0.5))
        for k in (1, 16)
        for s in (1, 2)
    ]
    _, columns, rows = cells(tables.few_shot(results))
    assert columns == ["1-shot", "16-shot"]
    assert rows == {
        "zero-shot CLIP": ["50.0 ± 0.0", "50.0 ± 0.0"],
        "SOT-GLP, fused": ["76.0 ± 7.1", "91.0 ± 7.1"],
        "SOT-GLP, global only": ["76.0 ± 7.1", "91.0 ± 7.1"],
        "SOT-GLP, local only": ["76.0 ± 7.1", "91.0 ± 7.1"],
        "CoOp": ["66.0 ± 7.1", "81.0 ± 7.1"],
    }
    results[-1]["protocol"]["recipe"] = "official"  # of the two runs of one method
    with pytest.raises(InputError, match="recipe is paper in one run and official in another"):
        tables.few_shot(results)


def transferred(seed):
    targets = [
        ("a", "x", {"global": 0.3 + seed / 10}, NOTE),
        ("b", "y", {"fused": 0.5, "global": 0.2, "local": 0.9}, ""),
    ]
    return result_of(SOTGLP, 0.7 + seed / 100, seed=seed, targets=targets)


def test_accuracy_over_targets_is_of_what_decides_there():
    results = [transferred(1), transferred(2)]
    table = tables.transfer(results)
    _, columns, rows = cells(table)
    assert columns == ["dtd", "x", "y", "mean of others"]
    assert rows == {
        "zero-shot CLIP": ["50.0 ± 0.0", "40.0 ± 0.0", "40.0 ± 0.0", "40.0 ± 0.0"],
        "SOT-GLP": ["71.5 ± 0.7", "45.0 ± 7.1*", "50.0 ± 0.0", "47.5 ± 3.5"],
        "SOT-GLP, global only": ["71.5 ± 0.7", "45.0 ± 7.1", "20.0 ± 0.0", "32.5 ± 3.5"],
    }
    assert table.splitlines()[-1] == f"* {NOTE}"


def test_a_method_that_has_nothing_for_a_target_has_a_dash_there():
    nothing = [("new", "dtd", {}, "CoOp has none for these classes")]
    known = [("new", "dtd", {"global": 0.6}, NOTE)]
    table = tables.base_to_new(
        [result_of(SOTGLP, 0.8, targets=known), result_of(COOP, 0.9, targets=nothing)]
    )
    _, columns, rows = cells(table)
    assert columns == ["base", "new", "H"]
    assert rows["SOT-GLP"] == ["80.0", "60.0*", "68.6"] and rows["CoOp"] == ["90.0", "-**", "-"]
    assert table.splitlines()[-2:] == [f"* {NOTE}", "** CoOp has none for these classes"]


def test_accuracy_by_setting_names_the_logits_alone():
    results = [result_of(SOTGLP, 0.8), result_of(SOTGLP, 0.9), result_of(COOP, 0.7)]
    results[1]["protocol"]["changed"] = {"method.topk": 5}
    labels = ("usual", "topk=5", "coop")
    labelled = [x | {"label": label} for x, label in zip(results, labels, strict=True)]
    _, columns, rows = cells(tables.settings(labelled))
    assert columns == ["zero-shot CLIP", "fused", "global only", "local only", "accuracy"]
    assert rows["topk=5"] == ["50.0", "90.0", "90.0", "90.0", "-"]
    assert rows["coop"] == ["50.0", "-", "-", "-", "70.0"]


def test_a_run_says_all_it_knows():
    result = transferred(1)
    result["learned"] = {"fusion": {"global": 1.0, "local": 0.25}}
    assert tables.of_run(result).splitlines() == [
        "dtd, tiny, 8 training and 9 test images, seed 1",
        "  zero-shot CLIP          50.0%",
        "  SOT-GLP, fused          71.0%",
        "  SOT-GLP, global only    71.0%",
        "  SOT-GLP, local only     71.0%",
        "x, 9 test images",
        "  zero-shot CLIP          40.0%",
        "  SOT-GLP, global only    40.0%",
        f"  {NOTE}",
        "y, 9 test images",
        "  zero-shot CLIP          40.0%",
        "  SOT-GLP, fused          50.0%",
        "  SOT-GLP, global only    20.0%",
        "  SOT-GLP, local only     90.0%",
    ]
    result["config"]["method.fusion"] = "learned"
    result["learned"]["background"] = {"K": 1000}
    said = ["  fusion: 1 global, 0.25 local", "  background: 1000 K"]
    assert tables.of_run(result).splitlines()[5:7] == said


def test_scores_of_detection_have_titles_for_any_method():
    scores = ("gl_mcm", "fused", "transport", "own")
    result = {"method": SOTGLP, "ood": {}}
    titles = [tables.score_title(result, score) for score in scores]
    assert titles == ["GL-MCM", "largest fused logit", "largest φ", "own"]
    assert tables.score_title(result | {"method": COOP}, "prompted") == "largest logit"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config=configs/shots.py", "--config.study.seeds=()"], "study.seeds=() must be"),
        (["--config=configs/cross_dataset.py:dataset=digits"], "dataset imagenet is not below"),
        (["--config=configs/domain_shift.py"], "dataset imagenet is not below"),
        (["--config=configs/fewshot.py", "--config.data.classes=old"], "data.classes"),
        (["--config=configs/fewshot.py:targets=nothing"], "no known name"),
        (["--config=configs/fewshot.py", "--only=0"], "--only names a run of a study"),
        (["--config=configs/shots.py", "--only=15"], "--only=15 is past the study's runs"),
    ],
)
def test_bad_studies_are_one_sentence_and_exit_code_2(main, arguments, said, tmp_path):
    code, _, err = main(f"--workdir={tmp_path / 'run'}", *arguments)
    assert code == 2 and said in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()
