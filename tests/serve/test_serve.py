"""What the server answers, what it refuses, and that nothing of a request is kept."""

import asyncio
import base64
import concurrent.futures
import hashlib
import io
import json
import re
import socket
import struct
import tempfile
import time
import zlib

import numpy as np
import pytest
import served
import uvicorn
from PIL import Image
from served import NAMES, encoded
from starlette.testclient import TestClient

from sotglp_jax import Classifier
from sotglp_jax.data import pictures
from sotglp_jax.errors import InputError
from sotglp_jax.serve import __main__ as command
from sotglp_jax.serve import app, decode
from sotglp_jax.serve.batching import Batcher
from sotglp_jax.serve.limits import Limits

LIMITS = Limits(bytes=4 << 20, pictures=4, pixels=1_000_000, seconds=10)
COLOURS = ("blue", "red", "lime", "gray")


def client_of(classifier, **options):
    made = app.make(classifier, "colours", **{"limits": LIMITS} | options)
    return TestClient(made, base_url="http://localhost:8000")


@pytest.fixture(scope="module")
def client():
    with client_of(served.classifier()) as client:
        yield client


def form(*contents):
    return [("picture", (f"{i}.png", x)) for i, x in enumerate(contents)]


def as_json(*contents):
    return {"pictures": [base64.b64encode(x).decode() for x in contents]}


def test_pictures_are_answered_in_order_by_form_and_by_json(client):
    contents = [encoded(x) for x in COLOURS]
    answer = client.post("/predict", files=form(*contents))
    records = answer.json()["pictures"]
    assert answer.status_code == 200 and set(records[0]) == {
        *("class", "probability", "top", "ood_score", "out_of_distribution")
    }
    assert [x["class"] for x in records[:3]] == ["blue", "red", "green"]
    assert [x["out_of_distribution"] for x in records] == [False, False, False, True]
    for record in records:
        assert record["top"][0] == [record["class"], record["probability"]]
        assert sorted(name for name, _ in record["top"]) == sorted(NAMES)
    assert client.post("/predict", json=as_json(*contents)).json()["pictures"] == records
    own = served.classifier()([Image.open(io.BytesIO(x)) for x in contents])
    assert records == json.loads(json.dumps([own.record(i, 5) for i in range(4)]))


def test_options_choose_what_an_answer_holds(client):
    content = encoded("red", (30, 10), "JPEG")

    def ask(**options):
        return client.post("/predict", params=options, files=form(content)).json()["pictures"][0]

    assert len(ask(top=2)["top"]) == 2
    found = ask(maps=1, seen=1)
    assert np.shape(found["maps"]["prompts"]) == (2, 2, 2) and found["maps"]["shares"] == [0.5, 0.5]
    kind, data = found["seen"].split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (served.SIDE, served.SIDE)
    score = ask()["ood_score"]
    for recall in (0.5, 1):
        threshold = served.classifier().threshold_at(recall)
        assert ask(recall=recall)["out_of_distribution"] == (score < threshold)


def test_what_cannot_be_read_is_told_beside_what_can(client):
    answer = client.post("/predict", files=form(b"no picture", encoded("red")))
    broken, sound = answer.json()["pictures"]
    assert answer.status_code == 200 and sound["class"] == "red"
    assert broken == {"error": "the picture cannot be read: it holds no image of a known kind."}
    assert client.post("/predict", files=form(b"", encoded()[:50])).status_code == 422


def png_of(width, height):
    """A header of so many pixels, which do not follow."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(name + data))
        body += struct.pack(">I", len(data)) + name + data + crc
    return body


@pytest.mark.parametrize("size", [(1001, 1000), (12_000, 10_000), (50_000, 50_000)])
def test_too_many_pixels_are_refused_by_the_header_alone(client, size):
    answer = client.post("/predict", files=form(png_of(*size)))
    assert answer.status_code == 422
    assert re.search("pixels and at most|bomb", answer.json()["pictures"][0]["error"])


def test_pillows_other_decoders_never_see_a_request(client, monkeypatch):
    """That of EPS would start a program."""
    image, files = Image.new("RGB", (8, 8)), []
    for kind in ("EPS", "TIFF", "ICO", "PCX"):
        file = io.BytesIO()
        image.save(file, kind)
        files.append(file.getvalue())
    answer = client.post("/predict", files=form(*files))
    assert answer.status_code == 422
    assert all("no image of a known kind" in x["error"] for x in answer.json()["pictures"])


def many_scans(count):
    """A progressive JPEG that says one of its scans so many times."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    image = Image.fromarray(noise).resize((1000, 1000))
    file = io.BytesIO()
    image.save(file, "JPEG", progressive=True, quality=20)
    content = file.getvalue()
    begins = [x.start() for x in re.finditer(b"\xff\xda", content)]
    begin, end = begins[1], begins[2]
    return content[:begin] + content[begin:end] * count + content[end:]


