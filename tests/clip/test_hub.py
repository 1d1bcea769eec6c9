"""Downloads, against a hub on this machine."""

import clips
import hubs
import pytest

from sotglp_jax.clip import hub
from sotglp_jax.errors import InputError


@pytest.fixture
def server(tmp_path, monkeypatch):
    files = {p.name: p.read_bytes() for p in clips.write(tmp_path / "made").iterdir()}
    tokenizer = {"tokenizer.json": files.pop("tokenizer.json")}
    weights = files["model.safetensors"]
    config = b'{"model_cfg": {"quick_gelu": true}}'
    repositories = {
        hub.OPENAI["ViT-B/16"]: {
            "open_clip_model.safetensors": weights,
            "model.safetensors": b"a vision tower alone",
            "open_clip_config.json": config,
        },
        hub.OPENAI_VOCABULARY: tokenizer,
        "someone/clip": {"model.safetensors": weights} | tokenizer,
        "someone/else": {"pytorch_model.bin": b"a pickle"},
    }
    with hubs.serve(repositories, tmp_path / "cache", monkeypatch) as served:
        yield served


def test_a_name_brings_weights_config_and_openai_vocabulary(server):
    files = hub.find("ViT-B/16")
    assert [w.name for w in files.weights] == ["open_clip_model.safetensors"]
    assert files.config == {"model_cfg": {"quick_gelu": True}}
    assert files.tokenizer.is_file()
    assert ("GET", "model.safetensors") not in server.requests


def test_the_second_time_needs_no_network(server):
    first = hub.find("someone/clip")
    server.repositories.clear()
    assert hub.find("someone/clip") == first


def test_a_repository_with_its_own_tokenizer(server):
    files = hub.find("someone/clip")
    assert [w.name for w in files.weights] == ["model.safetensors"]
    assert "someone" in str(files.tokenizer) and files.config == {}


def test_a_lone_file_takes_the_vocabulary_from_the_cache(server, tmp_path):
    hub.find("ViT-B/16")
    lone = clips.write(tmp_path / "lone") / "model.safetensors"
    (lone.parent / "tokenizer.json").unlink()
    assert hub.find(str(lone)).tokenizer.is_file()


def test_damaged_downloads_are_removed(server):
    server.damage = True
    with pytest.raises(InputError, match="arrived damaged"):
        hub.find("someone/clip")
    server.damage = False
    assert hub.find("someone/clip").weights[0].is_file()


@pytest.mark.parametrize(
    ("name", "said"),
    [("someone/else", "has no complete"), ("no/repository", "cannot be downloaded")],
)
def test_what_is_not_there_is_said(server, name, said):
    with pytest.raises(InputError, match=said):
        hub.find(name)


def test_no_network_is_said(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="is not in the hub's local cache"):
        hub.find("ViT-B/32")


def test_a_cache_that_another_tool_filled_works_offline(server, monkeypatch):
    from huggingface_hub import hf_hub_download

    for name in ("model.safetensors", "tokenizer.json"):  # nothing was ever asked for in vain
        hf_hub_download("someone/clip", name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.find("someone/clip").weights[0].name == "model.safetensors"
