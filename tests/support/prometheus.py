"""A real Prometheus on loopback, which scrapes real processes and judges real rules.

It is the release of `tests/support/kubernetes/modules/prometheus/go.mod`, from PATH, the cache, or
built. It dies with the test process.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.kubernetes.process import Daemon
from tests.support.kubernetes.programs import find_programs
from tests.support.ports import free_port
from tests.support.wait import wait_until

# Often enough for a test, and seldom enough for a machine that is busy with others.
SCRAPE_SECONDS = 2
READY_SECONDS = 60.0
LIMIT_SECONDS = 90.0

Labels = dict[str, str]


@dataclass(frozen=True, slots=True)
class Job:
    """What is scraped under one name: addresses with labels, and Prometheus' relabelling."""

    name: str
    targets: Mapping[str, Labels]  # host:port
    relabel: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to a query."""

    labels: Labels
    value: float


class QueryError(AssertionError):
    """Prometheus refused a query; the text is its own."""


class PrometheusClient:
    """Asks a Prometheus, wherever it runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def is_ready(self) -> bool:
        """Whether it answers queries now."""
        with contextlib.suppress(httpx.TransportError):
            async with self._client() as client:
                return (await client.get("/-/ready")).status_code == httpx.codes.OK
        return False

    async def query(self, expr: str) -> list[Sample]:
        """Ask for what an expression is now. Raises QueryError."""
        data = await self._get("/api/v1/query", query=expr)
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        return [Sample(each["metric"], float(each["value"][1])) for each in data["result"]]

    async def wait_numbers(self, expr: str, limit_seconds: float = LIMIT_SECONDS) -> list[Sample]:
        """Wait until an expression has an answer that is a number; returns the answers."""
        found: list[Sample] = []

        async def has_number() -> bool:
            found[:] = await self.query(expr)
            return any(not math.isnan(each.value) for each in found)

        await wait_until(has_number, limit_seconds, f"an answer to {expr}", interval=0.5)
        return found

    async def wait_scraped(self, times: int = 2) -> None:
        """Wait until each target was scraped so often: what begins at 0 was seen there."""

        async def is_scraped() -> bool:
            targets = await self.active_targets()
            faults = [each["lastError"] for each in targets if each["health"] != "up"]
            assert not faults, faults
            counts = await self.query(f"count_over_time(up[{10 * LIMIT_SECONDS:.0f}s]) >= {times}")
            return len(counts) == len(targets) > 0

        await wait_until(is_scraped, LIMIT_SECONDS, "every target is scraped", interval=0.5)

    async def alerts(self) -> list[Labels]:
        """The labels of all alerts that fire."""
        return [each["labels"] for each in await self.active_alerts() if each["state"] == "firing"]

    async def active_alerts(self) -> list[dict[str, Any]]:
        """All alerts whose query has an answer: `pending` until their time has passed."""
        found: list[dict[str, Any]] = (await self._get("/api/v1/alerts"))["alerts"]
        return found

    async def active_targets(self) -> list[dict[str, Any]]:
        """What is scraped now, with its labels, its interval and how that went."""
        found: list[dict[str, Any]] = (await self._get("/api/v1/targets", state="active"))[
            "activeTargets"
        ]
        return found

    async def rule_groups(self) -> list[dict[str, Any]]:
        """The rules that are loaded, with how their last evaluation went."""
        found: list[dict[str, Any]] = (await self._get("/api/v1/rules"))["groups"]
        return found

    async def label_names(self) -> set[str]:
        """The names of all labels that any series has."""
        return set(await self._get("/api/v1/labels"))

    async def label_values(self, label: str, selector: str) -> list[str]:
        """The values of a label of the series that a selector chooses."""
        found: list[str] = await self._get(f"/api/v1/label/{label}/values", **{"match[]": selector})
        return found

    async def rule_faults(self) -> dict[str, str]:
        """What the last evaluation of each rule complained of, by the rule's name."""
        rules = [rule for group in await self.rule_groups() for rule in group["rules"]]
        assert rules, "no rules"
        return {rule["name"]: rule["lastError"] for rule in rules if rule.get("lastError")}

    async def _get(self, path: str, **params: str) -> Any:  # noqa: ANN401 — JSON
        async with self._client() as client:
            answer = await client.get(path, params=params)
        found = answer.json()
        if found["status"] != "success":
            raise QueryError(f"{params}: {found['error']}")
        return found["data"]

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=30)


class Prometheus(PrometheusClient):
    """A server with a folder and a port of its own."""

    def __init__(self, folder: Path, jobs: Iterable[Job], rules: Iterable[Path] = ()) -> None:
        super().__init__(f"http://127.0.0.1:{free_port()}")
        config = {
            "global": {
                "scrape_interval": f"{SCRAPE_SECONDS}s",
                "evaluation_interval": f"{SCRAPE_SECONDS}s",
            },
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [_scrape_config(job) for job in jobs],
        }
        self._file = folder / "prometheus.yml"
        self._file.write_text(json.dumps(config))  # JSON is YAML
        self._folder = folder
        self._daemon: Daemon | None = None

    async def start(self) -> None:
        """Start it and wait until it answers."""
        program = find_programs(["prometheus"], print)["prometheus"]
        self._daemon = daemon = Daemon(
            program,
            f"--config.file={self._file}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            f"--storage.tsdb.path={self._folder / 'tsdb'}",
            "--log.level=warn",
            log=self._folder / "prometheus.log",
        )
        daemon.start()

        async def is_ready() -> bool:
            daemon.check()
            return await self.is_ready()

        await wait_until(is_ready, READY_SECONDS, "Prometheus is ready", interval=0.1)

    async def stop(self) -> None:
        """End it."""
        if self._daemon is not None:
            await self._daemon.stop()


def _scrape_config(job: Job) -> dict[str, Any]:
    return {
        "job_name": job.name,
        "static_configs": [
            {"targets": [address], "labels": labels} for address, labels in job.targets.items()
        ],
        "relabel_configs": list(job.relabel),
    }


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool; its output is text, its exit code the caller's to judge."""
    program = find_programs(["promtool"], print)["promtool"]
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS
    )
