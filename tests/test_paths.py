"""Addresses where files and folders of this machine are asked for."""

from pathlib import Path

import pytest

from sotglp_jax import Classifier, exchange, export, main, predict, study
from sotglp_jax.configs import common
from sotglp_jax.data import __main__ as data
from sotglp_jax.data import datasets
from sotglp_jax.errors import InputError
from sotglp_jax.inspect import command as inspect
from sotglp_jax.paths import local
from sotglp_jax.reports import __main__ as reports
from sotglp_jax.run import prepare

BUCKET, OTHER = "gs://bucket/there", "s3://bucket/there"


def run_data(*arguments):
    parsed = data.parse(["data", *arguments])
    parsed.function(parsed)


@pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections
@pytest.mark.parametrize(
    "start",
    [
        lambda: run_data("check", "eurosat", "--root", BUCKET),
        lambda: run_data("fetch", "eurosat", "--root", BUCKET),
        lambda: run_data("prepare", "digits", "--out", BUCKET),
        lambda: exchange.parse(["exchange", "out", "run", f"--out={BUCKET}"]),
        lambda: exchange.parse(["exchange", "in", BUCKET]),
        lambda: inspect.parse(["inspect", "run", f"--out={BUCKET}"]),
    ],
)
def test_what_stays_on_this_machine_refuses_buckets(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"{BUCKET} is an address, and only .* this machine can"):
        start()
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:the load_module")
@pytest.mark.parametrize(
    "start",
    [
        lambda: prepare(common.get_config(), OTHER),
        lambda: study.expand(main.load("configs/shots.py", ()), OTHER),
        lambda: prepare(common.get_config(f"dataset={OTHER}")),
        lambda: prepare(main.load("configs/fewshot.py", (f"--config.ood.sets=('{OTHER}',)",))),
        lambda: datasets.resolve("eurosat", OTHER),
        lambda: datasets.resolve("tfds:mnist", OTHER),
        lambda: datasets.unlabelled("sun", OTHER),
        lambda: predict.parse(["predict", OTHER, "a.png"]),
        lambda: predict.parse(["predict", "run", "a.png", "--maps", OTHER]),
        lambda: predict.image_names([OTHER], {}),
        lambda: export.parse(["export", OTHER, "--out=x"]),
        lambda: export.parse(["export", "run", f"--out={OTHER}"]),
        lambda: exchange.parse(["exchange", "out", OTHER, "--out=x.safetensors"]),
        lambda: inspect.parse(["inspect", OTHER]),
        lambda: reports.parse(["reports", OTHER, "--out=x"]),
        lambda: reports.parse(["reports", "runs", f"--out={OTHER}"]),
        lambda: Classifier.load(OTHER),
    ],
)
def test_every_command_refuses_other_addresses(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"{OTHER} is an address, and only .* below gs://BUCKET"):
        start()
    assert not list(tmp_path.iterdir())


def test_what_is_an_address():
    for given in ("s3://b/x", "S3:b", "hf:owner/name", "hf://x", "https://x/y.jpg", "file:///x"):
        with pytest.raises(InputError, match="is an address"):
            local(given)
    for given in ("a:b", "./hf:x", "runs/gs:/x", "C:/x", "-"):
        assert local(given) == Path(given)
    assert local("~/x") == Path.home() / "x"
