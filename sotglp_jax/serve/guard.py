"""What stands before the application: whom it answers, and what browsers may do with an answer."""

import ipaddress
import logging
import re
import traceback
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?", re.ASCII)
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class Guard:
    """Refuses requests that some other website makes a browser send, and hides our errors.

    A page of an attacker's domain whose address he changes to ours (DNS rebinding) still names his
    domain as the host: only addresses, localhost and the name that the server was given are
    hosts here. A form of another page that is sent to us says so in its Origin.
    """

    def __init__(self, app: ASGIApp, name: str, policy: str):
        """Makes it around an application.

        Args:
          app: the application.
          name: a host that the server was told to be.
          policy: what the page adds to the content security policy.
        """
        self._app, self._name = app, name.lower()
        self._headers = {**HEADERS, "content-security-policy": f"{POLICY}; {policy}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        try:
            app = self._refusal(Headers(scope=scope)) or self._app
            await app(scope, receive, answer)
        except Exception as error:  # ours; of the request nothing is told but what repr escapes
            where = "".join(traceback.format_tb(error.__traceback__))
            logging.error("%s%s: %.500r", where, type(error).__name__, str(error))
            if not begun:
                failed = JSONResponse({"error": "the server failed; its log says where."}, 500)
                await failed(scope, receive, answer)

    def _refusal(self, headers: Headers) -> JSONResponse | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_ours(host):
            said = "open this server by its address or as localhost, or start it with --host=NAME."
            return JSONResponse({"error": said}, 400)
        if origin is not None and _place(origin) != host.lower():
            return JSONResponse({"error": "pages of other servers may not ask this one."}, 403)
        return None

    def _is_ours(self, host: str) -> bool:
        if not (match := HOST.fullmatch(host)):
            return False
        name = match[1].strip("[]").lower()
        try:
            return name in ("localhost", self._name) or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def _place(origin: str) -> str:
    """The host and port of an Origin; "" where it has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
