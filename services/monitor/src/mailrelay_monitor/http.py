"""What is answered over HTTP, all of it from memory or the index; see `access` for to whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry

from mailrelay.mail.ids import QueueId, is_queue_id
from mailrelay.mail.limit import Scope
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueError
from mailrelay.queue.ready import ready_jobs
from mailrelay.queue.state import Condition
from mailrelay.runtime.clock import Clock
from mailrelay_monitor import page
from mailrelay_monitor.access import Access, Guests
from mailrelay_monitor.admin import mount_admin
from mailrelay_monitor.admin_parts import AdminParts
from mailrelay_monitor.backlog import BacklogWatch
from mailrelay_monitor.collect import Collector
from mailrelay_monitor.exposition import expose, wants_exposition
from mailrelay_monitor.health import Health, Status, judge
from mailrelay_monitor.index import SubmissionRow
from mailrelay_monitor.index_file import IndexDamagedError, IndexUnwritableError
from mailrelay_monitor.index_thread import IndexThread
from mailrelay_monitor.limits import MOST_SHOWN, LimitUse, LimitView
from mailrelay_monitor.ready import Readiness

_UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the answers come from."""

    connection: QueueConnection
    collector: Collector
    index: IndexThread
    backlog: BacklogWatch
    readiness: Readiness
    limits: LimitView
    admin: AdminParts
    registry: CollectorRegistry
    clock: Clock
    guests: Guests
    conditions: Callable[[], Sequence[Condition]]

    def health(self) -> Health:
        """Judge how the relay is now."""
        return judge(
            connected=self.connection.is_connected,
            backlog=self.backlog.backlog,
            ledger=self.collector.ledger,
            collector_fault=self.collector.fault,
            conditions=self.conditions(),
            now=self.clock(),
        )


def make_app(sources: Sources) -> FastAPI:
    """Make the application. No API documents: their pages load scripts from elsewhere."""
    app = FastAPI(title="MailRelay monitor", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Access, guests=sources.guests)
    _add_probes(app, sources)
    _add_numbers(app, sources)
    _add_messages(app, sources)
    _add_limits(app, sources)
    _add_backlog(app, sources)
    mount_admin(app, sources.admin)

    async def index_unusable(_request: Request, error: Exception) -> Response:
        return JSONResponse({"error": f"the index: {error}"}, status_code=_UNAVAILABLE)

    for kind in (IndexUnwritableError, IndexDamagedError):
        app.add_exception_handler(kind, index_unusable)
    return app


def _add_probes(app: FastAPI, sources: Sources) -> None:
    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:
        reason = await sources.readiness.reason()
        if reason:
            return PlainTextResponse(f"{reason}\n", status_code=_UNAVAILABLE)
        return PlainTextResponse("ok\n")


def _add_numbers(app: FastAPI, sources: Sources) -> None:
    @app.get("/health")
    async def health() -> JSONResponse:
        totals = sources.collector.ledger.totals
        judged = sources.health()
        answer: dict[str, Any] = {
            "status": judged.status.value,
            "timestamp": _rfc3339(sources.clock()),
            "details": {
                "disk_space_available_mb": sources.backlog.backlog.disk_free_bytes // 1024**2,
                "queued_emails": totals.queued_emails,
                "failed_emails": totals.failed_emails,
                "total_emails_processed": totals.finished_emails,
                "success_rate": totals.success_rate,
            },
        }
        if judged.reasons:
            answer["reasons"] = list(judged.reasons)
        unavailable = judged.status is Status.UNAVAILABLE
        return JSONResponse(answer, status_code=_UNAVAILABLE if unavailable else 200)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        accept = ",".join(request.headers.getlist("accept"))
        if wants_exposition(accept):
            text, content_type = expose(sources.registry, accept)
            return Response(text, headers={"Content-Type": content_type})
        totals = sources.collector.ledger.totals
        return JSONResponse(
            {
                "total_emails": totals.total_emails,
                "successful_emails": totals.successful_emails,
                "failed_emails": totals.failed_emails,
                "total_recipients": totals.total_recipients,
                "avg_processing_time_ms": totals.avg_processing_time_ms,
            }
        )


def _add_messages(app: FastAPI, sources: Sources) -> None:
    @app.get("/api/messages/{queue_id}")
    async def message(queue_id: str) -> JSONResponse:
        row = None
        if is_queue_id(queue_id):
            row = await sources.index.run(lambda index: index.submission(QueueId(queue_id)))
        if row is None:
            return JSONResponse({"error": "no message has this queue id"}, status_code=404)
        return JSONResponse(_shown(row))

    @app.get("/api/messages")
    async def messages(limit: Annotated[int, Query(ge=1, le=200)] = page.ROWS) -> JSONResponse:
        rows = await sources.index.run(lambda index: index.newest(limit))
        return JSONResponse({"messages": [_shown(row) for row in rows]})

    @app.get("/")
    async def people() -> HTMLResponse:
        rows = await sources.index.run(lambda index: index.newest(page.ROWS))
        text = page.render(sources.collector.ledger.totals, sources.health(), rows)
        return HTMLResponse(text, headers={"Content-Security-Policy": page.POLICY})


def _add_limits(app: FastAPI, sources: Sources) -> None:
    @app.get("/api/limits")
    async def limits(
        sender: str | None = None, limit: Annotated[int, Query(ge=1, le=MOST_SHOWN)] = 100
    ) -> JSONResponse:
        try:
            report = await sources.limits.report(sender, limit)
        except QueueError as error:
            return JSONResponse({"error": f"the queue: {error}"}, status_code=_UNAVAILABLE)
        return JSONResponse(
            {
                "enabled": report.enabled,
                "counters": [_shown_use(use) for use in report.uses],
                "complete": report.is_complete,
            }
        )


def _add_backlog(app: FastAPI, sources: Sources) -> None:
    @app.get("/api/backlog")
    async def backlog() -> JSONResponse:
        """What waits now, for who decides how many senders there are."""
        try:
            ready = await ready_jobs(sources.connection, sources.clock())
        except QueueError as error:
            missing = list(sources.backlog.backlog.missing)
            said = {"error": f"the queue: {error}", "missing": missing}
            return JSONResponse(said, status_code=_UNAVAILABLE)
        levels = sources.backlog.backlog.levels
        return JSONResponse(
            {
                "ready": {"new": ready.new, "soon": ready.soon},
                "jobs": sum(levels[name].messages for name in ("in", "lane") if name in levels),
                "failed": levels["failed"].messages if "failed" in levels else 0,
                "captured": levels["capture"].messages if "capture" in levels else 0,
                "missing": list(sources.backlog.backlog.missing),
            }
        )


def _shown_use(use: LimitUse) -> dict[str, Any]:
    return {
        "limit": use.name.limit_name,
        "window": use.name.window.value,
        "sender": use.name.address if use.name.scope is Scope.SENDER else None,
        "used": use.used,
        "most": use.most,
        "resets_at": _rfc3339(use.name.ends_at),
    }


def _shown(row: SubmissionRow) -> dict[str, Any]:
    shown = asdict(row)
    shown["accepted_at"] = _rfc3339(row.accepted_at)
    for recipient in shown["recipients"]:
        at = recipient["changed_at"]
        recipient["changed_at"] = _rfc3339(at) if at else None
    return shown


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