def test_a_decoder_stops_when_its_time_is_up():
    content, resize = many_scans(20_000), served.classifier().resize
    began = time.monotonic()
    with pytest.raises(InputError, match="the picture cannot be read: it takes too long"):
        decode.load(content, resize, Limits(seconds=0.05))
    assert time.monotonic() - began < 5
    plain = many_scans(1)
    ours = decode.load(plain, resize, LIMITS)
    np.testing.assert_array_equal(ours, pictures.load(Image.open(io.BytesIO(plain)), resize))


BOUNDARY = {"content-type": 'Multipart/Form-Data; Boundary="x"'}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        ({"url": "/nowhere"}, 404, "Not Found"),
        ({"url": "/predict/"}, 404, "Not Found"),
        ({"url": "/../../etc/passwd"}, 404, "Not Found"),
        ({"url": "/predict", "method": "GET"}, 405, "Not Allowed"),
        ({"url": "/predict"}, 415, "send multipart/form-data with a file"),
        ({"headers": {"content-type": "text/plain"}}, 415, "send multipart"),
        ({"headers": {"content-type": "multipart/form-data"}}, 400, "name the boundary"),
        ({"headers": BOUNDARY, "content": b"nothing"}, 400, "form of 1 to 4 files"),
        ({"headers": BOUNDARY, "content": b"--x--"}, 400, "there is no picture"),
        ({"headers": BOUNDARY, "content": b'--x\r\nfilename=""\r\n\r\n'}, 400, "form of 1 to 4"),
        ({"data": {"a": "b"}, "files": form(b"")}, 400, "and of nothing else"),
        ({"files": form(*[b""] * 5)}, 400, "form of 1 to 4 files"),
        ({"headers": JSON, "content": b"{"}, 400, "send {"),
        ({"headers": JSON, "content": b"[" * 100_000}, 400, "send {"),
        ({"headers": JSON, "content": b'{"pictures": [1]}'}, 400, "send {"),
        ({"headers": JSON, "content": b'{"pictures": ["not base64"]}'}, 400, "send {"),
        ({"json": {"pictures": ["aaaa"], "more": 1}}, 400, "send {"),
        ({"json": {"pictures": ["aaaa"] * 5}}, 400, "at most 4 pictures"),
        ({"json": {"pictures": []}}, 400, "there is no picture"),
        ({"files": form(bytes(5 << 20))}, 413, "a request may have 4 MiB"),
        ({"params": {"top": 0}}, 400, "give top=NUMBER"),
        ({"params": {"maps": "yes"}}, 400, "give top=NUMBER"),
        ({"params": {"path": "/etc"}}, 400, "give top=NUMBER"),
        ({"params": {"recall": "nan"}}, 400, "recall=nan is no share"),
        ({"headers": {"host": "evil.example"}}, 400, "open this server by its address"),
        ({"headers": {"host": "evil@127.0.0.1"}}, 400, "open this server by its address"),
        ({"headers": {"origin": "http://evil.example"}}, 403, "pages of other servers"),
        ({"headers": {"origin": "null"}}, 403, "pages of other servers"),
        ({"headers": {"origin": "http://localhost:1"}}, 403, "pages of other servers"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(client, request_, status, said):
    if "params" in request_:
        request_ |= {"files": form(encoded())}
    answer = client.request(**{"method": "POST", "url": "/predict"} | request_)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"] and "content-security-policy" in answer.headers


def test_addresses_and_the_given_name_are_hosts():
    with client_of(served.classifier(), host="gpu") as client:
        for host in ("127.0.0.1:8000", "[::1]:8000", "LOCALHOST", "192.168.1.7", "gpu"):
            headers = {"host": host, "origin": f"http://{host}"}
            answer = client.post("/predict", headers=headers, files=form(encoded()))
            assert answer.status_code == 200, host


def test_a_method_without_maps_or_threshold_says_so():
    with client_of(served.classifier(served.without_maps, None, np.array([]))) as client:
        about = client.get("/about").json()
        assert not about["maps"] and about["threshold"] is None and about["recalls"] == []
        record = client.post("/predict", files=form(encoded())).json()["pictures"][0]
        assert set(record) == {"class", "probability", "top"}
        for option, said in (("maps", "no local prompts"), ("recall", "no scores are kept")):
            answer = client.post("/predict", params={option: "1"}, files=form(encoded()))
            assert answer.status_code == 400 and said in answer.json()["error"]


def test_a_failure_of_ours_is_one_sentence_and_its_log_is_escaped(caplog):
    class Failing:
        broken = False

        def __call__(self, pixels):
            if self.broken:
                raise RuntimeError("forged\n\x1b[31mline")
            return served.program(pixels)

    program = Failing()
    with client_of(served.classifier(program)) as client:
        program.broken = True
        answer = client.post("/predict", files=form(encoded()))
        assert answer.status_code == 500 and "forged" not in answer.text
        assert r"RuntimeError: 'forged\n\x1b[31mline'" in caplog.text
        program.broken = False
        assert client.post("/predict", files=form(encoded())).status_code == 200


def test_requests_share_batches_of_two_sizes():
    rows = []

    def program(pixels):
        rows.append(len(pixels))
        time.sleep(0.02)
        return served.program(pixels)

    with client_of(served.classifier(program)) as client:
        began = len(rows)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            colours = COLOURS[:3] * 8
            ask = lambda x: client.post("/predict", files=form(encoded(x))).json()  # noqa: E731
            found = [x["pictures"][0]["class"] for x in pool.map(ask, colours)]
    assert found == [{"lime": "green"}.get(x, x) for x in colours]
    assert set(rows) == {1, 8} and len(rows) - began < len(colours) / 2


def test_who_no_longer_waits_takes_no_place():
    taken = []

    async def run():
        batcher = Batcher(lambda items: [taken.append(items)] * len(items), 2)
        gone = [asyncio.ensure_future(batcher(i)) for i in range(2)]
        await asyncio.sleep(0)
        [one.cancel() for one in gone]
        running = asyncio.create_task(batcher.run())
        await asyncio.gather(*(batcher(i) for i in (2, 3)))
        running.cancel()

    asyncio.run(run())
    assert taken == [[2, 3]]


def test_no_file_is_made_of_a_request(client, monkeypatch):
    """Parsers of forms write what is larger than a megabyte to disk."""
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda *_, **__: pytest.fail("a file"))
    monkeypatch.setattr(tempfile, "mkstemp", lambda *_, **__: pytest.fail("a file"))
    large = encoded("red", (900, 900), "BMP")
    assert len(large) > 2 << 20
    assert client.post("/predict", files=form(large)).status_code == 200


