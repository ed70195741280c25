"""What an administrator's request says: a JSON object, a query, or nothing, checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import Request

MAX_BODY_BYTES = 256 * 1024  # a thousand queue ids are 25 KB


class BadRequestError(Exception):
    """A request that cannot be meant; `status` and one line."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


async def asked_of(request: Request, *, several: Iterable[str] = ()) -> dict[str, Any]:
    """Return what body and query say together; keys in `several` may stand in a query repeatedly.

    An empty body says nothing. Raises BadRequestError.
    """
    asked = _object(await _body(request))
    for key in dict.fromkeys(request.query_params):
        values = request.query_params.getlist(key)
        if key in asked:
            raise BadRequestError(422, f"{key}: stands in the body and in the query; say it once")
        if len(values) > 1 and key not in several:
            raise BadRequestError(
                422, f"{key}: stands in the query {len(values)} times; once is it"
            )
        asked[key] = values if len(values) > 1 else values[0]
    return asked


def refuse_unknown(asked: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Refuse keys that mean nothing here. Raises BadRequestError."""
    known = tuple(allowed)
    for key in asked:
        if key not in known:
            raise BadRequestError(422, f"{key}: no such key; there are {', '.join(known)}")


def whole_number(asked: Mapping[str, Any], key: str, default: int, low: int, high: int) -> int:
    """Read a number. Raises BadRequestError."""
    value = asked.get(key, default)
    try:
        number = int(str(value), 10)
    except ValueError:
        number = low - 1
    if isinstance(value, bool) or not low <= number <= high:
        raise BadRequestError(
            422, f"{key}: must be a number from {low} to {high}, is {value!r:.80}"
        )
    return number


def truth(asked: Mapping[str, Any], key: str) -> bool:
    """Read true or false; false when it is not there. Raises BadRequestError."""
    value = asked.get(key, False)
    if value in (True, "true"):
        return True
    if value in (False, "false"):
        return False
    raise BadRequestError(422, f"{key}: must be true or false, is {value!r:.80}")


async def _body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise BadRequestError(413, f"the body is larger than {MAX_BODY_BYTES} octets")
    return body


def _object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        asked = json.loads(body)
        # Half a character (`"\ud800"`) is JSON, and no text that could be looked for or answered.
        json.dumps(asked, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # the latter: brackets by the thousand
        raise BadRequestError(400, f"the body is no JSON: {error}") from error
    if not isinstance(asked, dict):
        raise BadRequestError(400, "the body must be a JSON object")
    return asked
