"""Mounts the answers on failed and captured mail, and says what goes wrong with them."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from mailrelay.queue.errors import QueueError
from mailrelay_monitor.admin_captured import captured_routes
from mailrelay_monitor.admin_database import AdminUnwritableError
from mailrelay_monitor.admin_failed import failed_routes
from mailrelay_monitor.admin_parts import AdminParts
from mailrelay_monitor.asked import BadRequestError

_UNAVAILABLE = 503


def mount_admin(app: FastAPI, parts: AdminParts) -> None:
    """Add the routes to the application."""
    app.include_router(failed_routes(parts))
    app.include_router(captured_routes(parts))

    async def bad_request(_request: Request, error: Exception) -> Response:
        status = error.status if isinstance(error, BadRequestError) else _UNAVAILABLE
        return JSONResponse({"error": str(error)}, status_code=status)

    async def unavailable(_request: Request, error: Exception) -> Response:
        return JSONResponse(
            {"error": f"cannot be done now: {error}; ask again"}, status_code=_UNAVAILABLE
        )

    app.add_exception_handler(BadRequestError, bad_request)
    for kind in (QueueError, AdminUnwritableError):
        app.add_exception_handler(kind, unavailable)
