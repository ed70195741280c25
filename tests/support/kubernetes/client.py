"""How a test asks an API server: manifests in, manifests out, refusals as they were said.

The transport is the official client (`kubernetes.aio`), which the operator uses too; where a
resource lives is looked up at the server, so that a custom one needs nothing here.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import yaml
from kubernetes.aio.client import ApiClient
from kubernetes.aio.config import new_client_from_config

from tests.support.wait import wait_until

Manifest = dict[str, Any]

REQUEST_SECONDS = 60.0  # milliseconds on a quiet machine
ESTABLISH_SECONDS = 60.0
FIELD_MANAGER = "mailrelay-tests"

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_WARNING = re.compile(r'\b299 \S+ "((?:[^"\\]|\\.)*)"')  # RFC 7234, 5.5


class ApiRefusedError(Exception):
    """The API server's answer was no; `message` is what a user of kubectl reads."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the objects of a kind live."""

    base: str
    plural: str
    namespaced: bool

    def path(self, namespace: str | None, *parts: str) -> str:
        scope = [f"namespaces/{quote(namespace)}"] if self.namespaced and namespace else []
        return "/".join([self.base, *scope, self.plural, *(quote(part) for part in parts)])


class Client:
    """One identity at one API server; objects without a namespace go to `namespace`."""

    def __init__(self, api: ApiClient, kubeconfig: Path, namespace: str = "default") -> None:
        self.api = api
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self.warnings: list[str] = []  # all that the server said so far, in order
        self._places: dict[tuple[str, str], _Place] = {}

    async def apply(
        self,
        manifests: str | Manifest | Iterable[Manifest],
        *,
        manager: str = FIELD_MANAGER,
        force: bool = True,
        dry_run: bool = False,
        strict: bool = False,
    ) -> list[Manifest]:
        """Apply one or more (text: YAML documents) on the server's side; return what it stored.

        A custom resource definition is waited for until its resources can be used. `strict` refuses
        fields that are unknown or there twice.
        """
        stored = []
        for manifest in documents(manifests):
            place, namespace = await self._place_of(manifest)
            query = {"fieldManager": manager, "force": str(force).lower()}
            query |= {"dryRun": "All"} if dry_run else {}
            query |= {"fieldValidation": "Strict"} if strict else {}
            path = place.path(namespace, manifest["metadata"]["name"])
            answer = await self.request("PATCH", path, manifest, query=query, content_type=_APPLY)
            if place.plural == "customresourcedefinitions" and not dry_run:
                await self._wait_until_established(path)
            stored.append(answer)
        return stored

    async def create(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Create an object that is not there yet."""
        place, namespace = await self._place_of(manifest)
        query = {"dryRun": "All"} if dry_run else {}
        return await self.request("POST", place.path(namespace), manifest, query=query)

    async def replace(self, manifest: Manifest) -> Manifest:
        """Write an object as a whole; with its resourceVersion only over that one."""
        place, namespace = await self._place_of(manifest)
        path = place.path(namespace, manifest["metadata"]["name"])
        return await self.request("PUT", path, manifest)

    async def patch(
        self,
        api_version: str,
        kind: str,
        name: str,
        patch: Manifest,
        *,
        namespace: str | None = None,
        subresource: str = "",
    ) -> Manifest:
        """Merge a patch into an object; None in it removes a field."""
        path = await self.path(
            api_version, kind, name, namespace=namespace, subresource=subresource
        )
        return await self.request("PATCH", path, patch, content_type=_MERGE)

    async def get(
        self, api_version: str, kind: str, name: str, *, namespace: str | None = None
    ) -> Manifest:
        """An object; ApiRefusedError with status 404 when it is not there."""
        return await self.request(
            "GET", await self.path(api_version, kind, name, namespace=namespace)
        )

    async def find(
        self, api_version: str, kind: str, name: str, *, namespace: str | None = None
    ) -> Manifest | None:
        """An object, or None when it is not there."""
        try:
            return await self.get(api_version, kind, name, namespace=namespace)
        except ApiRefusedError as error:
            if error.status != 404:
                raise
            return None

    async def list(
        self, api_version: str, kind: str, *, namespace: str | None = None, labels: str = ""
    ) -> list[Manifest]:
        """The objects of a kind in a namespace, chosen by a label selector."""
        path = await self.path(api_version, kind, namespace=namespace)
        answer = await self.request("GET", path, query={"labelSelector": labels})
        found: list[Manifest] = answer["items"]
        return found

    async def delete(
        self,
        api_version: str,
        kind: str,
        name: str,
        *,
        namespace: str | None = None,
        propagation: str = "Background",
    ) -> None:
        """Have an object deleted; it may be there for some time yet."""
        path = await self.path(api_version, kind, name, namespace=namespace)
        await self.request("DELETE", path, query={"propagationPolicy": propagation})

    async def watch(
        self,
        api_version: str,
        kind: str,
        *,
        namespace: str | None = None,
        resource_version: str = "",
    ) -> AsyncIterator[Manifest]:
        """Changes as they come, `{"type": …, "object": …}`, until the server ends the watch."""
        path = await self.path(api_version, kind, namespace=namespace)
        query = {"watch": "true", "resourceVersion": resource_version}
        response = await self._send("GET", path, None, query, None, aiohttp.ClientTimeout())
        try:
            async for line in response.content:
                yield json.loads(line)
        finally:
            response.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Manifest | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Manifest:
        """One request; the answer's JSON. Raises ApiRefusedError, aiohttp.ClientError."""
        response = await self._send(
            method, path, body, query, content_type, aiohttp.ClientTimeout(REQUEST_SECONDS)
        )
        answer: Manifest = json.loads(await response.read())
        return answer

    async def answers(self, path: str) -> bool:
        """Whether a GET of this path succeeds now; False also when nobody is there."""
        try:
            response = await self._send(
                "GET", path, None, None, None, aiohttp.ClientTimeout(REQUEST_SECONDS)
            )
            await response.read()
        except (ApiRefusedError, aiohttp.ClientError, TimeoutError):
            return False
        return True

    async def path(
        self,
        api_version: str,
        kind: str,
        *name: str,
        namespace: str | None = None,
        subresource: str = "",
    ) -> str:
        """The path of a kind's objects, of one of them, or of a part of it."""
        place = await self._place(api_version, kind)
        parts = [*name, *([subresource] if subresource else [])]
        return place.path(namespace or self.namespace, *parts)

    async def _place_of(self, manifest: Manifest) -> tuple[_Place, str]:
        place = await self._place(manifest["apiVersion"], manifest["kind"])
        return place, manifest["metadata"].get("namespace") or self.namespace

    async def _place(self, api_version: str, kind: str) -> _Place:
        if (api_version, kind) not in self._places:
            base = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
            for resource in (await self.request("GET", base))["resources"]:
                if "/" not in resource["name"]:
                    self._places[api_version, resource["kind"]] = _Place(
                        base, resource["name"], resource["namespaced"]
                    )
        if (api_version, kind) not in self._places:
            raise ApiRefusedError(404, "NotFound", f"{api_version} has no {kind}")
        return self._places[api_version, kind]

    async def _lists(self, api_version: str, kind: str) -> bool:
        try:
            await self._place(api_version, kind)
        except ApiRefusedError as error:
            if error.status != 404:
                raise
            return False
        return True

    async def _wait_until_established(self, path: str) -> None:
        async def is_established() -> bool:
            definition = await self.request("GET", path)
            # At first there is no status, or one whose conditions are null.
            conditions = definition.get("status", {}).get("conditions") or []
            if not {"Established"} <= {c["type"] for c in conditions if c["status"] == "True"}:
                return False
            names, group = definition["spec"]["names"], definition["spec"]["group"]
            served = [v["name"] for v in definition["spec"]["versions"] if v["served"]]
            # Established comes before the server serves it, and that before it lists it.
            for version in served:
                if not await self.answers(f"/apis/{group}/{version}/{names['plural']}"):
                    return False
                if not await self._lists(f"{group}/{version}", names["kind"]):
                    return False
            return True

        await wait_until(is_established, ESTABLISH_SECONDS, f"{path} is established")

    async def _send(
        self,
        method: str,
        path: str,
        body: Manifest | None,
        query: Mapping[str, str] | None,
        content_type: str | None,
        limit: aiohttp.ClientTimeout,
    ) -> Any:  # noqa: ANN401 — aiohttp's response, which the library does not type
        headers = {"Accept": "application/json"}
        if content_type:
            headers["Content-Type"] = content_type
        serialized = await self.api.param_serialize(
            method,
            path,
            query_params=[(name, value) for name, value in (query or {}).items() if value],
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = await self.api.call_api(*serialized, _request_timeout=limit)
        response = answer.response
        for header in response.headers.getall("Warning", []):
            self.warnings += [text.replace('\\"', '"') for text in _WARNING.findall(header)]
        if response.status >= 300:
            raise _refusal(response.status, await response.read())
        return response


@contextlib.asynccontextmanager
async def open_client(kubeconfig: Path, namespace: str = "default") -> AsyncIterator[Client]:
    """A client for a `async with` block, with the rights of this kubeconfig's user."""
    api = await new_client_from_config(  # type: ignore[no-untyped-call]
        str(kubeconfig), persist_config=False
    )
    try:
        yield Client(api, kubeconfig, namespace)
    finally:
        await api.close()


def documents(manifests: str | Manifest | Iterable[Manifest]) -> list[Manifest]:
    """Manifests one by one; text is read as YAML documents."""
    if isinstance(manifests, str):
        return [document for document in yaml.safe_load_all(manifests) if document]
    return [manifests] if isinstance(manifests, dict) else list(manifests)


def _refusal(status: int, body: bytes) -> ApiRefusedError:
    try:
        answer = json.loads(body)
    except ValueError:  # some refusals, such as a full server's, are plain text
        answer = {}
    if not isinstance(answer, dict):
        answer = {}
    text = answer.get("message") or body.decode(errors="replace").strip()
    return ApiRefusedError(status, answer.get("reason", ""), text)
