"""The whole relay as people run it: real nats-server, real services, real signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import smtplib
import socket
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from mailrelay.queue.rights import Role
from tests.cli.relay_process import Relay, run_command
from tests.support.replies import Reply
from tests.support.scripting import Stage
from tests.support.scripts import fail_at
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    relay = Relay(tmp_path)
    yield relay
    relay.close()


async def test_it_tells_where_to_send_and_look_and_stops_without_a_trace(relay: Relay) -> None:
    supervisor = relay.start()
    running = await relay.wait_ready()
    assert set(running.pids) == {"nats", "ingress", "sender", "monitor"}
    assert len(relay.processes()) == 5
    assert relay.data.stat().st_mode & 0o777 == 0o700
    os.killpg(supervisor.pid, signal.SIGINT)  # what Ctrl-C does
    out, err = supervisor.communicate(timeout=30)
    assert (supervisor.returncode, err) == (0, "")
    for words in (
        f"127.0.0.1:{relay.smtp_port}",
        f"http://127.0.0.1:{relay.http_port}/",
        "captured",
        str(relay.data),
        "mailrelay.log",
    ):
        assert words in out
    assert out.endswith("stopped\n")
    assert relay.processes() == []
    assert relay.running is None
    ended = [
        line["process"]
        for line in map(json.loads, (relay.data / "log/mailrelay.log").read_text().splitlines())
        if line["event"] == "process.ended"
    ]
    assert ended == ["ingress", "sender", "monitor", "nats"]


async def test_no_secret_stands_on_a_command_line_or_in_the_log(relay: Relay) -> None:
    relay.start()
    await relay.wait_ready()
    seeds = [each.read_text().strip() for each in (relay.data / "run/credentials").iterdir()]
    commands = [" ".join(process.cmdline()) for process in relay.processes()]
    log = "".join(each.read_text() for each in (relay.data / "log").iterdir())
    assert len(seeds) == len(Role)
    assert not [seed for seed in seeds if seed in log or any(seed in each for each in commands)]


async def test_a_second_relay_on_the_folder_is_refused_and_the_first_goes_on(relay: Relay) -> None:
    first = relay.start()
    await relay.wait_ready()
    second = relay.run("run")
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr == (
        f"data folder {relay.data} is in use by another relay (pid {first.pid})\n"
    )
    assert relay.run("send").returncode == 0


@pytest.mark.parametrize("kind", ["SMTP", "HTTP"])
def test_a_port_that_is_taken_starts_nothing(kind: str, relay: Relay) -> None:
    port = relay.smtp_port if kind == "SMTP" else relay.http_port
    with socket.create_server(("127.0.0.1", port)):
        done = relay.run("run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"port 127.0.0.1:{port} ({kind}) is taken: stop what uses it")
    assert done.stderr.count("\n") == 1
    assert not (relay.data / "nats" / "nats.conf").exists()


async def test_a_new_run_right_after_a_kill_takes_over(relay: Relay) -> None:
    relay.start()
    await relay.wait_ready()
    assert relay.run("send").returncode == 0
    for _ in range(3):
        before = relay.processes()
        relay.stop(signal.SIGKILL)
        relay.start()
        await relay.wait_ready()
        now = relay.processes()
        assert len(now) == 5
        assert not set(now) & set(before)
    sent = relay.run("send")
    assert sent.returncode == 0, sent.stderr
    assert relay.stop()[0] == 0


@pytest.mark.parametrize("name", ["ingress", "sender", "monitor", "nats"])
async def test_a_process_that_is_killed_is_back_and_mail_goes_on(name: str, relay: Relay) -> None:
    relay.start()
    running = await relay.wait_ready()
    for _ in range(2):
        old = running.pids[name]
        os.kill(old, signal.SIGKILL)

        def is_back(old: int = old) -> bool:
            now = relay.running
            return now is not None and now.pids.get(name, old) != old

        await wait_until(is_back, 2, f"{name} is started again")
        sent = relay.run("send", "--timeout", "20")
        assert sent.returncode == 0, sent.stderr
        assert relay.running is not None
        running = relay.running
    code, _, err = relay.stop()
    assert code == 0
    assert err == f"{name} was ended by SIGKILL; starting it again\n" * 2


async def test_clients_wait_while_an_ingress_is_restarted(relay: Relay) -> None:
    relay.start()
    running = await relay.wait_ready()
    os.kill(running.pids["ingress"], signal.SIGKILL)
    with smtplib.SMTP("127.0.0.1", relay.smtp_port, timeout=20) as client:
        assert client.noop()[0] == 250


async def test_send_tells_that_mail_was_captured(relay: Relay) -> None:
    relay.start()
    await relay.wait_ready()
    sent = relay.run("send", "--to", "a@example.org", "--to", "b@example.org")
    assert sent.returncode == 0, sent.stderr
    queued, first, second = sent.stdout.splitlines()
    assert queued.startswith("queued as ")
    assert first.startswith("a@example.org: captured")
    assert second.startswith("b@example.org: captured")


async def test_send_tells_what_the_upstream_made_of_it(tmp_path: Path) -> None:
    script = fail_at(Stage.RCPT, Reply(550, "5.1.1 no such user"))
    async with ScriptedUpstream(script) as upstream:
        relay = Relay(
            tmp_path,
            FORWARD_SMTP="true",
            FORWARD_HOST="127.0.0.1",
            FORWARD_PORT=str(upstream.port),
        )
        try:
            relay.start()
            await relay.wait_ready()
            nobody = await _apart(relay, "send")
            assert nobody.returncode == 2
            assert "--to" in nobody.stderr
            refused = await _apart(relay, "send", "--to", "a@example.org")
            assert refused.returncode == 1
            assert "a@example.org: bounced (550 5.1.1 no such user" in refused.stdout
        finally:
            relay.close()


async def test_send_tells_that_mail_is_still_deferred(tmp_path: Path) -> None:
    script = fail_at(Stage.RCPT, Reply(451, "4.2.0 come back later"))
    async with ScriptedUpstream(script) as upstream:
        relay = Relay(
            tmp_path,
            FORWARD_SMTP="true",
            FORWARD_HOST="127.0.0.1",
            FORWARD_PORT=str(upstream.port),
        )
        try:
            relay.start()
            await relay.wait_ready()
            waiting = await _apart(relay, "send", "--to", "a@example.org", "--timeout", "3")
            assert waiting.returncode == 1
            assert "a@example.org: still deferred: 451 4.2.0 come back later" in waiting.stderr
        finally:
            relay.close()


async def test_the_relay_is_ready_when_it_says_so(relay: Relay) -> None:
    relay.start()
    running = await relay.wait_ready()
    assert running.http is not None

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{running.http}readyz", timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            return False

    await wait_until(answers, 5, "readyz says 200")


async def test_the_idle_supervisor_takes_no_time(relay: Relay) -> None:
    supervisor = relay.start()
    await relay.wait_ready()
    process = next(each for each in relay.processes() if each.pid == supervisor.pid)
    before = sum(process.cpu_times()[:2])
    started = time.monotonic()
    await wait_until(lambda: time.monotonic() - started >= 3, 4, "three seconds", interval=0.5)
    assert sum(process.cpu_times()[:2]) - before <= 0.03


async def _apart(relay: Relay, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a thread, so that an upstream in this process can answer."""
    return await asyncio.to_thread(relay.run, *arguments)


async def test_ensuring_the_queue_again_changes_only_what_differs(relay: Relay) -> None:
    relay.start("--log-format", "text")
    running = await relay.wait_ready()
    config = json.loads((relay.data / "nats" / "nats.conf").read_text())
    arguments = [
        "queue",
        "ensure",
        "--nats",
        running.nats,
        "--seed-file",
        f"{running.credentials}/admin.seed",
        "--store-bytes",
        str(config["jetstream"]["max_file_store"]),
    ]
    same = run_command(*arguments, env=relay.environ)
    assert (same.returncode, same.stdout) == (0, "nothing to change\n"), same.stderr
    other = run_command(*arguments, env={**relay.environ, "QUEUE_SIZE": "77"})
    assert (other.returncode, other.stdout) == (0, "stream mailrelay-in-0 changed: max_msgs\n")


async def test_a_store_made_smaller_and_larger_again_starts(tmp_path: Path) -> None:
    for size in ("2000000000", "100000000", "2000000000"):
        relay = Relay(tmp_path, QUEUE_STORE_BYTES=size)
        try:
            relay.start()
            await relay.wait_ready()
            assert relay.run("send").returncode == 0
            assert relay.stop()[0] == 0
        finally:
            relay.close()
