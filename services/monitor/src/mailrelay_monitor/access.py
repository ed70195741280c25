"""Who may ask what (docs/decisions/0021).

This machine may do everything. Both ends are checked: the client's address, because the socket may
be reachable from elsewhere (and no proxy's header is believed); the Host header, because a browser
on this machine may be sent here by a stranger's page under the stranger's name (DNS rebinding); the
Origin of a request that changes something, because such a page may post here under our own name.
While `security.trustLoopback` is false, as in a container, loopback is an address as any other.

Clients of `http.allowedNetworks` may look at `OPEN_PATHS`, and do everything else with the token.
Everybody else is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailrelay.config.model import RelayConfig
from mailrelay.config.networks import Network, parse_address, parse_network
from mailrelay.config.token import Token, read_token

# What monitoring asks for; nothing here names a sender or a recipient.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/health", "/metrics"})
_FORBIDDEN = 403
_UNAUTHORIZED = 401

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_ALWAYS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


@dataclass(slots=True)
class Guests:
    """Who else may ask; follows the configuration."""

    networks: tuple[Network, ...] = ()
    token: Token | None = None
    trusts_loopback: bool = True

    @classmethod
    def of(cls, config: RelayConfig) -> Guests:
        """Return what a configuration says. Raises ConfigError."""
        guests = cls()
        guests.prepare(config)()
        return guests

    def prepare(self, config: RelayConfig) -> Callable[[], None]:
        """Read the token; what is returned takes the new values. Raises ConfigError."""
        token = read_token(config.http.token_file)

        def take() -> None:
            self.networks = tuple(map(parse_network, config.http.allowed_networks))
            self.trusts_loopback = config.security.trust_loopback
            self.token = token

        return take


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered."""

    status: int
    reason: str


class Access:
    """ASGI middleware: answers for everybody who may not ask."""

    def __init__(self, app: ASGIApp, guests: Guests) -> None:
        self._app = app
        self._guests = guests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] != "http":
            return
        refused = refusal(scope, self._guests)
        if refused is not None:
            headers = {"WWW-Authenticate": "Bearer"} if refused.status == _UNAUTHORIZED else None
            answer = JSONResponse({"error": refused.reason}, refused.status, headers)
            await answer(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_ALWAYS]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def refusal(scope: Scope, guests: Guests) -> Refusal | None:
    """Return why a request is not answered; None when it is."""
    client = scope.get("client")
    address = parse_address(client[0]) if client is not None else None
    if address is None:
        return Refusal(_FORBIDDEN, "only this machine is answered")
    headers = Headers(scope=scope)
    if address.is_loopback and guests.trusts_loopback:
        reason = _local_refusal(scope["method"], headers)
        return Refusal(_FORBIDDEN, reason) if reason else None
    if not any(address in network for network in guests.networks):
        return Refusal(_FORBIDDEN, "only this machine is answered; see http.allowedNetworks")
    if scope["method"] in _READING and scope["path"] in OPEN_PATHS:
        return None
    if guests.token is None:
        return Refusal(_FORBIDDEN, "other machines may not do this; see http.tokenFile")
    given = headers.getlist("authorization")
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not guests.token.matches(token.strip()):
        return Refusal(_UNAUTHORIZED, "this needs the token of http.tokenFile, as Bearer")
    return None


def _local_refusal(method: str, headers: Headers) -> str:
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _is_local_url(f"//{hosts[0]}"):
        return "the Host header must be localhost or a loopback address"
    origin = headers.get("origin")
    if method not in _READING and origin is not None and not _is_local_url(origin):
        return "requests from another site's page are not taken"
    return ""


def _is_local_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises when it is none
    except ValueError:
        return False
    plain = not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
    if not plain or parts.hostname is None:
        return False
    # An address cannot be pointed elsewhere, as a stranger's name can.
    address = parse_address(parts.hostname)
    return address.is_loopback if address is not None else parts.hostname == "localhost"
