"""HTTP on failed mail: look, have it sent again, delete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from mailrelay.mail.ids import QueueId
from mailrelay_monitor import failed_index
from mailrelay_monitor.admin_parts import AdminParts
from mailrelay_monitor.asked import BadRequestError, asked_of, refuse_unknown, truth, whole_number
from mailrelay_monitor.failed_files import describe, rfc3339
from mailrelay_monitor.failed_filter import KEYS, FailedFilter, FilterError, parse_filter, parse_id
from mailrelay_monitor.failed_row import FailedRow

_LIMIT = 1000
_PAGE = 200


def failed_routes(parts: AdminParts) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    _add_resend(router, parts)
    _add_looking(router, parts)
    _add_deleting(router, parts)
    return router


def _add_resend(router: APIRouter, parts: AdminParts) -> None:
    @router.post("/admin/retry-failed")
    async def retry_failed(request: Request) -> JSONResponse:
        which = _filter(await asked_of(request, several=("id",)))
        report = await parts.resender.ask(parts.follower, which)
        return JSONResponse(
            {
                "request": report.request,
                "matching": report.matching,
                "resent": report.resent,
                "already_resending": report.already_resending,
                "unreadable": report.unreadable,
            }
        )

    @router.get("/admin/retry-failed")
    async def retry_progress() -> JSONResponse:
        return JSONResponse(
            {
                "requests": [
                    {
                        "request": one.request,
                        "asked_at": rfc3339(one.asked_at),
                        "by": one.by,
                        "asked": one.asked,
                        "waiting": one.waiting,
                        "queued": one.queued,
                        "delivered": one.delivered,
                        "failed_again": one.failed_again,
                        "gone": one.gone,
                    }
                    for one in await parts.resender.progress()
                ]
            }
        )


def _add_looking(router: APIRouter, parts: AdminParts) -> None:
    @router.get("/api/failed")
    async def failed(request: Request) -> JSONResponse:
        asked = await asked_of(request, several=("id",))
        limit = whole_number(asked, "limit", 50, 1, _LIMIT)
        after = whole_number(asked, "after", 0, 0, 2**62)
        which = _filter({key: asked[key] for key in asked if key not in {"limit", "after"}})
        await parts.follower.catch_up()
        matching = await parts.database.run(lambda db: failed_index.count(db, which))
        rows = await parts.database.run(lambda db: failed_index.matching(db, which, limit, after))
        answer = {"matching": matching, "failed": [_shown(row) for row in rows]}
        if len(rows) == limit:
            answer["after"] = rows[-1].sequence
        return JSONResponse(answer)

    @router.get("/api/failed/{queue_id}")
    async def of_submission(queue_id: str) -> JSONResponse:
        return await _described(parts, queue_id)

    @router.get("/api/failed/{queue_id}/{recipient}")
    async def of_recipient(queue_id: str, recipient: str) -> JSONResponse:
        return await _described(parts, f"{queue_id}/{recipient}")


def _add_deleting(router: APIRouter, parts: AdminParts) -> None:
    @router.delete("/api/failed")
    async def delete_matching(request: Request) -> JSONResponse:
        asked = await asked_of(request, several=("id",))
        everything = truth(asked, "all")
        rest = {key: asked[key] for key in asked if key != "all"}
        if everything == bool(rest):
            raise BadRequestError(422, f"say which: all=true, or one or more of {', '.join(KEYS)}")
        return await _deleted(parts, _filter(rest))

    @router.delete("/api/failed/{queue_id}")
    async def delete_submission(queue_id: str, request: Request) -> JSONResponse:
        refuse_unknown(await asked_of(request), ())
        return await _deleted(parts, _filter({"id": queue_id}), one=True)

    @router.delete("/api/failed/{queue_id}/{recipient}")
    async def delete_recipient(queue_id: str, recipient: str, request: Request) -> JSONResponse:
        refuse_unknown(await asked_of(request), ())
        return await _deleted(parts, _filter({"id": f"{queue_id}/{recipient}"}), one=True)


def _filter(asked: Mapping[str, object]) -> FailedFilter:
    try:
        return parse_filter(asked)
    except FilterError as error:
        raise BadRequestError(422, str(error)) from error


async def _deleted(parts: AdminParts, which: FailedFilter, *, one: bool = False) -> JSONResponse:
    """Delete what matches now; what fails meanwhile stays."""
    await parts.follower.catch_up()
    deleted, after = 0, 0
    while rows := await _page(parts, which, after):
        for row in rows:
            deleted += await parts.remover.remove(row)
        after = rows[-1].sequence
    if one and not deleted:
        return JSONResponse({"error": "no failed mail has this id"}, status_code=404)
    return JSONResponse({"deleted": deleted})


async def _page(parts: AdminParts, which: FailedFilter, after: int) -> list[FailedRow]:
    return await parts.database.run(lambda db: failed_index.matching(db, which, _PAGE, after))


async def _described(parts: AdminParts, text: str) -> JSONResponse:
    """Everything but the content, of one recipient or of a submission's."""
    try:
        queue_id, recipient = parse_id(text)
    except FilterError:
        queue_id, recipient = "", None
    found = []
    if queue_id:
        await parts.follower.catch_up()
        which = FailedFilter(ids=((queue_id, recipient),))
        rows = await parts.database.run(lambda db: failed_index.matching(db, which, _LIMIT))
        for row in rows:
            last = await parts.failed.last(QueueId(row.submission), row.recipient)
            if last is not None and last.record is not None:
                file = parts.files.path(row.submission, row.recipient)
                found.append({**_shown(row), **describe(last.record), "file": str(file)})
    if not found:
        return JSONResponse({"error": "no failed mail has this id"}, status_code=404)
    return JSONResponse({"failed": found})


def _shown(row: FailedRow) -> dict[str, Any]:
    return {
        "id": row.submission,
        "recipient_number": row.recipient,
        "recipient": row.address,
        "sender": row.reverse_path,
        "disposition": row.disposition or "unreadable",
        "accepted_at": rfc3339(row.accepted_at),
        "failed_at": rfc3339(row.failed_at),
        "attempts": row.attempts,
        "reply": row.reply,
        "size_bytes": row.size_bytes,
        "resend": row.stage or ("claimed" if row.mark_sequence else None),
    }
