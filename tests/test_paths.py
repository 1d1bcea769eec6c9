"""Addresses where files and folders of this machine are asked for."""

from pathlib import Path

import pytest

from sotglp_jax import Classifier, exchange, export, main, predict
from sotglp_jax.configs import common
from sotglp_jax.data import __main__ as data
from sotglp_jax.data import datasets
from sotglp_jax.errors import InputError
from sotglp_jax.inspect import command as inspect
from sotglp_jax.paths import local
from sotglp_jax.reports import __main__ as reports
from sotglp_jax.run import prepare

BUCKET = "gs://bucket/there"


def run_data(*arguments):
    parsed = data.parse(["data", *arguments])
    parsed.function(parsed)


@pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections
@pytest.mark.parametrize(
    "start",
    [
        lambda: prepare(common.get_config(f"dataset={BUCKET}")),
        lambda: prepare(main.load("configs/fewshot.py", (f"--config.ood.sets=('{BUCKET}',)",))),
        lambda: datasets.resolve("eurosat", BUCKET),
        lambda: datasets.resolve("tfds:mnist", BUCKET),
        lambda: datasets.unlabelled("sun", BUCKET),
        lambda: run_data("check", "eurosat", "--root", BUCKET),
        lambda: run_data("fetch", "eurosat", "--root", BUCKET),
        lambda: run_data("prepare", "digits", "--out", BUCKET),
        lambda: predict.parse(["predict", BUCKET, "a.png"]),
        lambda: predict.parse(["predict", "run", "a.png", "--maps", BUCKET]),
        lambda: predict.image_names([BUCKET], {}),
        lambda: export.parse(["export", BUCKET, "--out=x"]),
        lambda: export.parse(["export", "run", f"--out={BUCKET}"]),
        lambda: exchange.parse(["exchange", "out", BUCKET, "--out=x.safetensors"]),
        lambda: exchange.parse(["exchange", "out", "run", f"--out={BUCKET}"]),
        lambda: exchange.parse(["exchange", "in", BUCKET]),
        lambda: inspect.parse(["inspect", BUCKET]),
        lambda: inspect.parse(["inspect", "run", f"--out={BUCKET}"]),
        lambda: reports.parse(["reports", BUCKET, "--out=x"]),
        lambda: reports.parse(["reports", "runs", f"--out={BUCKET}"]),
        lambda: Classifier.load(BUCKET),
    ],
)
def test_every_command_refuses_addresses(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"{BUCKET} is an address"):
        start()
    assert not list(tmp_path.iterdir())


def test_what_is_an_address():
    for given in ("s3://b/x", "S3:b", "hf:owner/name", "hf://x", "https://x/y.jpg", "file:///x"):
        with pytest.raises(InputError, match="is an address"):
            local(given)
    for given in ("a:b", "./hf:x", "runs/gs:/x", "C:/x", "-"):
        assert local(given) == Path(given)
    assert local("~/x") == Path.home() / "x"
