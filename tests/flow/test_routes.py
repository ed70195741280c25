"""A whole relay with several routes: who goes where, and what becomes of one that is down."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.extensions import Extensions
from tests.support.relay import Relay, forwarding_to, running_relay
from tests.support.replies import Reply
from tests.support.scripting import Stage
from tests.support.scripts import fail_at
from tests.support.smtp_client import SmtpDialogue
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(300)
HELLO = b"Subject: hello\r\n\r\nhi\r\n"
LIMIT = 60.0


def route(name: str, domain: str | None, *ports: int) -> dict[str, Any]:
    hosts = [{"host": "127.0.0.1", "port": port, "tls": "opportunistic"} for port in ports]
    found: dict[str, Any] = {"name": name, "smartHosts": hosts}
    return found if domain is None else found | {"recipientDomains": [domain]}


async def submit(relay: Relay, *recipients: str, content: bytes = HELLO) -> str:
    async with SmtpDialogue.connect("127.0.0.1", relay.smtp_port, limit_seconds=30) as client:
        await client.expect(220)
        await client.ehlo()
        submitted = await client.submit("from@example.org", list(recipients), content)
        assert submitted.accepted, submitted.final
        return str(submitted.queue_id)


async def logged(
    relay: Relay,
    event: str,
    count: int = 1,
    **fields: object,
) -> list[dict[str, Any]]:
    """Wait for so many log lines of one event with these fields, and return all of them."""

    def found() -> list[dict[str, Any]]:
        return [line for line in relay.log_lines(event) if fields.items() <= line.items()]

    await wait_until(lambda: len(found()) >= count, LIMIT, f"{count} of {event}", interval=0.1)
    return found()


async def upstreams_up(relay: Relay) -> dict[tuple[str, str], float]:
    """By route and next hop: what the sender's metric says."""
    url = f"http://{relay.run_file().probes['sender']}/metrics"
    async with httpx.AsyncClient(timeout=10) as client:
        text = (await client.get(url)).text
    pattern = r'^mailrelay_upstream_up\{next_hop="(.*)",route="(.*)"\} (\S+)$'
    return {
        (name, hop): float(value) for hop, name, value in re.findall(pattern, text, re.MULTILINE)
    }


async def test_each_recipient_of_a_message_goes_its_way_and_none_waits_for_one_that_is_down(
    tmp_path: Path,
) -> None:
    async with ScriptedUpstream() as first, ScriptedUpstream() as down, ScriptedUpstream() as rest:
        await down.stop()
        routes = [route("first", "first.test", first.port), route("down", ".test", down.port)]
        options = forwarding_to(rest.port) | {"routes": routes}
        async with running_relay(tmp_path, **options) as relay:
            everybody = ("a@first.test", "b@down.test", "c@rest.example", "d@FIRST.test")
            large = HELLO + b"x" * 70 + b"\r\n" * 50_000  # stored once, not for each route
            for content in (HELLO, large):
                await submit(relay, *everybody, content=content)
            await first.wait_received(2, LIMIT)
            await rest.wait_received(2, LIMIT)
            assert {each.rcpt_tos for each in first.received} == {("a@first.test", "d@FIRST.test")}
            assert {each.rcpt_tos for each in rest.received} == {("c@rest.example",)}
            deferred = await logged(relay, "mail.deferred", recipient="b@down.test")
            assert deferred[0]["next_hop"] == f"127.0.0.1:{down.port}"
            [divided, _] = await logged(relay, "mail.divided", 2)
            assert divided["recipients"] == {"first": 2, "down": 1, "smarthost": 1}
            await down.start()
            await down.wait_received(2, LIMIT)
            assert {each.rcpt_tos for each in down.received} == {("b@down.test",)}
            assert sorted(len(each.content) for each in down.received) == [
                min(len(each.content) for each in rest.received),
                max(len(each.content) for each in rest.received),
            ]
            assert first.attempts == {"a@first.test": 2, "d@FIRST.test": 2}
            assert rest.attempts == {"c@rest.example": 2}


@pytest.mark.parametrize("trouble", ["closed port", "turned away"])
async def test_the_next_smart_host_delivers_in_the_same_attempt_and_the_first_comes_back(
    trouble: str, tmp_path: Path
) -> None:
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        if trouble == "closed port":
            await first.stop()
        else:
            first.script = fail_at(Stage.CONNECT, Reply(554, "5.7.1 not now"))
        options = {"routes": [route("out", None, first.port, second.port)]}
        async with running_relay(tmp_path, **options) as relay:
            for number in range(3):
                await submit(relay, f"r{number}@example.com")
            await second.wait_received(3, LIMIT)
            sent = await logged(relay, "mail.sent", 3, next_hop=f"127.0.0.1:{second.port}")
            assert {line["attempt"] for line in sent} == {1}
            assert len(await logged(relay, "mail.batch", 3, attempt=1, sent=1)) == 3
            [told] = await logged(relay, "upstream.down")
            assert (told["route"], told["next_hop"]) == ("out", f"127.0.0.1:{first.port}")
            assert await upstreams_up(relay) == {
                ("out", f"127.0.0.1:{first.port}"): 0,
                ("out", f"127.0.0.1:{second.port}"): 1,
            }

            async def reasons() -> list[str]:
                found: list[str] = (await relay.get("/health")).json().get("reasons", [])
                return found

            async def is_told() -> bool:
                return any(f"127.0.0.1:{first.port}" in reason for reason in await reasons())

            await wait_until(is_told, LIMIT, "health names the one that is down", interval=0.2)
            assert (await relay.get("/readyz")).status_code == httpx.codes.OK
            first.script = fail_at(Stage.CONNECT, Reply(554, "5.7.1 not now"), times=0)
            await first.start()
            await logged(relay, "upstream.up", next_hop=f"127.0.0.1:{first.port}")
            await submit(relay, "back@example.com")
            await first.wait_received(1, LIMIT)
            assert second.received_count == 3

            async def is_well() -> bool:
                return not await reasons()

            await wait_until(is_well, LIMIT, "health is well again", interval=0.2)


