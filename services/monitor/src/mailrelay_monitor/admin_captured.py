"""HTTP on captured mail: look, download, release, delete."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from mailrelay.mail.ids import QueueId, is_queue_id
from mailrelay.mail.job import Job
from mailrelay.mail.next_hop import format_next_hop, parse_next_hop
from mailrelay.queue.bodies import BodyUnreadableError
from mailrelay.queue.captured import StoredCapture
from mailrelay_monitor import failed_index
from mailrelay_monitor.admin_parts import AdminParts
from mailrelay_monitor.asked import BadRequestError, asked_of, refuse_unknown, truth, whole_number
from mailrelay_monitor.captured import NothingCapturedError
from mailrelay_monitor.failed_files import rfc3339
from mailrelay_monitor.failed_filter import MAX_IDS, FailedFilter
from mailrelay_monitor.held_content import message_pieces
from mailrelay_monitor.kept import kept_content
from mailrelay_monitor.release_book import ReleaseRequest

_LIMIT = 200
_RELEASE_KEYS = ("ids", "all", "next_hop", "request")
_REQUEST = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NO_UPSTREAM = (
    "no upstream is configured, so mail cannot be released to it: set forwardSMTP and forwardHost "
    "(and forwardPort) or routes, or name a next hop with next_hop, such as mx.example.com:25"
)


def captured_routes(parts: AdminParts) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    _add_looking(router, parts)
    _add_deleting(router, parts)
    _add_release(router, parts)
    return router


def _add_looking(router: APIRouter, parts: AdminParts) -> None:
    @router.get("/api/captured")
    async def captured(request: Request) -> JSONResponse:
        asked = await asked_of(request)
        refuse_unknown(asked, ("limit", "after"))
        limit = whole_number(asked, "limit", 50, 1, _LIMIT)
        after = whole_number(asked, "after", 0, 0, 2**62)
        shown: list[dict[str, Any]] = []
        while len(shown) < limit:
            page = await parts.captured.read(after)
            for one in page[: limit - len(shown)]:
                shown.append(_shown(one))
                after = one.sequence
            if not page:
                break
        answer: dict[str, Any] = {"records": await parts.captured.count(), "captured": shown}
        if len(shown) == limit:
            answer["after"] = after
        return JSONResponse(answer)

    @router.get("/api/captured/{queue_id}")
    async def of_submission(queue_id: str) -> JSONResponse:
        found = await _records(parts, queue_id)
        return JSONResponse({"captured": [_shown(one) for one in found]})

    @router.get("/api/messages/{queue_id}/content")
    async def content(queue_id: str) -> Response:
        return await _content(parts, queue_id)


def _add_deleting(router: APIRouter, parts: AdminParts) -> None:
    @router.delete("/api/captured")
    async def delete_all(request: Request) -> JSONResponse:
        asked = await asked_of(request)
        refuse_unknown(asked, ("all",))
        if not truth(asked, "all"):
            raise BadRequestError(422, "say which: all=true, or /api/captured/<queue id>")
        return JSONResponse({"deleted": await parts.captured_remover.delete_all()})

    @router.delete("/api/captured/{queue_id}")
    async def delete(queue_id: str, request: Request) -> JSONResponse:
        refuse_unknown(await asked_of(request), ())
        await _records(parts, queue_id)
        deleted = await parts.captured_remover.delete(QueueId(queue_id))
        return JSONResponse({"deleted": deleted})


def _add_release(router: APIRouter, parts: AdminParts) -> None:
    @router.post("/admin/release")
    async def release(request: Request) -> JSONResponse:
        asked = await asked_of(request, several=("ids",))
        refuse_unknown(asked, _RELEASE_KEYS)
        ids = _ids(asked)
        next_hop = _next_hop(asked, has_upstream=parts.has_upstream())
        request_id = _request_id(asked)
        try:
            noted = await parts.releaser.ask(request_id, ids, next_hop)
        except NothingCapturedError as error:
            raise BadRequestError(404, f"nothing is captured under {error}") from error
        if (noted.ids, noted.next_hop) != (ids, next_hop):
            raise BadRequestError(409, f"request: {request_id} was another request; choose anew")
        return JSONResponse(_progress(noted))

    @router.get("/admin/release")
    async def release_progress() -> JSONResponse:
        requests = await parts.releaser.progress()
        return JSONResponse({"requests": [_progress(one) for one in requests]})


def _ids(asked: dict[str, Any]) -> tuple[str, ...]:
    """Return the queue ids; none stands for all, which has to be said."""
    everything, ids = truth(asked, "all"), asked.get("ids", [])
    ids = [ids] if isinstance(ids, str) else ids
    if not isinstance(ids, list) or len(ids) > MAX_IDS:
        raise BadRequestError(422, f"ids: must be a list of at most {MAX_IDS} queue ids")
    if everything == bool(ids):
        raise BadRequestError(422, "say which: all=true, or ids with one or more queue ids")
    for one in ids:
        if not isinstance(one, str) or not is_queue_id(one):
            raise BadRequestError(422, f"ids: {one!r:.80} is no queue id")
    return tuple(dict.fromkeys(ids))


def _next_hop(asked: dict[str, Any], *, has_upstream: bool) -> str:
    text = asked.get("next_hop")
    if text is None:
        if not has_upstream:
            raise BadRequestError(409, _NO_UPSTREAM)
        return ""
    try:
        return format_next_hop(*parse_next_hop(str(text)))
    except ValueError as error:
        raise BadRequestError(422, f"next_hop: {error}") from error


def _request_id(asked: dict[str, Any]) -> str:
    text = asked.get("request")
    if text is None:
        return secrets.token_hex(8)
    if not isinstance(text, str) or not _REQUEST.fullmatch(text):
        raise BadRequestError(
            422, f"request: must be 1 to 64 of A-Z a-z 0-9 . _ -, is {text!r:.80}"
        )
    return text


async def _records(parts: AdminParts, queue_id: str) -> list[StoredCapture]:
    found = []
    if is_queue_id(queue_id):
        found = [one async for one in parts.captured.walk(QueueId(queue_id))]
    if not found:
        raise BadRequestError(404, "nothing is captured under this queue id")
    return found


async def _content(parts: AdminParts, queue_id: str) -> Response:
    """Answer with the message itself, from the files kept beside the queue or from its records."""
    kept = kept_content(parts.data_dir, QueueId(queue_id)) if is_queue_id(queue_id) else None
    if kept is not None:
        return FileResponse(kept, media_type="message/rfc822", filename=kept.name)
    job = await _held(parts, QueueId(queue_id)) if is_queue_id(queue_id) else None
    if job is None:
        raise BadRequestError(
            404,
            "no content is kept under this queue id; it is of captured and failed mail, and of all "
            "mail while security.logAllEmails keeps it",
        )
    pieces = message_pieces(parts.bodies, job)
    try:
        first = await anext(pieces, b"")
    except BodyUnreadableError as error:
        raise BadRequestError(503, f"the content cannot be read now: {error}") from error

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return StreamingResponse(
        whole(),
        media_type="message/rfc822",
        headers={"Content-Disposition": f'attachment; filename="{queue_id}.eml"'},
    )


async def _held(parts: AdminParts, queue_id: QueueId) -> Job | None:
    for captured in await parts.captured.read(0, 1, queue_id):
        if captured.record is not None:
            return captured.record.job
    await parts.follower.catch_up()
    which = FailedFilter(ids=((queue_id, None),))
    for row in await parts.database.run(lambda db: failed_index.matching(db, which, 1)):
        last = await parts.failed.last(row.submission, row.recipient)
        if last is not None and last.record is not None:
            return last.record.job
    return None


def _shown(captured: StoredCapture) -> dict[str, Any]:
    if captured.record is None:
        return {"id": captured.submission, "unreadable": True, "record_bytes": captured.size_bytes}
    job = captured.record.job
    return {
        "id": captured.submission,
        "batch": job.batch,
        "batches": job.batches,
        "sender": job.reverse_path,
        "recipients": [recipient.address for recipient in job.recipients],
        "accepted_at": rfc3339(job.accepted_at),
        "captured_at": rfc3339(captured.record.captured_at),
        "size_bytes": job.size_bytes,
    }


def _progress(noted: ReleaseRequest) -> dict[str, Any]:
    return {
        "request": noted.id,
        "asked_at": rfc3339(noted.asked_at),
        "next_hop": noted.next_hop or "the upstream",
        "asked": noted.asked,
        "waiting": 0 if noted.finished else max(0, noted.asked - noted.queued - noted.unreadable),
        "queued": noted.queued,
        "unreadable": noted.unreadable,
        "finished": noted.finished,
    }
