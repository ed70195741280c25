"""Ask the running relay's monitor, found by `data/run/relay.json`."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from mailrelay_cli.data_folder import DataFolder
from mailrelay_cli.errors import BadInputError
from mailrelay_cli.run_file import RunFile, read_run_file

_SECONDS = 60.0
_BAD_REQUEST = range(400, 500)
_PIECE_BYTES = 64 * 1024


class CannotBeDoneError(Exception):
    """The monitor is away, or says that it cannot now."""


class MonitorClient:
    """Asks one monitor."""

    def __init__(self, data_dir: Path) -> None:
        """Find it. Raises BadInputError."""
        folder = DataFolder(data_dir.absolute())
        running = read_run_file(folder.run_file)
        if running is None:
            raise BadInputError(f"no relay is running on data folder {folder.path}")
        if running.http is None:
            raise BadInputError("this relay answers no HTTP: enableHealthCheck is false")
        self._base = running.http
        self._headers = token_headers(running)

    def ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the answer. Raises BadInputError when refused, CannotBeDoneError."""
        answer: dict[str, Any] = json.loads(self._read(method, path, body, query))
        return answer

    def download(self, path: str, write: Any) -> None:  # noqa: ANN401 — a file's write
        """Hand an answer's octets on in pieces. Raises as `ask` does."""
        with self._open("GET", path, None, None) as answer:
            while piece := answer.read(_PIECE_BYTES):
                write(piece)

    def _read(
        self, method: str, path: str, body: dict[str, Any] | None, query: dict[str, Any] | None
    ) -> bytes:
        with self._open(method, path, body, query) as answer:
            read: bytes = answer.read()
        return read

    def _open(
        self, method: str, path: str, body: dict[str, Any] | None, query: dict[str, Any] | None
    ) -> Any:  # noqa: ANN401 — urllib's answer
        asked = {key: value for key, value in (query or {}).items() if value not in (None, [], "")}
        url = f"{self._base}{path}" + (f"?{urlencode(asked, doseq=True)}" if asked else "")
        request = urllib.request.Request(  # noqa: S310 — our own monitor
            url,
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers=self._headers
            | ({"Content-Type": "application/json"} if body is not None else {}),
        )
        try:
            return urllib.request.urlopen(request, timeout=_SECONDS)  # noqa: S310 — an address of our own making
        except urllib.error.HTTPError as error:
            with error:
                reason = _reason(error.read())
            if error.code in _BAD_REQUEST:
                raise BadInputError(reason) from error
            raise CannotBeDoneError(reason) from error
        except (OSError, http.client.HTTPException) as error:
            raise CannotBeDoneError(f"the monitor does not answer: {error}") from error


def token_headers(running: RunFile) -> dict[str, str]:
    """Return what shows the token of a relay that has one: loopback may not be enough for it."""
    if running.token_file is None:
        return {}
    try:
        return {"Authorization": f"Bearer {Path(running.token_file).read_text().strip()}"}
    except OSError:  # not ours to read: the monitor says what is missing
        return {}


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:200] or "no reason given"
