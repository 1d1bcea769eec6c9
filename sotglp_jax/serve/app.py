"""The application: its routes, and how they answer."""

import asyncio
import base64
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from sotglp_jax import __version__
from sotglp_jax.errors import InputError
from sotglp_jax.serve import uploads
from sotglp_jax.serve.guard import Guard
from sotglp_jax.serve.limits import Limits
from sotglp_jax.serve.service import Service
from sotglp_jax.trained.classifier import Classifier

BUSY = "the server is busy: try again."


def make(
    classifier: Classifier, title: str, host: str = "localhost", limits: Limits | None = None
) -> ASGIApp:
    """Makes the application around a classifier, which is compiled here.

    Args:
      classifier: what answers.
      title: its name on the page.
      host: a name of this server's, see `guard.Guard`.
      limits: of requests; None for the usual ones.
    """
    service, page = Service(classifier, title, limits or Limits()), _asset("page.html")
    description = json.loads(_asset("openapi.json"))
    description["info"]["version"] = __version__

    async def predict(request: Request) -> Response:
        return await _predict(request, service)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        batches = asyncio.create_task(service.batches())
        yield
        batches.cancel()

    routes = [
        Route("/", _same(HTMLResponse(page))),
        Route("/about", _same(JSONResponse(service.about()))),
        Route("/healthz", _same(JSONResponse({"status": "ok"}))),
        Route("/openapi.json", _same(JSONResponse(description))),
        Route("/predict", predict, methods=["POST"]),
    ]
    handlers = {HTTPException: _told}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    app.router.redirect_slashes = False  # a redirection would repeat what the request says
    return Guard(app, host, f"{_hashes(page)}; img-src data:; connect-src 'self'")


def _asset(name: str) -> str:
    return resources.files("sotglp_jax.serve").joinpath(name).read_text("utf-8")


def _same(response: Response):
    """A route that always answers the same."""

    async def answer(_: Request) -> Response:
        return response

    return answer


async def _told(_: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _hashes(page: str) -> str:
    """The policy that lets the page's own script and style in, and no other."""
    found = []
    for kind in ("script", "style"):
        (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        found.append(f"{kind}-src 'sha256-{digest}'")
    return "; ".join(found)


async def _predict(request: Request, service: Service) -> Response:
    """A record a picture, in the order in which they were sent."""
    try:
        async with asyncio.timeout(2 * service.limits.seconds):
            records = await _records(request, service)
    except InputError as error:
        raise HTTPException(400, str(error)) from None
    except TimeoutError:
        raise HTTPException(503, BUSY, {"retry-after": "2"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the request ended early.") from None  # which nobody reads
    sound = any("error" not in record for record in records)
    return JSONResponse({"pictures": records}, 200 if sound else 422)


async def _records(request: Request, service: Service) -> list[dict]:
    async with service.bodies:
        contents = await uploads.files(request, service.limits)
        options = uploads.options(request.query_params)
        threshold = service.threshold(options)
        pixels = await service.decode(contents)
        del contents

    async def record(pixels) -> dict:
        if isinstance(pixels, InputError):
            return {"error": str(pixels)}
        return await service.record(pixels, options, threshold)

    return await asyncio.gather(*map(record, pixels))
