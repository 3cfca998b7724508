"""What every request passes and every answer carries: host and origin checks, headers, no content in logs.

A page of another site can send requests to a server on loopback, and by DNS rebinding even read its answers. Names in
the Host header that are not this server's, and origins that are not its own page, are refused therefore.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import traceback
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
_SAFE_METHODS = {"GET", "HEAD"}
_log = logging.getLogger("clipmed.serve")


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, is this machine's loopback alone."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(entry[4][0])).is_loopback for entry in found)


def own_names(host: str) -> frozenset[str]:
    """Return the names, besides addresses, by which a server that is bound to `host` is asked."""
    names = {"localhost", host.lower()}
    if not is_loopback(host):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names)


def failure() -> JSONResponse:
    """Return the answer to a request that the server failed on."""
    return JSONResponse({"error": "the server failed on this request; its log says where"}, 500)


class Guard:
    """ASGI middleware around the whole application.

    Any port is allowed, since a tunnel changes it. Addresses are: those of loopback, or with `any_address` all, since
    only names can be rebound.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str], *, any_address: bool = False) -> None:
        self.app = app
        self.names = frozenset(names)
        self.any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_started = False

        async def send_guarded(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            answer: ASGIApp = self._refusal(scope) or self.app
            await answer(scope, receive, send_guarded)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 (its message may quote what was sent, and stays out of the log)
            frames = "".join(traceback.format_tb(error.__traceback__))
            _log.error("%s while answering %s\n%s", type(error).__name__, scope["method"], frames)
            if not is_started:
                await failure()(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_own(host):
            allowed = ", ".join(sorted(self.names))
            return JSONResponse(
                {"error": f"this server is not the host of the request's Host header; it answers to {allowed}"}, 421
            )
        if scope["method"] not in _SAFE_METHODS and not _is_same_origin(headers, host):
            return JSONResponse({"error": "requests of other sites' pages are refused; use this server's own"}, 403)
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self.names or _is_address(name, any_address=self.any_address)


def _is_address(name: str, *, any_address: bool) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return any_address or address.is_loopback


def _is_same_origin(headers: Headers, host: str) -> bool:
    """Whether a request is of this server's page, or of a program, which sends no origin."""
    origin = headers.get("origin")
    if origin is not None:
        return origin.lower().partition("://")[2] == host.lower()
    return headers.get("sec-fetch-site", "none") in {"none", "same-origin"}