def test_the_description_is_of_what_is_answered(client):
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/about", "/healthz", "/predict"}
    schemas = described["components"]["schemas"]
    post = described["paths"]["/predict"]["post"]
    options = {x["name"] for x in post["parameters"]}
    assert options == {"top", "recall", "maps", "seen"}
    assert set(post["responses"]) == {"200", *map(str, (400, 403, 408, 413, 415, 422, 503))}
    answer = client.post("/predict?maps=1&seen=1", files=form(encoded())).json()
    assert set(answer["pictures"][0]) == set(schemas["Record"]["properties"])
    assert set(answer["pictures"][0]["maps"]) == set(schemas["Maps"]["properties"])
    about = client.get("/about").json()
    assert set(about) == set(schemas["About"]["properties"])
    assert client.get("/healthz").json() == {"status": "ok"}
    shares = [x["share"] for x in about["recalls"]]
    assert shares == sorted(shares) and about["known_images"] == len(served.KNOWN)
    assert all(x["interval"][0] <= x["share"] <= x["interval"][1] for x in about["recalls"])


def test_a_threshold_that_was_chosen_otherwise_is_one_of_those_offered():
    with client_of(served.classifier(threshold=0.333)) as client:
        offered = client.get("/about").json()["recalls"]
    assert 0.333 in [x["threshold"] for x in offered]
    for name, way in (("recall", 1), ("share", 1), ("threshold", -1)):
        values = [x[name] for x in offered]
        assert values == sorted(values)[::way], name


def test_the_page_runs_its_own_script_and_fetches_nothing_from_elsewhere(client):
    answer = client.get("/")
    policy, page = answer.headers["content-security-policy"], answer.text
    for kind in ("script", "style"):
        (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; frame-ancestors 'none'")
    assert not re.search(r"https?://|//\w+\.\w|innerHTML|insertAdjacent|style=|eval", page)


@pytest.fixture
def started(monkeypatch, capsys):
    """Runs the command but for its serving: (its socket's address, stdout, stderr)."""

    def start(*words):
        found = []
        monkeypatch.setattr(Classifier, "load", lambda *_: served.classifier())
        monkeypatch.setattr(uvicorn.Server, "run", lambda _, x: found.append(x[0].getsockname()))
        command.main(command.parse(["serve", "runs/colours/", *words]))
        return found[0], *capsys.readouterr()

    return start


def test_only_this_machine_is_answered_unless_told(started):
    (address, port), out, err = started("--port=0")
    assert address == "127.0.0.1" and err == ""
    assert out == f"runs/colours/: http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
    (address, _), out, err = started("--port=0", "--host=0.0.0.0")
    assert address == "0.0.0.0" and "note: listening on 0.0.0.0: everyone who reaches" in err


def test_what_the_command_refuses(started, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port} cannot be listened on .*in use"):
            started(f"--port={port}")
    for words in (["--port=70000"], ["--host=no.such.host.invalid"]):
        with pytest.raises(InputError, match="cannot be listened on"):
            started(*words)
    monkeypatch.setattr(command, "NEEDED", ("starlette", "no_such_package"))
    with pytest.raises(InputError, match=re.escape("pip install 'sotglp_jax[serve]'")):
        started()


def test_an_answer_is_json_that_every_reader_takes(client):
    """No NaN, and floats as they are."""
    text = client.post("/predict?maps=1", files=form(encoded("gray"))).text
    json.loads(text, parse_constant=lambda x: pytest.fail(x))
