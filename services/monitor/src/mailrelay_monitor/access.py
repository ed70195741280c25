"""Who may ask: this machine only.

Both ends are checked. The client's address, because the socket may be reachable from elsewhere
(and no proxy's header is believed). The Host header, because a browser on this machine may be sent
here by a stranger's page under the stranger's name (DNS rebinding). The Origin of a request that
changes something, because such a page may post here under our own name.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_ALWAYS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


class LocalOnly:
    """ASGI middleware: 403 for everybody else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] != "http":
            return
        reason = refusal(scope)
        if reason:
            refused = JSONResponse({"error": reason}, status_code=403)
            await refused(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_ALWAYS]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def refusal(scope: Scope) -> str:
    """Return why a request is not answered; empty when it is."""
    client = scope.get("client")
    if client is None or not _is_loopback(client[0]):
        return "only this machine is answered"
    headers = Headers(scope=scope)
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _is_local_url(f"//{hosts[0]}"):
        return "the Host header must be localhost, 127.0.0.1 or [::1]"
    origin = headers.get("origin")
    if scope["method"] not in _READING and origin is not None and not _is_local_url(origin):
        return "requests from another site's page are not taken"
    return ""


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _is_local_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises when it is none
    except ValueError:
        return False
    plain = not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
    return plain and parts.hostname in _LOCAL_NAMES