async def test_with_all_smart_hosts_down_mail_waits_with_all_their_reasons(tmp_path: Path) -> None:
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        await first.stop()
        await second.stop()
        options = {"routes": [route("out", None, first.port, second.port)]}
        async with running_relay(tmp_path, **options) as relay:
            queue_id = await submit(relay, "a@example.com")
            [line, *_] = await logged(relay, "mail.deferred", id=queue_id, attempt=1)
            for each in (first, second):
                assert f"cannot reach 127.0.0.1:{each.port}: " in line["reply"]
            await second.start()
            await second.wait_received(1, LIMIT)
            assert second.attempts == {"a@example.com": 1}


async def test_what_no_route_takes_is_captured_and_is_released_by_a_route_that_came_later(
    tmp_path: Path,
) -> None:
    async with ScriptedUpstream() as first, ScriptedUpstream() as later:
        options: dict[str, Any] = {"routes": [route("first", "first.test", first.port)]}
        async with running_relay(tmp_path, **options) as relay:
            pids = dict(relay.run_file().pids)
            queue_id = await submit(relay, "a@first.test", "b@other.test", "c@other.test")
            await first.wait_received(1, LIMIT)
            await logged(relay, "mail.captured", 2, id=queue_id)

            async def captured() -> list[list[str]]:
                found = (await relay.get("/api/captured")).json()["captured"]
                return [each["recipients"] for each in found]

            async def is_captured() -> bool:
                return await captured() == [["b@other.test", "c@other.test"]]

            await wait_until(is_captured, LIMIT, "it is captured", interval=0.1)
            relay.config["routes"] = [*options["routes"], route("later", None, later.port)]
            relay.config_file.write_text(json.dumps(relay.config))
            await logged(relay, "config.changed", key="routes")

            async def is_released() -> bool:
                answer = await relay.post("/admin/release", json={"ids": [queue_id]})
                return answer.status_code == httpx.codes.OK

            assert await is_released()
            await later.wait_received(1, LIMIT)
            assert later.received[0].rcpt_tos == ("b@other.test", "c@other.test")
            assert first.attempts == {"a@first.test": 1}
            await submit(relay, "d@other.test")
            await later.wait_received(2, LIMIT)
            assert relay.run_file().pids == pids

            def is_told() -> bool:  # the supervisor takes the change over for itself
                return "later (127.0.0.1" in (relay.run_file().upstream or "")

            await wait_until(is_told, LIMIT, "the run file names the route", interval=0.1)


async def test_deferred_mail_is_divided_anew_by_routes_that_came_meanwhile(tmp_path: Path) -> None:
    async with ScriptedUpstream() as old, ScriptedUpstream() as new:
        await old.stop()
        async with running_relay(tmp_path, **forwarding_to(old.port)) as relay:
            await submit(relay, "a@new.test", "b@old.test")
            await logged(relay, "mail.deferred", 2)
            relay.config["routes"] = [route("new", "new.test", new.port)]
            relay.config_file.write_text(json.dumps(relay.config))
            await new.wait_received(1, LIMIT)
            await old.start()
            await old.wait_received(1, LIMIT)
            assert new.attempts == {"a@new.test": 1}
            assert old.attempts == {"b@old.test": 1}


async def test_a_failed_recipient_is_resent_by_its_own_route(tmp_path: Path) -> None:
    async with ScriptedUpstream() as one, ScriptedUpstream() as two:
        two.script = fail_at(Stage.RCPT, Reply(550, "5.1.1 who"), times=1)
        routes = [route("one", "one.test", one.port), route("two", "two.test", two.port)]
        async with running_relay(tmp_path, routes=routes) as relay:
            await submit(relay, "a@one.test", "b@two.test")
            await logged(relay, "mail.bounced", recipient="b@two.test")
            await one.wait_received(1, LIMIT)

            async def is_listed() -> bool:
                return bool((await relay.get("/api/failed")).json()["failed"])

            await wait_until(is_listed, LIMIT, "it is in the failed store", interval=0.1)
            answer = await relay.post("/admin/retry-failed")
            assert answer.status_code == httpx.codes.OK
            await two.wait_received(1, LIMIT)
            assert one.attempts == {"a@one.test": 1}
            await asyncio.gather(*(each.stop(5.0) for each in (one, two)))


async def test_a_password_that_is_replaced_in_its_file_is_used_without_a_restart(
    tmp_path: Path,
) -> None:
    password = tmp_path / "password"
    password.write_text("old sesame-4711\n")
    password.chmod(0o600)
    offers = Extensions(auth=("PLAIN",), credentials={"ada": "new sesame-4711"})
    async with ScriptedUpstream(extensions=offers) as upstream:
        out = route("out", None, upstream.port)
        out["smartHosts"][0] |= {"username": "ada", "passwordFile": str(password)}
        async with running_relay(tmp_path, routes=[out]) as relay:
            await submit(relay, "a@example.com")
            [line, *_] = await logged(relay, "mail.deferred")
            refused = f"451 4.7.8 127.0.0.1:{upstream.port} refused our credentials: 535"
            assert line["reply"].startswith(refused)
            password.write_text("new sesame-4711\n")
            await upstream.wait_received(1, LIMIT)
            assert upstream.received[0].auth == "ada"
            assert "sesame" not in relay.log_text
