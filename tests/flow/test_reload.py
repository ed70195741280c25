"""A running relay whose configuration changes: what is taken over, what is told, what goes on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.certificates import make_certificates
from tests.support.extensions import Extensions
from tests.support.relay import Relay, forwarding_to, relay_config, running_relay
from tests.support.scripting import Delay, Stage
from tests.support.scripts import fail_at
from tests.support.smtp_client import SmtpDialogue, Submitted
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(150)
HELLO = b"Subject: hello\r\n\r\nhi\r\n"
OPEN = {"requireAuth": False, "logAllEmails": False}


async def submit(relay: Relay, *recipients: str) -> Submitted:
    async with SmtpDialogue.connect("127.0.0.1", relay.smtp_port, limit_seconds=30) as client:
        await client.expect(220)
        await client.ehlo()
        return await client.submit("from@example.org", list(recipients), HELLO)


async def change(relay: Relay, processes: int = 1, **changes: Any) -> None:  # noqa: ANN401 — JSON
    """Change the file, and wait until so many processes say that they follow."""
    before = len(relay.log_lines("config.changed"))
    relay.config |= changes
    relay.config_file.write_text(json.dumps(relay.config))
    await wait_until(
        lambda: len(relay.log_lines("config.changed")) >= before + processes, 20, "it is taken over"
    )


async def killed_and_started(relay: Relay, name: str) -> None:
    """Kill a process and wait until there is another one."""
    before = relay.kill(name)
    await wait_until(
        lambda: relay.run_file().pids.get(name, before) != before, 20, "it is started again"
    )


async def reasons(relay: Relay) -> list[str]:
    answer = (await relay.get("/health")).json()
    found: list[str] = answer.get("reasons", [])
    assert answer["status"] == ("degraded" if found else "ok")
    return found


async def test_another_upstream_is_taken_over_and_what_is_under_way_ends_where_it_began(
    tmp_path: Path,
) -> None:
    slow = fail_at(Stage.DATA, Delay(4.0), times=1)
    async with (
        ScriptedUpstream(slow) as old,
        ScriptedUpstream() as new,
        running_relay(tmp_path, **forwarding_to(old.port)) as relay,
    ):
        pids = dict(relay.run_file().pids)
        assert (await submit(relay, "first@example.com")).accepted
        await old.wait_until(lambda: old.in_flight == 1, 10, "it is under way")
        await change(relay, forwardPort=new.port)
        assert (await submit(relay, "second@example.com")).accepted
        await new.wait_received(1)
        await old.wait_received(1)
        await old.wait_until(lambda: old.open_connections == 0, 10, "the old one is left")
        assert old.attempts == {"first@example.com": 1}
        assert new.attempts == {"second@example.com": 1}
        assert relay.run_file().pids == pids
        await wait_until(
            lambda: relay.run_file().upstream == f"127.0.0.1:{new.port}", 10, "it is told"
        )


async def test_a_faulty_file_is_told_in_log_and_health_and_the_old_values_go_on(
    tmp_path: Path,
) -> None:
    async with running_relay(tmp_path) as relay:
        good = relay.config_file.read_text()
        relay.config_file.write_text(good[:-1] + ",}")
        await wait_until(lambda: len(relay.log_lines("config.refused")) == 3, 20, "it is told")

        async def shown() -> bool:
            found = await reasons(relay)
            return len(found) == 1 and "remove the comma before the closing bracket" in found[0]

        await wait_until(shown, 10, "health shows it", interval=0.1)
        assert (await submit(relay, "a@example.com")).accepted
        relay.config_file.write_text(good)

        async def over() -> bool:
            return not await reasons(relay)

        await wait_until(over, 20, "health is well again", interval=0.1)


async def test_sighup_reads_again_at_once_and_names_what_needs_a_restart(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        pids = dict(relay.run_file().pids)
        relay.config |= {"batchSize": 1, "smtpPort": relay.smtp_port + 1, "queueSize": 77}
        relay.config_file.write_text(json.dumps(relay.config))
        os.kill(relay.pid("supervisor"), signal.SIGHUP)
        await wait_until(lambda: bool(relay.log_lines("config.changed")), 10, "it is taken over")
        await wait_until(lambda: len(relay.log_lines("config.needs_restart")) == 2, 10, "named")
        named = {each["key"]: each["old"] for each in relay.log_lines("config.needs_restart")}
        assert named == {"smtpPort": str(relay.smtp_port - 1), "queueSize": "1000"}
        relay.config["smtpPort"] -= 1
        assert (await submit(relay, "a@example.com", "b@example.com")).accepted
        assert (await relay.logged("mail.accepted"))[-1]["jobs"] == 2
        assert relay.run_file().pids == pids


async def test_security_options_and_credentials_hold_from_the_next_session_on(
    tmp_path: Path,
) -> None:
    async with running_relay(tmp_path) as relay:
        user = {"defaultUsername": "ada", "defaultPassword": "first sesame-4711"}
        await change(relay, 3, security={**OPEN, "requireAuth": True}, **user)
        assert (await submit(relay, "a@example.com")).mail.code == 530
        await change(relay, security=OPEN)
        assert (await submit(relay, "a@example.com")).accepted
        assert "sesame" not in relay.log_text


async def test_the_command_line_goes_before_a_changed_file_in_every_process(
    tmp_path: Path,
) -> None:
    async with ScriptedUpstream() as upstream, ScriptedUpstream() as other:
        relay = Relay(tmp_path, relay_config(**forwarding_to(upstream.port)))
        relay.arguments = ("--set", "batchSize=1", "--set", f"forwardPort={upstream.port}")
        await relay.start()
        try:
            await change(relay, batchSize=5, forwardPort=other.port, processingTimeout=20)
            assert (await submit(relay, "a@example.com", "b@example.com")).accepted
            await upstream.wait_received(2)
            assert other.received_count == 0
        finally:
            assert await relay.stop() == 0


@pytest.mark.parametrize("trouble", ["closed port", "wrong password", "bad certificate"])
async def test_an_upstream_that_cannot_be_used_is_degraded_until_it_can(
    trouble: str, tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path / "certificates")
    bad = trouble == "bad certificate"
    offers = Extensions(
        starttls=(certificates.expired if bad else certificates.server).context(),
        auth=("PLAIN",),
        credentials={"relay": "right sesame-4711"},
    )
    password = "wrong sesame-4711" if trouble == "wrong password" else "right sesame-4711"
    async with ScriptedUpstream(extensions=offers) as upstream:
        if trouble == "closed port":
            await upstream.stop()
        options = forwarding_to(upstream.port, "localhost") | {
            "forwardUsername": "relay",
            "forwardPassword": password,
            "forwardCAFile": str(certificates.authority),
            "retry": {"initialIntervalSeconds": 600, "maxIntervalSeconds": 600},
        }
        async with running_relay(tmp_path, **options) as relay:
            assert await reasons(relay) == []
            assert (await submit(relay, "a@example.com")).accepted

            async def shown() -> bool:
                return bool(await reasons(relay))

            await wait_until(shown, 20, "health shows it", interval=0.1)
            [reason] = await reasons(relay)
            words = {
                "closed port": f"upstream down: cannot reach localhost:{upstream.port}: ",
                "wrong password": f"localhost:{upstream.port} refused our credentials: 535",
                "bad certificate": "the certificate of localhost is not valid: certificate has exp",
            }
            assert words[trouble] in reason
            [line] = relay.log_lines("upstream.down")
            assert line["level"] == "error"
            assert relay.log_lines("mail.deferred")[-1]["reply"].startswith("451 4.")
            assert (await relay.get("/readyz")).status_code == 200
            # Nobody sends mail meanwhile, and the deferred one is not due: it is looked after.
            if trouble == "closed port":
                await upstream.start()
            elif trouble == "wrong password":
                await change(relay, forwardPassword="right sesame-4711")
            else:
                upstream.extensions = Extensions(
                    starttls=certificates.server.context(), auth=("PLAIN",)
                )

            async def over() -> bool:
                return not await reasons(relay)

            await wait_until(over, 60, "health is well again", interval=0.2)
            assert "sesame" not in relay.log_text


async def test_without_a_health_check_no_port_serves_http(tmp_path: Path) -> None:
    relay = Relay(tmp_path, relay_config(enableHealthCheck=False))
    await relay.start(wait_ready=False)
    try:
        await wait_until(lambda: relay.run_file().is_ready, 30, "the relay is ready")
        supervisor = psutil.Process(relay.pid("supervisor"))
        listening = {
            connection.laddr.port
            for process in (supervisor, *supervisor.children(recursive=True))
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        nats = int(relay.run_file().nats.rpartition(":")[2])
        assert listening == {relay.smtp_port, nats}
        assert relay.run_file().http is None
        assert (await submit(relay, "a@example.com")).accepted
    finally:
        assert await relay.stop() == 0


@pytest.mark.parametrize(
    "text", ['{"smtpPort": "x"', None], ids=["a slip", "a value that needs a restart"]
)
async def test_a_process_that_dies_starts_with_what_is_in_force_whatever_the_file_says_by_then(
    text: str | None, tmp_path: Path
) -> None:
    async with running_relay(tmp_path) as relay:
        told = "config.needs_restart" if text is None else "config.refused"
        changed = relay.config | {"queue": {"prefix": "other"}}
        good = relay.config_file.read_text()
        relay.config_file.write_text(text or json.dumps(changed))
        await wait_until(lambda: bool(relay.log_lines(told)), 20, "it is told")
        for name in ("sender", "ingress", "monitor"):
            await killed_and_started(relay, name)
        await relay.wait_ready()
        submitted = await submit(relay, "a@example.com")
        assert submitted.accepted, submitted.final

        async def captured() -> bool:
            return bool((await relay.get("/api/captured")).json()["records"] == 1)

        await wait_until(captured, 20, "it is captured")
        in_force = relay.data_dir / "run" / "config.json"
        assert in_force.stat().st_mode & 0o777 == 0o600
        relay.config_file.write_text(good)
    assert not in_force.exists(), "what a run leaves behind has no secrets"


async def test_a_process_that_dies_starts_with_what_was_taken_over_since_the_relay_began(
    tmp_path: Path,
) -> None:
    async with ScriptedUpstream() as upstream, running_relay(tmp_path) as relay:
        await change(relay, **forwarding_to(upstream.port))
        in_force = relay.data_dir / "run" / "config.json"
        # The supervisor looks at the file for itself, within a second as the others do.
        await wait_until(
            lambda: f'"forwardPort":{upstream.port}' in in_force.read_text(), 10, "it is handed on"
        )
        relay.config_file.write_text("{")
        await wait_until(lambda: bool(relay.log_lines("config.refused")), 20, "it is told")
        await killed_and_started(relay, "sender")
        assert (await submit(relay, "a@example.com")).accepted
        await upstream.wait_received(1, 30)
        relay.config_file.write_text(json.dumps(relay.config))
