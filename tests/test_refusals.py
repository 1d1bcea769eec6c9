"""What the command does not take, and what configurations are."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

from sotglp_jax.configs import common
from sotglp_jax.errors import InputError
from sotglp_jax.main import load
from sotglp_jax.settings import flatten, validate
from sotglp_jax.study import run_one
from sotglp_jax.workdir import default_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--config=FILE is missing"),
        (["--config=README.md"], "README.md is no Python file"),
        (
            ["--config=configs/fewshot.py:method=coop", "--config.method.topk=5"],
            "no `topk` in coop; it has class_specific, ctx_init, local, n_ctx, position.",
        ),
        (["--config=configs/fewshot.py", "--nothing=1"], "Unknown command line flag"),
        (["--config=configs/fewshot.py", "stray"], '"stray" is no flag'),
        (["--config=configs/fewshot.py", "--workdir=setup.py/run"], "cannot be written"),
        (["--config=configs/fewshot.py", "--mode=eval"], "no finished"),
        (["--config=configs/fewshot.py", "--yes"], "--yes answers configs/reproduce.py alone"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(main, arguments, said, tmp_path):
    workdir = tmp_path / "run"
    code, _, err = main(f"--workdir={workdir}", *arguments)  # the last one given counts
    assert code == 2 and said in err and "Traceback" not in err
    assert len([x for x in err.splitlines() if x.startswith("error: ")]) == 1
    assert not workdir.exists()


@pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config=configs/fewshot.py", "--config.train.lr.x=1"], "no `x` in lr; it is a value"),
        (["--config=configs/fewshot.py:seed=-1"], "seed=-1 is too small"),
        (["--config=configs/fewshot.py", "--config.method.context="], "has 0 tokens"),
        (["--config=configs/fewshot.py", "--config.data.crop_scale=('a','b')"], "two shares"),
        (
            ["--config=configs/nothing.py"],
            "no file configs/nothing.py is here; the package has c",
        ),
        (["--config=configs/fewshots.py"], "the package has configs/fewshot.py, configs/ablation"),
        (["--config=mine/fewshot.py"], "no file mine/fewshot.py is here"),
        (
            ["--config=configs/fewshot.py:sots=1"],
            "the keys are dataset, shots, seed, clip, method, recipe",
        ),
        (["--config=configs/fewshot.py:shots=many"], "shots must be a whole number"),
        (["--config=configs/fewshot.py:recipe=soup"], "take paper or official"),
        (["--config=configs/fewshot.py", "--config.train.foo=1"], "no `foo` in train; it has"),
        (
            ["--config=configs/fewshot.py", "--config.method.topkk=5"],
            "--config.method.topkk=5: no `topkk` in sotglp; it has topk, average_mean, "
            "average_std, class_specific,",
        ),
        (["--config=configs/zeroshot.py", "--config.method.fusion=learned"], "no `fusion` in"),
        (["--config=configs/fewshot.py:method=soup"], 'method "soup" is unknown'),
        (["--config=configs/fewshot.py", "--config.shots=few"], "--config.shots=few"),
        (["--config=configs/fewshot.py", "--config.recipe=official"], "FILE:recipe=VALUE"),
        (["--config=configs/fewshot.py:dataset=nothing"], "no known name"),
        (["--config=configs/fewshot.py:clip=/nowhere.safetensors"], "no file or folder here"),
        (["--config=configs/fewshot.py", "--config.mesh=99"], "mesh=99 does not fit"),
        (["--config=configs/fewshot.py", "--config.method.topk=65"], "than the 64"),
        (["--config=configs/ood.py", "--config.ood.sets=('test',)"], 'write it as "./test"'),
    ],
)
def test_configurations_that_cannot_be_run_are_refused(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config, *overrides = arguments
    with pytest.raises(InputError, match=re.escape(said)):
        run_one(load(config.removeprefix("--config="), overrides), str(tmp_path / "run"), "train")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("precision", "fp8", "set --config.precision to 'float32', 'bf16'"),
        ("data.sampler", "all", "data.sampler"),
        ("method.local_init", "zeros", "'template', 'random', 'gram'"),
        ("method.n_global", 0, "n_global=0 is too small"),
        ("train.epochs", 5, "all warm-up"),
        ("train.batch_size", 0, "batch_size"),
        ("method.epsilon", 0.0, "epsilon"),
        ("method.fusion_weight", float("nan"), "fusion_weight"),
        ("data.crop_scale", (0.5, 0.1), "crop_scale"),
    ],
)
def test_values_out_of_range_are_refused(key, value, said):
    config = common.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError, match=said):
        validate(config)


@pytest.mark.parametrize(
    ("arg", "folder"),
    [
        ("", "digits-tiny-16shot-seed1"),
        ("dataset=eurosat,clip=ViT-B/16,shots=4,seed=2", "eurosat-ViT-B-16-4shot-seed2"),
        (
            "dataset=/data/split_zhou_Pets.json,clip=/models/big/",
            "split_zhou_Pets-big-16shot-seed1",
        ),
        ("dataset=some/folder/,clip=ViT-L/14@336", "folder-ViT-L-14@336-16shot-seed1"),
    ],
)
def test_run_folders_are_named_after_the_configuration(arg, folder):
    assert str(default_path(common.get_config(arg))) == f"runs/{folder}"


@pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections
def test_a_configuration_that_is_here_wins_over_the_packages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("configs/shots.py:seed=7", ["--config.train.lr=0.5"]).train.lr == 0.5
    (tmp_path / "configs").mkdir()
    own = "from sotglp_jax.configs.common import get_config as common\n"
    own += "def get_config(arg=''):\n    return common('shots=3')\n"
    (tmp_path / "configs" / "shots.py").write_text(own)
    assert load("configs/shots.py:seed=7", []).shots == 3


@pytest.mark.parametrize(
    ("dataset", "epochs", "batch_size", "lr", "n_local"),
    [
        ("imagenet", 50, 256, 0.01, 4),
        ("caltech101", 200, 32, 0.005, 6),
        ("oxford_pets", 200, 32, 0.005, 6),
        ("stanford_cars", 200, 32, 0.005, 4),
        ("food101", 200, 128, 0.005, 6),
        ("fgvc_aircraft", 200, 128, 0.01, 2),
        ("eurosat", 200, 10, 0.001, 4),
    ],
)
def test_recipe_official_is_the_scripts(dataset, epochs, batch_size, lr, n_local):
    config = flatten(common.get_config(f"dataset={dataset},clip=ViT-B/16,recipe=official"))
    assert (config["train.epochs"], config["train.batch_size"]) == (epochs, batch_size)
    assert (config["train.lr"], config["method.n_local"]) == (lr, n_local)
    assert config["method.local_init"] == "random" and config["train.drop_last"] == "always"
    assert config["data.renumber"] == (dataset == "stanford_cars")
    assert config["data.pool"] == ("train+val" if dataset == "fgvc_aircraft" else "train")
    assert config["method.n_global"] == 3 and config["method.mean_of_branches"]
    assert config["data.sampler"] == "stratified" and config["precision"] == "bf16"
    assert config["method.keep_underscores"] and config["train.warmup_epochs"] == 0


def test_a_reader_who_has_seen_enough_gets_no_traceback():
    program = "from sotglp_jax.errors import run_command; run_command(lambda _: print('x' * 10**6))"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141
    process.stderr.close()
