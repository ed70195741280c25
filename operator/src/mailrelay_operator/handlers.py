"""kopf's part: it watches the MailRelay resources and hands each event on. Nothing else.

Only `on.event`: no handler that would need a finalizer or leave an annotation. Children and Secrets
are followed by watches of our own (docs/decisions/0029 says why).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

import kopf

from mailrelay_operator.child import Manifest
from mailrelay_operator.child_kinds import RELAY
from mailrelay_operator.cluster.login import Access

_SERVER_SECONDS: Final = 300
_CLIENT_SECONDS: Final = 310
_CHUNK: Final = 500
_IDENTITY: Final[Any] = "mailrelay-operator"  # kopf keeps the type that it wants to itself


async def watch_relays(
    noticed: Callable[[str | None, Manifest], None],
    access: Callable[[], Awaitable[Access]],
    namespaces: Collection[str],
    started: Callable[[], None],
) -> None:
    """Tell of each event of a MailRelay until cancelled: its type (None: it was listed), and it.

    `access` says how the API server is reached; it is asked again when a token is refused.
    `started` is called once kopf has set itself up, its signal handlers included.
    """
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def _(**_: Any) -> kopf.ConnectionInfo:  # noqa: ANN401 — kopf's arguments
        granted = await access()
        return kopf.ConnectionInfo(
            server=granted.server,
            ca_path=granted.ca_file,
            insecure=not granted.verifies,
            scheme="Bearer" if granted.token else None,
            token=granted.token,
            certificate_path=granted.certificate_file,
            private_key_path=granted.key_file,
        )

    @kopf.on.event(group=RELAY.group, plural=RELAY.plural, registry=registry)
    async def _(event: kopf.RawEvent, **_: Any) -> None:  # noqa: ANN401 — kopf's arguments
        noticed(event["type"], dict(event["object"]))

    ready = asyncio.Event()
    running = asyncio.ensure_future(
        kopf.operator(
            registry=registry,
            settings=_settings(),
            standalone=True,  # equal peers freeze each other; the Lease decides
            # Only peers would look at it. By itself kopf asks for the user's name, and the number
            # that a container runs as has none.
            identity=_IDENTITY,
            clusterwide=not namespaces,
            namespaces=list(namespaces),
            ready_flag=ready,
        )
    )
    waiting = asyncio.ensure_future(ready.wait())
    try:
        await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
        if ready.is_set():
            started()
        await running
    finally:
        waiting.cancel()
        running.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # Events are `events`'
    settings.scanning.disabled = True  # would need rights on namespaces and definitions
    settings.watching.server_timeout = _SERVER_SECONDS
    settings.watching.client_timeout = _CLIENT_SECONDS
    settings.watching.chunk_size = _CHUNK
    return settings
