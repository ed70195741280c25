"""docker-compose.yml: the guide's promises, without an edit and with one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.compose.clients import USER, any_certificate, ask, load_plan, wait_total
from tests.compose.conftest import table
from tests.compose.docker import (
    ALL_IN_ONE,
    QUICK,
    V2,
    Project,
    docker,
    inspect,
    project,
    seconds_to,
)
from tests.compose.sink import HOST, PORT, Sink, running_sink
from tests.support.ledger import Ledger, Verdict
from tests.support.load import run_load
from tests.support.ports import free_port
from tests.support.smtp_client import SmtpDialogue
from tests.support.wait import wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(300)]

SMTP_PORT, HTTP_PORT = 2525, 8025  # the guide's, and the file's
SECRETS = "/app/data/secrets"
STOP_SECONDS = 30.0  # an orderly stop under load; measured 1 to 3 s
CONTENT = b"From: me@example.org\r\nTo: you@example.com\r\nSubject: hello\r\n\r\nHello.\r\n"


def ports() -> dict[str, str]:
    """Ports of its own, so that a test does not ask for what this machine uses already."""
    return {"SMTP_PORT": str(free_port()), "HEALTH_CHECK_PORT": str(free_port())}


def forwarding() -> dict[str, str]:
    """The three lines of the README, to the sink."""
    return {"FORWARD_SMTP": "true", "FORWARD_HOST": HOST, "FORWARD_PORT": str(PORT)}


async def secret(relay: Project, name: str) -> str:
    return (await relay.exec("mailrelay", "cat", f"{SECRETS}/{name}")).strip()


async def test_up_without_an_edit_is_safe_and_useful(compose: tuple[str, ...]) -> None:
    async with project([ALL_IN_ONE], compose) as relay:
        await relay.up()
        await mail_is_captured(relay, SMTP_PORT)
        await the_guides_curl_lines_answer(relay, HTTP_PORT)
        await nothing_but_loopback_is_published(relay)
        logs = await relay.logs()
        assert f"{SECRETS}/smtp-password" in logs
        assert await secret(relay, "smtp-password") not in logs
        assert await secret(relay, "http-token") not in logs
        container = await relay.container("mailrelay")
        table.append(f"all-in-one: ready {await seconds_to(container, 'relay.ready'):.1f} s")
        if compose == V2:
            await what_was_taken_is_there_after_down_and_up(relay)


async def mail_is_captured(relay: Project, port: int) -> None:
    async with SmtpDialogue.greeted("127.0.0.1", port) as client:
        assert "STARTTLS" in client.extensions
        assert "AUTH" not in client.extensions  # no password in the clear, from whomever
        await client.cmd("MAIL FROM:<me@example.org>", 530)
        await client.starttls(any_certificate())
        await client.ehlo()
        await client.auth_plain(USER, "a wrong password", 535)
        await client.auth_plain(USER, await secret(relay, "smtp-password"), 235)
        done = await client.submit("me@example.org", ["you@example.com"], CONTENT)
        assert done.accepted
        await client.quit()
    queue_id = str(done.queue_id)
    token = await secret(relay, "http-token")

    async def is_captured() -> bool:
        answer = await ask(HTTP_PORT, "GET", f"/api/messages/{queue_id}", token)
        return answer.status_code == 200 and answer.json()["recipients"][0]["state"] == "captured"

    await wait_until(is_captured, 10.0, "the message is captured")

    async def is_kept() -> bool:
        listed = await docker(
            *("run", "--rm", "--volume", f"{relay.volume('emails')}:/emails:ro"),
            *("--entrypoint", "find", "mailrelay-tools", "/emails", "-name", "*.eml"),
        )
        return queue_id in listed

    # The guide's volume has the content; it is written beside the mail's way.
    await wait_until(is_kept, 20.0, "the content is kept")


async def the_guides_curl_lines_answer(relay: Project, port: int) -> None:
    health = await ask(port, "GET", "/health")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    await wait_total(port, 1)
    # From the host one is a stranger to the container: what names people or sends needs the token.
    assert (await ask(port, "POST", "/admin/retry-failed")).status_code == 401
    assert (await ask(port, "GET", "/api/messages")).status_code == 401
    token = await secret(relay, "http-token")
    assert (await ask(port, "POST", "/admin/retry-failed", token)).status_code in {200, 202}
    # Nor is the container's own loopback trusted: a sidecar would be on it.
    asked = "import urllib.request as u; u.urlopen('http://127.0.0.1:8025/api/messages')"
    refused = await docker(
        "exec",
        await relay.container("mailrelay"),
        "python",
        "-c",
        f"import urllib.error\ntry: {asked}\nexcept urllib.error.HTTPError as e: print(e.code)",
    )
    assert refused.strip() == "401"
    sent = await relay.exec("mailrelay", "mailrelay", "send", "--to", "you@example.com")
    assert "you@example.com: captured" in sent


async def nothing_but_loopback_is_published(relay: Project) -> None:
    found = await inspect(await relay.container("mailrelay"))
    published = [each for many in found["HostConfig"]["PortBindings"].values() for each in many]
    assert {each["HostIp"] for each in published} == {"127.0.0.1"}
    host = found["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["Memory"] == 1024**3


async def what_was_taken_is_there_after_down_and_up(relay: Project) -> None:
    password = await secret(relay, "smtp-password")
    before = (await ask(HTTP_PORT, "GET", "/metrics")).json()["total_emails"]
    await relay.down()
    await relay.up()
    await wait_total(HTTP_PORT, before)
    assert await secret(relay, "smtp-password") == password


async def test_mail_is_relayed_and_survives_a_stop_and_a_kill_under_load(tmp_path: Path) -> None:
    options = ports()
    async with project([ALL_IN_ONE, QUICK], V2, **options) as relay:
        await relay.up()  # captures
        relay.options |= forwarding()  # and now it does not: changed by environment
        await relay.up()
        async with running_sink(relay.network, tmp_path) as sink:
            an_orderly_stop_repeats_nothing = await through(relay, sink, "stop-", stopped)
            assert an_orderly_stop_repeats_nothing.exactly_once, an_orderly_stop_repeats_nothing
            await through(relay, sink, "kill-", killed)


async def through(
    relay: Project, sink: Sink, run: str, interrupt: Callable[[Project], Awaitable[str]]
) -> Verdict:
    """Let mail flow, interrupt it, start again, stop and start once more, and count."""
    ledger, stop = Ledger(), asyncio.Event()
    password = await secret(relay, "smtp-password")
    plan = load_plan(int(relay.options["SMTP_PORT"]), password, run, duration_seconds=120.0)
    load = asyncio.create_task(run_load(plan, ledger, stop))
    await wait_until(lambda: len(sink.deliveries(run)) > 100, 60.0, "mail flows", 0.1)
    what = await interrupt(relay)
    await relay.up()
    before = len(ledger.accepted)
    await wait_until(lambda: len(ledger.accepted) > before + 100, 60.0, "mail flows again", 0.1)
    stop.set()
    await load
    await relay.down()
    await relay.up()
    verdict = await sink.wait_kept(ledger, run)
    table.append(
        f"{what} of the whole relay under load, then down and up: {verdict.accepted_messages} "
        f"accepted, {len(verdict.lost)} lost, {len(verdict.duplicated)} twice"
    )
    return verdict


async def stopped(relay: Project) -> str:
    container = await relay.container("mailrelay")
    began = time.monotonic()
    await docker("stop", container, limit=400.0)
    took, code = time.monotonic() - began, (await inspect(container))["State"]["ExitCode"]
    assert (code, took < STOP_SECONDS) == (0, True), f"exit code {code} after {took:.1f} s"
    return f"docker stop ({took:.1f} s, exit code 0)"


async def killed(relay: Project) -> str:
    await docker("kill", await relay.container("mailrelay"))
    return "docker kill"


async def test_health_turns_when_mail_cannot_be_taken_any_more() -> None:
    options = ports() | {"ENABLE_HEALTH_CHECK": "false"}  # and no HTTP port is needed for that
    async with project([ALL_IN_ONE, QUICK], V2, **options) as relay:
        await relay.up()
        container = await relay.container("mailrelay")
        found = json.loads(await relay.exec("mailrelay", "cat", "/app/data/run/relay.json"))
        pid = found["pids"]["nats"]
        await docker("exec", container, "python", "-c", f"import os; os.kill({pid}, 19)")  # SIGSTOP

        async def is_unhealthy() -> bool:
            return bool((await inspect(container))["State"]["Health"]["Status"] == "unhealthy")

        await wait_until(is_unhealthy, 60.0, "a queue that stands still makes it unhealthy")
