"""`mailrelay health`: whether mail can be taken now, for a container's health check.

Asks what takes mail and not what reports about it: no HTTP port of the relay is needed, and no
program beside this one. Where `mailrelay run` runs, its listener must greet and its queue answer;
in a container of one service, that service's own probe must say so. What one of the two needs is
imported there: this runs every few seconds.
"""

from __future__ import annotations

import asyncio
import http.client
import os
from pathlib import Path

from mailrelay.readiness import TIMEOUT_SECONDS, listener_fault, queue_fault, reachable
from mailrelay_cli.console import complain, say
from mailrelay_cli.data_folder import DataFolder
from mailrelay_cli.run_file import RunFile, read_run_file

_OK, _FAILED = 0, 1
_PROBED = ("/healthz", "/readyz")  # that the event loop runs; that the process can do its work


def health(data_dir: Path) -> int:
    """Print `ok`, or why mail cannot be taken; the exit code."""
    folder = DataFolder(data_dir.absolute())
    running = read_run_file(folder.run_file)
    probe = os.environ.get("MAILRELAY_PROBE_ADDRESS", "")
    if running is not None:
        fault = asyncio.run(_relay_fault(running))
    elif probe:
        fault = next(filter(None, (_probe_fault(probe, path) for path in _PROBED)), "")
    else:
        fault = f"no relay is running on data folder {folder.path}"
    if fault:
        complain(fault)
        return _FAILED
    say("ok")
    return _OK


async def _relay_fault(running: RunFile) -> str:
    if not running.is_ready:
        return "the relay is still starting"
    host, _, port = running.smtp[0].rpartition(":")
    fault = await listener_fault(reachable(host.strip("[]")), int(port))
    return fault or await _queue_fault(running)


async def _queue_fault(running: RunFile) -> str:
    import logging  # noqa: PLC0415 — see above

    from mailrelay.queue.connection import ConnectionSettings, open_connection  # noqa: PLC0415
    from mailrelay.queue.errors import QueueError  # noqa: PLC0415 — see above
    from mailrelay.queue.rights import Role  # noqa: PLC0415 — see above
    from mailrelay.runtime.logging import configure_logging  # noqa: PLC0415 — see above

    # The monitor's key: it may ask, and it may take nothing from the queue.
    role = Role.MONITOR.value
    seed_file = Path(running.credentials) / f"{role}.seed"
    settings = ConnectionSettings(running.nats, role, seed_file, running.prefix)
    log = configure_logging("health", "text", logging.CRITICAL)  # one line is enough
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            connection = await open_connection(settings, log)
    except (TimeoutError, QueueError) as error:
        return f"the queue at {running.nats} cannot be reached: {str(error) or 'no answer in time'}"
    try:
        return await queue_fault(connection)
    finally:
        await connection.close()


def _probe_fault(address: str, path: str) -> str:
    host, _, port = address.rpartition(":")
    answering = reachable(host.strip("[]"))
    connection = http.client.HTTPConnection(answering, int(port), timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return f"the process's probe at {address} does not answer: {error}"
    finally:
        connection.close()
    return "" if answer.status == http.client.OK else text or f"{path} says {answer.status}"
