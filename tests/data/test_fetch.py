"""Downloads against a server on this machine."""

import hashlib
import http.server
import io
import json
import subprocess
import sys
import tarfile
import threading
import zipfile

import pytest
from conftest import ROOT

from sotglp_jax.data import fetch
from sotglp_jax.data.catalog import Download, Entry
from sotglp_jax.errors import InputError


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`, also from a position on; may break off after some bytes."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = int((self.headers.get("Range") or "bytes=0-")[6:].rstrip("-"))
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start : self.server.breaks_at])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the client's own retries
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.asked, server.breaks_at = {}, [], None
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def archive(kind, members):
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
    else:
        with tarfile.open(fileobj=stream, mode=f"w:{kind}") as file:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def entry(server, content, path="/x", **options):
    server.files[path] = content
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    options = {"gives": "set/images", "into": "set"} | options
    return Entry((), 0, (0, 0, 1), downloads=(Download(server.url + path, digest, **options),))


@pytest.mark.parametrize("kind", ["gz", "", "zip"])
def test_an_archive_is_fetched_checked_and_unpacked(server, tmp_path, kind):
    content = archive(kind, {"images/a.jpg": b"a" * 5000, "images/b/c.jpg": b"c"})
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "split.json").write_text("{}")
    whole = entry(server, content)
    fetch.fetch("set", whole, tmp_path)
    assert (tmp_path / "set" / "images" / "a.jpg").read_bytes() == b"a" * 5000
    assert (tmp_path / "set" / "images" / "b" / "c.jpg").read_bytes() == b"c"
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == ["images", "split.json"]
    assert not list((tmp_path / "downloads").iterdir())
    fetch.fetch("set", whole, tmp_path)
    assert len(server.asked) == 1  # what is there is not fetched again


def test_a_plain_file_and_an_archive_in_an_archive(server, tmp_path):
    inner = archive("gz", {"101/a.jpg": b"a"})
    nested = entry(server, archive("zip", {"cal/101.tar.gz": inner}), into="", gives="cal/101")
    nested = Download(**vars(nested.downloads[0]) | {"nested": "cal/101.tar.gz"})
    split = entry(server, b"{}", path="/split", into=None, gives="cal/split.json").downloads[0]
    fetch.fetch("cal", Entry((), 0, (0, 0, 1), downloads=(nested, split)), tmp_path)
    assert sorted(p.name for p in (tmp_path / "cal").iterdir()) == ["101", "split.json"]
    assert (tmp_path / "cal" / "101" / "a.jpg").read_bytes() == b"a"


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    content = archive("", {"images/a.jpg": bytes(range(256)) * 400})
    whole = entry(server, content)
    server.breaks_at = 40_000
    with pytest.raises(InputError, match="could not be downloaded whole .* same command goes on"):
        fetch.fetch("set", whole, tmp_path)
    assert not (tmp_path / "set").exists()
    there = next((tmp_path / "downloads").iterdir()).stat().st_size
    assert 0 < there <= 40_000
    server.breaks_at, server.asked[:] = None, []
    fetch.fetch("set", whole, tmp_path)
    assert server.asked == [("/x", f"bytes={there}-")]
    assert (tmp_path / "set" / "images" / "a.jpg").read_bytes() == bytes(range(256)) * 400


def test_killed_between_download_and_unpacking(server, tmp_path):
    content = archive("gz", {"images/a.jpg": b"a"})
    whole = entry(server, content)
    (tmp_path / "downloads").mkdir()
    name = whole.downloads[0].digest.removeprefix("sha256:")
    (tmp_path / "downloads" / f"{name}.part").write_bytes(content)
    fetch.fetch("set", whole, tmp_path)
    assert (tmp_path / "set" / "images" / "a.jpg").exists()


def test_a_wrong_hash_is_refused_and_removed(server, tmp_path):
    wrong = entry(server, archive("gz", {"images/a.jpg": b"a"}))
    server.files["/x"] = b"<html>quota exceeded</html>"
    with pytest.raises(InputError, match="another file than expected"):
        fetch.fetch("set", wrong, tmp_path)
    assert not (tmp_path / "set").exists() and not list((tmp_path / "downloads").iterdir())


def test_a_missing_file_and_a_missing_server(server, tmp_path):
    absent = entry(server, b"")
    del server.files["/x"]
    with pytest.raises(InputError, match="HTTP status 404"):
        fetch.fetch("set", absent, tmp_path)
    nowhere = Download("http://127.0.0.1:9/x", "md5:0", "set")
    with pytest.raises(InputError, match="check the network"):
        fetch.fetch("set", Entry((), 0, (0, 0, 1), downloads=(nowhere,)), tmp_path)


def test_a_full_disk_is_said(server, tmp_path):
    whole = entry(server, b"a" * 100_000, into=None)
    (tmp_path / "downloads").mkdir()
    name = whole.downloads[0].digest.removeprefix("sha256:")
    (tmp_path / "downloads" / f"{name}.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match="No space left on device.*make room"):
        fetch.fetch("set", whole, tmp_path)


@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_no_member_leaves_the_folder(server, tmp_path, kind):
    content = archive(kind, {"images/a.jpg": b"a", "../../evil.txt": b"e"})
    root = tmp_path / "deep" / "root"
    try:
        fetch.fetch("set", entry(server, content), root)
    except InputError as error:
        assert "cannot be unpacked" in str(error) and not (root / "set" / "images").exists()
    assert not [p for p in tmp_path.rglob("evil.txt") if not p.is_relative_to(root / "set")]


def test_the_command_says_what_is_there_and_what_is_left(tmp_path):
    (tmp_path / "dtd" / "images").mkdir(parents=True)
    split = {part: [["a.jpg", 0, "banded"]] for part in ("train", "val", "test")}
    (tmp_path / "dtd" / "images" / "a.jpg").write_bytes(b"")
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    for name, said in (("dtd", "images is there already"), ("ucf101", "by hand, from https")):
        command = [sys.executable, "-m", "sotglp_jax.data", "fetch", name, f"--root={tmp_path}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0 and said in done.stdout, done.stderr
