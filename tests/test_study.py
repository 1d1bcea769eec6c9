"""Several runs and their table: numbers of shots, base to new, transfer to other data sets."""

import copy
import json
import statistics

import numpy as np
import pytest
from PIL import Image

from configs import common, sensitivity, shots
from sotglp_jax import study as studies
from sotglp_jax import tables
from sotglp_jax.data import datasets
from sotglp_jax.data.sources import choose_classes
from sotglp_jax.errors import InputError
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
    check_same(single.folder, flatten(single.config), ())
    single.config.train.batch_size = 32  # of the recipe, but not of this data set in it
    assert not single.finished
    with pytest.raises(InputError, match=r"in train.batch_size \(default 10 there, 32 now\):"):
        check_same(single.folder, flatten(single.config), ())


def test_a_setting_that_is_gone_makes_a_difference(tmp_path):
    single = written(shots.get_config("shots=1,seed=1"), tmp_path, **{"method.old": 3})
    assert not single.finished
    with pytest.raises(InputError, match=r"in method.old \(3 there, no such setting now\):"):
        check_same(single.folder, flatten(single.config), ())


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
    keys = ("fusion_weight", "topk")
    points = [
        (*(s.config.method[key] for key in keys), s.config.transport.epsilon, s.config.seed)
        for s in singles
    ]
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


def test_runs_that_differ_do_not_share_a_folder():
    same = [("x", {"method.topk": 4}), ("x", {"method.topk": 5})]
    config = common.study(common.get_config(), "seed=1", "settings", (16,), same)
    with pytest.raises(InputError, match=r"seed1-x, .* method.topk \(4 there, 5 now\)"):
        studies.expand(config, "runs")


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
    local = np.arange(10.0)[:, None]
    selected = run.method.select_classes({"local_prompts": local, "global_prompts": 1}, (9, 2, 0))
    assert selected["local_prompts"][:, 0].tolist() == [9, 2, 0]
    assert selected["global_prompts"] == 1


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


def test_accuracy_by_shots_and_over_targets():
    def result(shots, seed, value):
        protocol = {"dataset": "dtd", "clip": "tiny", "recipe": "paper"}
        protocol |= {"shots": shots, "seed": seed}
        accuracy = {"zero_shot": 0.5, "fused": value, "global": value, "local": value}
        target = {
            "protocol": protocol | {"dataset": "x"},
            "accuracy": {"zero_shot": 0.4, "global": value / 2},
        }
        judged = {"a": target, "b": target | {"accuracy": {"zero_shot": 0.4, "global": value}}}
        return {"protocol": protocol, "accuracy": accuracy, "targets": judged}

    results = [result(k, s, 0.6 + k / 100 + s / 10) for k in (1, 16) for s in (1, 2)]
    lines = tables.few_shot(results).splitlines()
    assert lines[1].split() == ["1-shot", "16-shot"]
    assert "zero-shot CLIP" in lines[2] and "SOT-GLP, fused" in lines[3]
    assert lines[3].split()[2:] == ["76.0", "±", "7.1", "91.0", "±", "7.1"]
    lines = tables.transfer(results[:2]).splitlines()
    assert lines[1].split() == ["dtd", "a", "b", "mean", "of", "others"]
    assert lines[3].split() == "SOT-GLP 76.0 ± 7.1 38.0 ± 3.5* 76.0 ± 7.1* 57.0 ± 5.3".split()
    assert lines[-1].startswith("* global branch")


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
