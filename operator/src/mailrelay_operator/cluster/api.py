"""Requests to the API server, as JSON in and out; the only place that makes any.

Objects are plain dictionaries: what the operator sends comes out of pure functions, and what it
reads is compared with that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import msgspec
from kubernetes.aio.client import ApiClient

from mailrelay_operator.child_kinds import Kind
from mailrelay_operator.cluster.errors import (
    ClusterError,
    NamespaceEndsError,
    NotFoundError,
    UnreachableError,
    error_of,
)
from mailrelay_operator.compare import FIELD_MANAGER

Manifest = dict[str, Any]

REQUEST_SECONDS: Final = 30.0
_NAMESPACE_ENDS: Final = "NamespaceTerminating"  # Kubernetes' NamespaceTerminatingCause
# The server sends a bookmark about each minute; a watch that is silent for longer is dead.
SILENCE_SECONDS: Final = 90.0
_PAGE = 100  # objects in one answer
_LISTS_AT_ONCE = 2  # both bound what is in memory at once: an object takes some 50 KB there

_JSON = "application/json"
_METADATA = "application/json;as={};g=meta.k8s.io;v=v1,application/json"
_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_JSON_PATCH = "application/json-patch+json"


@dataclass(frozen=True, slots=True)
class Page:
    """Some objects of a list."""

    items: list[Manifest]
    resource_version: str  # of the list: where a watch goes on
    is_last: bool


class Cluster:
    """The API server, as one account sees it."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self.requests = 0  # sent so far, watches included
        # To be held by who reads pages.
        self.listing = asyncio.Semaphore(_LISTS_AT_ONCE)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()  # type: ignore[no-untyped-call] # its own

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest:
        """Return an object. Raises ClusterError."""
        return await self._ask("GET", kind.path(namespace, name))

    async def find(self, kind: Kind, namespace: str | None, name: str) -> Manifest | None:
        """Return an object, or None when there is none. Raises ClusterError."""
        try:
            return await self.get(kind, namespace, name)
        except NotFoundError:
            return None

    async def create(self, kind: Kind, namespace: str, manifest: Manifest) -> Manifest:
        """Make an object that must not exist. Raises ClusterError, ConflictError if it does."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._ask("POST", kind.path(namespace), query, manifest)

    async def replace(self, kind: Kind, namespace: str, manifest: Manifest) -> Manifest:
        """Replace just the version that the manifest names. Raises ClusterError."""
        name = manifest["metadata"]["name"]
        query = {"fieldManager": FIELD_MANAGER}
        return await self._ask("PUT", kind.path(namespace, name), query, manifest)

    async def apply(self, kind: Kind, namespace: str, manifest: Manifest) -> Manifest:
        """Apply server-side: what the manifest says holds afterwards. Raises ClusterError.

        A `metadata.uid` in it makes the server refuse when the name belongs to another object.
        """
        name = manifest["metadata"]["name"]
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._ask("PATCH", kind.path(namespace, name), query, manifest, _APPLY)

    async def apply_status(self, kind: Kind, namespace: str, manifest: Manifest) -> Manifest:
        """Apply an object's status. Raises ClusterError."""
        path = kind.path(namespace, manifest["metadata"]["name"]) + "/status"
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._ask("PATCH", path, query, manifest, _APPLY)

    async def patch(
        self, kind: Kind, namespace: str, name: str, operations: Sequence[Manifest]
    ) -> Manifest:
        """Change an object by JSON Patch (RFC 6902). Raises ClusterError."""
        query = {"fieldManager": FIELD_MANAGER}
        path = kind.path(namespace, name)
        return await self._ask("PATCH", path, query, list(operations), _JSON_PATCH)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        """Delete exactly the object with this uid, and what it owns.

        One that is gone already is no error. Raises ClusterError.
        """
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        with contextlib.suppress(NotFoundError):
            await self._ask("DELETE", kind.path(namespace, name), None, body)

    async def pages(
        self, kind: Kind, namespace: str | None, selector: str = ""
    ) -> AsyncIterator[Page]:
        """List a kind page by page. Raises ClusterError, GoneError when it took too long."""
        query = {"limit": str(_PAGE)}
        if selector:
            query["labelSelector"] = selector
        while True:
            accept = _METADATA.format("PartialObjectMetadataList") if kind.metadata_only else _JSON
            answer = await self._ask("GET", kind.path(namespace), query, accept=accept)
            onward = answer["metadata"].get("continue", "")
            items = answer.get("items") or []
            yield Page(items, answer["metadata"]["resourceVersion"], is_last=not onward)
            if not onward:
                return
            query["continue"] = onward

    async def events(
        self,
        kind: Kind,
        namespace: str | None,
        since: str,
        *,
        selector: str = "",
        seconds: int = 300,
    ) -> AsyncIterator[tuple[str, Manifest]]:
        """Watch a kind for so many seconds: the type of what happened, and the object.

        Bookmarks come too. Raises ClusterError, GoneError, UnreachableError when it is silent.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": since,
            "timeoutSeconds": str(seconds),
        }
        if selector:
            query["labelSelector"] = selector
        accept = _METADATA.format("PartialObjectMetadata") if kind.metadata_only else _JSON
        limits = aiohttp.ClientTimeout(
            total=seconds + REQUEST_SECONDS, sock_connect=REQUEST_SECONDS, sock_read=SILENCE_SECONDS
        )
        with _reaching():
            response = await self._send("GET", kind.path(namespace), query, None, accept, limits)
            try:
                if response.status >= 400:  # noqa: PLR2004 — HTTP
                    raise _fault(response.status, await response.read())
                async for line in _lines(response):
                    event = msgspec.json.decode(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise error_of(int(status.get("code", 500)), status.get("message", ""))
                    yield event["type"], event["object"]
            finally:
                response.close()

    async def is_served(self, kind: Kind) -> bool:
        """Tell whether the API server knows a kind. Raises ClusterError."""
        # Everybody who is logged in may ask this (system:discovery).
        try:
            answer = await self._ask("GET", f"/apis/{kind.api_version}")
        except NotFoundError:
            return False
        return any(resource["name"] == kind.plural for resource in answer["resources"])

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,  # noqa: ANN401 — JSON
        content_type: str = _JSON,
        *,
        accept: str = _JSON,
    ) -> Manifest:
        limits = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        with _reaching():
            response = await self._send(
                method, path, query, body, accept, limits, content_type=content_type
            )
            async with response:
                answer = await response.read()
                if response.status >= 400:  # noqa: PLR2004 — HTTP
                    raise _fault(response.status, answer)
        decoded: Manifest = msgspec.json.decode(answer)
        return decoded

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,  # noqa: ANN401 — JSON
        accept: str,
        limits: aiohttp.ClientTimeout,
        *,
        content_type: str = _JSON,
    ) -> aiohttp.ClientResponse:
        self.requests += 1
        # The library's own call for a path without a generated method; it brings the account's
        # token, which changes, into the header.
        _, url, headers, _, _ = await self._client.param_serialize(
            method=method,
            resource_path=path + (f"?{urlencode(query)}" if query else ""),
            header_params={"Accept": accept, "Content-Type": content_type},
            auth_settings=["BearerToken"],
        )
        answer = await self._client.call_api(method, url, headers, body, _request_timeout=limits)
        response: aiohttp.ClientResponse = answer.response
        return response


@contextlib.contextmanager
def _reaching() -> Iterator[None]:
    """Say of a connection that fails, in whatever way, that the server was not reached."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
        said = str(error) or type(error).__name__
        raise UnreachableError(f"the API server does not answer: {said}") from error


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the lines of an answer, however long they are."""
    rest = bytearray()
    async for part in response.content.iter_any():
        rest += part
        while (end := rest.find(b"\n")) >= 0:
            line = bytes(rest[:end])
            del rest[: end + 1]
            if line:
                yield line


def _fault(status: int, answer: bytes) -> ClusterError:
    try:
        told = msgspec.json.decode(answer)
        message = str(told.get("message", ""))
        causes = (told.get("details") or {}).get("causes") or ()
    except (msgspec.MsgspecError, AttributeError):
        return error_of(status, answer.decode("utf-8", "replace"))
    if any(cause.get("reason") == _NAMESPACE_ENDS for cause in causes):
        return NamespaceEndsError(f"{status}: {message}")
    return error_of(status, message)
