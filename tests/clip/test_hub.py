"""Downloads, against a hub on this machine."""

import hashlib
import http.server
import threading

import clips
import pytest

from sotglp_jax.clip import hub
from sotglp_jax.errors import InputError

COMMIT = "0" * 40


class Hub(http.server.ThreadingHTTPServer):
    """Serves {repository: {file name: content}} as huggingface.co does."""

    def __init__(self, repositories):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.requests, self.damage = repositories, [], False


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, with_body):
        repository, _, name = self.path.lstrip("/").partition("/resolve/main/")
        self.server.requests.append((self.command, name))
        files = self.server.repositories.get(repository, {})
        body = files.get(name)
        self.send_response(200 if body is not None else 404)
        if body is None:
            self.send_header("X-Error-Code", "EntryNotFound" if files else "RepoNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body or b"").hexdigest()}"')
        if body is not None and self.server.damage and with_body:
            body = b"X" + body[1:]
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if with_body and body is not None:
            self.wfile.write(body)

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    files = {p.name: p.read_bytes() for p in clips.write(tmp_path / "made").iterdir()}
    tokenizer = {"tokenizer.json": files.pop("tokenizer.json")}
    weights = files["model.safetensors"]
    config = b'{"model_cfg": {"quick_gelu": true}}'
    served = Hub(
        {
            hub.OPENAI["ViT-B/16"]: {
                "open_clip_model.safetensors": weights,
                "model.safetensors": b"a vision tower alone",
                "open_clip_config.json": config,
            },
            hub.OPENAI_VOCABULARY: tokenizer,
            "someone/clip": {"model.safetensors": weights} | tokenizer,
            "someone/else": {"pytorch_model.bin": b"a pickle"},
        }
    )
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{served.server_port}"
    for module in ("constants", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.ENDPOINT", address, raising=False)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


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
