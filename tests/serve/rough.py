"""A server in a thread, and requests that no client of good will would send."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import random
import socket
import threading
import time

import numpy as np
import served
import uvicorn

from sotglp_jax.serve import app
from sotglp_jax.serve.__main__ import bound, configuration
from sotglp_jax.serve.limits import Limits

LIMITS = Limits(bytes=1 << 20, pictures=4, pixels=1_000_000, seconds=5)
PATHS = ["/predict", "/predict?top=x", "/..%2f..%2fetc/passwd", "/%00", "//evil", "/" + "a" * 3000]
HOSTS = [b"localhost", b"evil.example", b"", b"a b", b"localhost\r\nHost: evil", b"[::1", b"\xff"]
FORM, JSON = b"multipart/form-data; boundary=x", b"application/json"


@contextlib.contextmanager
def serving(classifier, limits=LIMITS):
    """The address of a server of a classifier."""
    server = uvicorn.Server(configuration(app.make(classifier, "colours", limits=limits)))
    with bound("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield listening.getsockname()
        finally:
            server.should_exit = True
            thread.join()


def exchange(address, request):
    """The status of the answer to a request's bytes; None where the connection just ends."""
    with socket.create_connection(address, timeout=30) as connection:
        with contextlib.suppress(ConnectionError):  # refused while it is still being sent
            connection.sendall(request)
        with contextlib.suppress(ConnectionError):
            answer = connection.recv(1 << 16)
            return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else None


def post(body, kind=JSON, **changed):
    """The bytes of a request."""
    parts = {"line": b"POST /predict HTTP/1.1", "host": b"localhost"} | changed
    length = parts.get("length", b"%d" % len(body))
    head = [parts["line"], b"Host: " + parts["host"], b"Content-Type: " + kind]
    return b"\r\n".join([*head, b"Content-Length: " + length, b"", body])


def in_form(content, name=b"a.png"):
    """A form with one file."""
    head = b'--x\r\nContent-Disposition: form-data; name="a"; filename="' + name + b'"\r\n\r\n'
    return head + content + b"\r\n--x--\r\n"


def malformed(number):
    """A request that has to be refused: which, and its bytes."""
    draw = random.Random(number)
    noise = draw.randbytes(draw.randrange(1, 300))
    sound = in_form(served.encoded())
    image = served.encoded("red", (64, 64), draw.choice(["PNG", "JPEG", "GIF", "BMP", "WEBP"]))
    cases = {
        "noise": noise.replace(b"\n", b"") + b"\r\n\r\n",
        "path": post(b"{}", line=b"POST " + draw.choice(PATHS).encode() + b" HTTP/1.1"),
        "method": post(b"", line=draw.choice([b"BREW", b"PUT", b"GET"]) + b" /predict HTTP/1.1"),
        "version": post(b"", line=b"POST /predict HTTP/" + noise[:3].hex().encode()),
        "host": post(sound, FORM, host=draw.choice(HOSTS[1:])),
        "header": post(b"", noise.replace(b"\n", b"")),
        "length": post(b"{}", length=draw.choice([b"-1", b"x", b"9" * 30, b"1, 2"])),
        "kind": post(sound, draw.choice([JSON, b"multipart/form-data", b"\xff/b"])),
        "form": post(sound[: draw.randrange(len(sound) - 6)], FORM),
        "noisy form": post(in_form(noise, noise), FORM),
        "cut image": post(in_form(image[: draw.randrange(len(image) // 2)]), FORM),
        "json": post(json.dumps({"pictures": [noise.hex()]}).encode()[: draw.randrange(40)]),
        "noisy json": post(noise),
        "nested json": post(b'{"pictures":' + draw.choice([b"[", b'{"a":']) * 10_000),
        "large": post(bytes(LIMITS.bytes + 1)),
        "slow": post(b"{", length=b"2") if draw.random() < 0.02 else post(b""),
    }
    name = draw.choice(list(cases))
    return name, cases[name]


@dataclasses.dataclass
class Load:
    """What clients were answered.

    Attributes:
      expected: how many answers of each status there should be.
      statuses: how many there were; None where a connection ended without one.
      seconds: that each took.
    """

    expected: collections.Counter
    statuses: collections.Counter
    seconds: list[float]

    def summary(self) -> str:
        """Counts, rate and waiting times in a line."""
        middle, most = np.percentile(self.seconds, [50, 99])
        return f"{dict(self.statuses)}: median {middle:.2f} s, 99 % within {most:.2f} s, "


def load(address, clients, seconds):
    """What so many clients are answered who ask one request after the other for so long.

    One request in eight is malformed, and pictures are of several kinds and sizes.
    """
    kinds = [("PNG", 64), ("JPEG", 900), ("WEBP", 400), ("BMP", 200)]
    sound = [post(in_form(served.encoded("red", (size, size), kind)), FORM) for kind, size in kinds]
    found = Load(collections.Counter(), collections.Counter(), [])
    ends = time.monotonic() + seconds

    def client(number):
        draw = random.Random(number)
        while (began := time.monotonic()) < ends:
            good = draw.random() < 7 / 8
            status = exchange(address, draw.choice(sound) if good else post(b"{"))
            found.expected[200 if good else 400] += 1
            found.statuses[status] += 1
            found.seconds.append(time.monotonic() - began)

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return found
