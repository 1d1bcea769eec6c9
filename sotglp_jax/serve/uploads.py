"""What a request asks for: the files in its body, and the options in its address."""

import asyncio
import base64
import dataclasses
import json
import re

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request

from sotglp_jax.serve.limits import Limits

FORM, JSON = "multipart/form-data", "application/json"
TOP = 5
SWITCH = {"0": False, "1": True}
BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^";\s]{1,70}))', re.IGNORECASE)
FORMAT = '{"pictures": ["BASE64", ...]}'


@dataclasses.dataclass(frozen=True)
class Options:
    """What an answer is to hold.

    Attributes:
      top: classes to list.
      recall: that the threshold is to have; None for the classifier's own.
      maps: whether the maps of the most probable class are wanted.
      seen: whether the square that CLIP sees is wanted.
    """

    top: int = TOP
    recall: float | None = None
    maps: bool = False
    seen: bool = False


def options(query: QueryParams) -> Options:
    """Reads the options of a request.

    Raises:
      HTTPException: 400: one is unknown or has a value that it cannot have.
    """
    read = {"top": _positive, "recall": float, "maps": SWITCH.__getitem__}
    read["seen"] = read["maps"]
    try:
        return Options(**{name: read[name](value) for name, value in query.multi_items()})
    except (KeyError, ValueError):
        said = "give top=NUMBER, recall=SHARE, maps=0 or 1, seen=0 or 1, or leave them out."
        raise HTTPException(400, said) from None


def _positive(text: str) -> int:
    if not 1 <= (number := int(text)) <= 1_000_000:
        raise ValueError
    return number


async def files(request: Request, limits: Limits) -> list[bytes]:
    """The files in a request's body, which nothing but memory ever holds.

    The body is read to its end even where it is too large, or who sends it would not read why.

    Raises:
      HTTPException: 400, 408, 413 or 415: it is no such body, too slow, too large, of no such kind.
    """
    try:
        async with asyncio.timeout(limits.seconds):
            body = await _body(request, limits.bytes)
    except TimeoutError:
        raise HTTPException(408, f"the request took over {limits.seconds:g} seconds.") from None
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM:
        found = _of_form(request.headers["content-type"], body, limits.pictures)
    elif kind == JSON:
        found = await asyncio.to_thread(_of_json, body, limits.pictures)
    else:
        raise HTTPException(415, f"send {FORM} with a file a picture, or {JSON} {FORMAT}.")
    if not found:
        raise HTTPException(400, "there is no picture to classify: send one or more.")
    return found


async def _body(request: Request, most: int) -> bytes:
    body, size = bytearray(), 0
    async for piece in request.stream():
        size += len(piece)
        if size <= most:
            body += piece
    if size > most:
        raise HTTPException(413, f"a request may have {most >> 20} MiB: send fewer pictures.")
    return bytes(body)


def _of_form(kind: str, body: bytes, most: int) -> list[bytes]:
    """What stands between the boundaries; a parser of forms would write large files to disk."""
    if not (boundary := BOUNDARY.search(kind)):
        raise HTTPException(400, f"name the boundary of the form: {FORM}; boundary=...")
    mark = b"\r\n--" + (boundary[1] or boundary[2]).encode("latin-1")
    _, *parts = (b"\r\n" + body).split(mark, most + 1)
    end = parts.pop() if parts else b""
    files = [part.partition(b"\r\n\r\n") for part in parts]
    if not end.startswith(b"--") or not all(b"filename" in head.lower() for head, *_ in files):
        raise HTTPException(400, f"send a form of 1 to {most} files, and of nothing else.")
    return [content for _, _, content in files]


def _of_json(body: bytes, most: int) -> list[bytes]:
    """Of what is larger in memory than it is written, nothing is parsed."""
    if body.count(b"[") == body.count(b"{") == 1 and body.count(b",") < most:
        try:
            (pictures,) = {"pictures": (), **json.loads(body)}.values()
            return [base64.b64decode(picture, validate=True) for picture in pictures]
        except (TypeError, ValueError):
            pass
    raise HTTPException(400, f"send {FORMAT} with at most {most} pictures.")
