"""Streams as they should be, and each role with its rights and no more, on a real server."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import LogCapture

from mailrelay.queue import streams
from mailrelay.queue.connection import ConnectionSettings, QueueConnection, open_connection
from mailrelay.queue.errors import (
    QueueError,
    QueueRefusedError,
    QueueUnavailableError,
    StreamMismatchError,
)
from mailrelay.queue.names import Names
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.streams import consumer_configs, ensure, stream_configs
from mailrelay.runtime.logging import Logger
from tests.lib.jobs import queue_id
from tests.support.nats import LIMITS, NatsServer
from tests.support.wait import wait_until

DENIED_SECONDS = 0.3


async def test_ensuring_again_changes_nothing(admin: QueueConnection) -> None:
    assert await ensure(admin, LIMITS) == []
    for stream in await stream_names(admin):
        await admin.api(f"STREAM.DELETE.{stream}")
    changes = await ensure(admin, LIMITS)
    assert len([change for change in changes if change.startswith("stream")]) == 10
    assert len([change for change in changes if change.startswith("consumer")]) == 8
    assert await ensure(admin, LIMITS) == []


async def stream_names(admin: QueueConnection) -> list[str]:
    return list((await admin.api("STREAM.NAMES"))["streams"])


async def test_a_changed_queue_size_is_applied_and_the_records_stay(
    admin: QueueConnection, ingress: QueueConnection
) -> None:
    await Publisher(ingress).store(Record(ingress.names.in_subject(None), b"x", ""))
    assert await ensure(admin, replace(LIMITS, queue_size=77)) == [
        "stream mailrelay-in-0 changed: max_msgs"
    ]
    info = await admin.api("STREAM.INFO.mailrelay-in-0")
    assert info["config"]["max_msgs"] == 77
    assert info["state"]["messages"] == 1


async def test_a_changed_ack_wait_is_applied_to_every_consumer(admin: QueueConnection) -> None:
    changes = await ensure(admin, replace(LIMITS, ack_wait_seconds=12))
    assert len(changes) == 8
    assert all(change.endswith("changed: ack_wait") for change in changes)


async def test_a_changed_ack_wait_is_applied_right_after_the_server_was_killed(
    server: NatsServer, log: Logger
) -> None:
    server.kill()
    server.start()
    async with server.connected(Role.ADMIN, log) as admin:
        made_anew, *changed = await ensure(admin, replace(LIMITS, ack_wait_seconds=7))
        assert made_anew == "stream mailrelay-pace created"  # it is in memory
        assert len(changed) == 8
        assert await ensure(admin, replace(LIMITS, ack_wait_seconds=7)) == []


async def test_a_stream_that_the_server_makes_otherwise_is_refused(
    admin: QueueConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_unknown_field(*arguments: object) -> list[dict[str, object]]:
        made = stream_configs(*arguments)  # type: ignore[arg-type]
        return [{**made[0], "description_of_tomorrow": 1}, *made[1:]]

    monkeypatch.setattr(streams, "stream_configs", with_unknown_field)
    with pytest.raises((StreamMismatchError, QueueError), match=r"description_of_tomorrow|unknown"):
        await ensure(admin, LIMITS)


async def test_the_streams_leave_room_in_the_store() -> None:
    configs = stream_configs(Names("x"), LIMITS)
    on_disk = [config["max_bytes"] for config in configs if config["storage"] == "file"]
    assert len(on_disk) == len(configs) - 1
    assert sum(on_disk) < LIMITS.store_bytes


@pytest.mark.parametrize(
    ("queue_size", "most"), [(1, 4096), (1000, 4096), (9000, 9000), (10**6, 20_000)]
)
async def test_all_jobs_of_a_queue_may_wait_for_their_turn_up_to_a_limit(
    queue_size: int, most: int
) -> None:
    (_, new_mail), *lanes = consumer_configs(Names("x"), replace(LIMITS, queue_size=queue_size))
    assert new_mail["max_ack_pending"] == most
    assert {config["max_ack_pending"] for _, config in lanes} == {500}


async def test_a_seed_that_cannot_be_read_is_said(server: NatsServer, log: Logger) -> None:
    settings = replace(
        server.connection_settings(Role.SENDER), seed_file=server.seed_file(Role.SENDER) / "no"
    )
    with pytest.raises(QueueError, match="cannot read the queue credential"):
        await open_connection(settings, log)


@pytest.mark.parametrize("prefix", ["", "A", "a.b", "a b", "a" * 41, "-a", "a*", "a>"])
def test_a_prefix_that_is_no_plain_token_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="queue prefix"):
        QueueConnection(None, ConnectionSettings("", "admin", None, prefix), None)  # type: ignore[arg-type]


# --- Rights -------------------------------------------------------------------------------------

ID = queue_id(1)
FORBIDDEN = [
    *[
        (role, f"mailrelay.in.0.{body}")
        for role in (Role.SENDER, Role.MONITOR, Role.ADMIN)
        for body in ("-", ID)
    ],
    (Role.INGRESS, "mailrelay.lane.now.-"),
    (Role.INGRESS, f"mailrelay.failed.{ID}.0"),
    (Role.INGRESS, f"mailrelay.capture.{ID}.1"),
    (Role.INGRESS, "mailrelay.checkpoint"),
    (Role.INGRESS, "mailrelay.event.sender"),
    (Role.SENDER, "mailrelay.event.ingress"),
    (Role.SENDER, "mailrelay.event.monitor"),
    (Role.SENDER, "mailrelay.checkpoint"),
    (Role.INGRESS, "mailrelay.state.sender"),
    (Role.SENDER, "mailrelay.state.ingress"),
    (Role.MONITOR, "mailrelay.state.sender"),
    (Role.ADMIN, "mailrelay.state.sender"),
    (Role.MONITOR, "mailrelay.lane.5s.-"),
    (Role.MONITOR, f"mailrelay.failed.{ID}.0"),
    (Role.MONITOR, "mailrelay.event.sender"),
    (Role.MONITOR, f"mailrelay.body.{ID}.0"),
    *[
        (role, f"$JS.API.{verb}")
        for role in (Role.INGRESS, Role.SENDER, Role.MONITOR)
        for verb in (
            "STREAM.CREATE.evil",
            "STREAM.DELETE.mailrelay-in-0",
            "STREAM.UPDATE.mailrelay-in-0",
            "STREAM.PURGE.mailrelay-in-0",
            "STREAM.MSG.DELETE.mailrelay-in-0",
            "CONSUMER.DELETE.mailrelay-in-0.mailrelay-sender",
            "CONSUMER.DURABLE.CREATE.mailrelay-in-0.evil",
            "CONSUMER.CREATE.mailrelay-in-0",
        )
    ],
    (Role.INGRESS, "$JS.API.CONSUMER.MSG.NEXT.mailrelay-in-0.mailrelay-sender"),
    (Role.MONITOR, "$JS.API.CONSUMER.MSG.NEXT.mailrelay-in-0.mailrelay-sender"),
    (Role.INGRESS, "$JS.ACK.mailrelay-in-0.mailrelay-sender.1.1.1.1.0"),
    (Role.MONITOR, "$JS.ACK.mailrelay-in-0.mailrelay-sender.1.1.1.1.0"),
    (Role.MONITOR, "$JS.ACK.mailrelay-lane.mailrelay-lane-now.1.1.1.1.0"),
    (Role.INGRESS, "$JS.API.STREAM.MSG.GET.mailrelay-in-0"),
    (Role.SENDER, "$JS.API.DIRECT.GET.mailrelay-in-0.mailrelay.in.0.-"),
    (Role.SENDER, "$JS.API.STREAM.PURGE.mailrelay-pace"),
    (Role.INGRESS, f"mailrelay.pace.{ID}"),
    (Role.MONITOR, f"mailrelay.pace.{ID}"),
    (Role.INGRESS, "$JS.API.STREAM.MSG.GET.mailrelay-pace"),
    (Role.SENDER, "$JS.API.STREAM.PURGE.mailrelay-body"),
    (Role.INGRESS, "$JS.API.STREAM.PURGE.mailrelay-body"),
    *[
        (role, f"$JS.API.{verb}.mailrelay-{stream}")
        for role in (Role.INGRESS, Role.SENDER)
        for verb in ("STREAM.PURGE", "STREAM.MSG.DELETE")
        for stream in ("failed", "capture")
    ],
    *[
        (Role.MONITOR, f"$JS.API.STREAM.MSG.DELETE.mailrelay-{stream}")
        for stream in ("lane", "body", "event", "checkpoint", "failed", "capture")
    ],
    (Role.MONITOR, "$JS.API.STREAM.PURGE.mailrelay-lane"),
    (Role.MONITOR, "$JS.API.STREAM.PURGE.mailrelay-event"),
    (Role.MONITOR, f"mailrelay.capture.{ID}.1"),
    (Role.SENDER, "$JS.API.STREAM.MSG.GET.mailrelay-capture"),
    (Role.INGRESS, "$JS.API.STREAM.MSG.GET.mailrelay-failed"),
    (Role.INGRESS, "$JS.API.STREAM.MSG.GET.mailrelay-lane"),
    (Role.INGRESS, "other.in.0.-"),
    (Role.SENDER, "mailrelay.inbox.ingress.x"),
    (Role.MONITOR, "mailrelay.inbox.sender.x"),
    *[
        (role, subject)
        for role in (Role.SENDER, Role.MONITOR, Role.ADMIN)
        for subject in ("mailrelay.limit.hour.1.all", "mailrelay.limit.day.1.all")
    ],
    *[(role, "mailrelay.recall") for role in (Role.SENDER, Role.MONITOR, Role.ADMIN)],
    (Role.SENDER, "$JS.API.DIRECT.GET.mailrelay-limit-hour.mailrelay.limit.hour.1.all"),
    (Role.INGRESS, "$JS.API.DIRECT.GET.mailrelay-limit-hour"),
    (Role.INGRESS, "$JS.API.STREAM.MSG.GET.mailrelay-limit-hour"),
    (Role.INGRESS, "$JS.API.STREAM.PURGE.mailrelay-limit-hour"),
    (Role.MONITOR, "$JS.API.STREAM.PURGE.mailrelay-limit-day"),
    *[
        (role, subject)
        for role in (Role.INGRESS, Role.SENDER, Role.MONITOR, Role.ADMIN)
        for subject in ("$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.HEALTHZ")
    ],
    *[
        (Role.WATCH, subject)
        for subject in (
            "$SYS.REQ.SERVER.PING.CONNZ",
            "$SYS.REQ.SERVER.X.SHUTDOWN",
            "$SYS.REQ.ACCOUNT.PING.CONNZ",
            "$JS.API.INFO",
            "mailrelay.in.0.-",
        )
    ],
]


@pytest.mark.parametrize(("role", "subject"), FORBIDDEN, ids=str)
async def test_what_is_not_a_roles_is_refused(
    role: Role, subject: str, server: NatsServer, log: Logger, lines: LogCapture
) -> None:
    async with server.connected(role, log) as connection:
        await connection.publish_nowait(subject, b"{}", reply=connection.new_inbox())

        def is_refused() -> bool:
            return any(
                "permissions violation for publish" in str(entry.get("error", "")).lower()
                for entry in lines.entries
            )

        await wait_until(is_refused, 3, f"{role.value} is told that it may not {subject}")


@pytest.mark.parametrize("role", list(Role))
async def test_nobody_hears_anothers_replies_or_the_streams_subjects(
    role: Role, server: NatsServer, log: Logger, lines: LogCapture
) -> None:
    others = [f"mailrelay.inbox.{other.value}.>" for other in Role if other is not role]

    async def hear(_: object) -> None:
        """Nothing comes."""

    async with server.connected(role, log) as connection:
        subjects = [*others, "mailrelay.in.>", "mailrelay.>", ">", "_INBOX.>", "mailrelay.limit.>"]
        if role is not Role.INGRESS:
            subjects.append("mailrelay.recall")
        if role is not Role.MONITOR:
            subjects.append("mailrelay.state.*")
        for subject in subjects:
            await connection.subscribe(subject, hear)

        def all_refused() -> bool:
            said = [str(e.get("error", "")) for e in lines.entries]
            return sum("ubscription" in each for each in said) == len(subjects)

        await wait_until(all_refused, 3, "every subscription is refused")


async def test_a_denied_request_ends_as_unavailable_and_is_logged(
    sender: QueueConnection, lines: LogCapture
) -> None:
    with pytest.raises(QueueUnavailableError):
        await sender.request("mailrelay.in.0.-", b"x", timeout_seconds=DENIED_SECONDS)
    assert any(
        entry["event"] == "queue.error" and "mailrelay.in.0.-" in entry["error"]
        for entry in lines.entries
    )


@pytest.mark.parametrize(
    ("role", "subject"),
    [
        (Role.INGRESS, "mailrelay.in.0.-"),
        (Role.INGRESS, f"mailrelay.body.{ID}.0"),
        (Role.INGRESS, "mailrelay.event.ingress"),
        (Role.SENDER, "mailrelay.lane.4h.-"),
        (Role.SENDER, f"mailrelay.failed.{ID}.0"),
        (Role.SENDER, f"mailrelay.capture.{ID}.1"),
        (Role.SENDER, f"mailrelay.body.{ID}.0"),
        (Role.SENDER, "mailrelay.event.sender"),
        (Role.SENDER, f"mailrelay.pace.{ID}"),
        (Role.MONITOR, "mailrelay.lane.now.-"),
        (Role.MONITOR, "mailrelay.event.monitor"),
        (Role.MONITOR, "mailrelay.checkpoint"),
    ],
    ids=str,
)
async def test_a_role_can_store_what_is_its_own(
    role: Role, subject: str, server: NatsServer, log: Logger
) -> None:
    async with server.connected(role, log) as connection:
        stored = await Publisher(connection).store(Record(subject, b"x", ""))
        assert stored.sequence > 0
        assert not stored.duplicate


@pytest.mark.parametrize("stream", ["in-0", "failed", "body", "pace"])
async def test_a_sender_can_ask_what_a_stream_holds(stream: str, sender: QueueConnection) -> None:
    with pytest.raises(QueueRefusedError, match="no message found"):
        await sender.api(f"STREAM.MSG.GET.mailrelay-{stream}", {"seq": 1, "next_by_subj": ">"})


async def test_the_monitor_can_look_at_every_stream(
    admin: QueueConnection, monitor: QueueConnection
) -> None:
    for stream in await stream_names(admin):
        assert (await monitor.api(f"STREAM.INFO.{stream}"))["config"]["name"] == stream


@pytest.mark.parametrize("stream", ["failed", "capture"])
async def test_the_monitor_can_remove_what_is_in_the_failed_store_and_captured(
    stream: str, sender: QueueConnection, monitor: QueueConnection
) -> None:
    subjects = [f"mailrelay.{stream}.{ID}.{number}" for number in range(3)]
    stored = [await Publisher(sender).store(Record(subject, b"x", "")) for subject in subjects]
    name = f"mailrelay-{stream}"
    below = {"filter": subjects[0], "seq": stored[0].sequence + 1}
    await monitor.api(f"STREAM.PURGE.{name}", below)
    await monitor.api(f"STREAM.PURGE.{name}", {"filter": subjects[1]})
    state = (await monitor.api(f"STREAM.INFO.{name}"))["state"]
    assert (state["messages"], state["first_seq"]) == (1, stored[2].sequence)


@pytest.mark.parametrize("stream", ["body", "failed", "lane"])
async def test_a_sender_can_look_at_what_it_settles(stream: str, sender: QueueConnection) -> None:
    subject = {"lane": "mailrelay.lane.now.-"}.get(stream, f"mailrelay.{stream}.{ID}.0")
    stored = await Publisher(sender).store(Record(subject, b"x", ""))
    found = await sender.api(f"STREAM.MSG.GET.mailrelay-{stream}", {"seq": stored.sequence})
    assert found["message"]["subject"] == subject
