"""Every role against every subject and every call: what is allowed is heard, all else refused.

The table says by itself who may do what; it is not made from the code that grants it.
"""

from __future__ import annotations

import re

import pytest
from structlog.testing import LogCapture

from mailrelay.queue.lanes import LADDER
from mailrelay.queue.names import Names
from mailrelay.queue.rights import Role
from mailrelay.queue.streams import stream_configs
from mailrelay.runtime.logging import Logger
from tests.lib.jobs import queue_id
from tests.support.nats import LIMITS, NatsServer
from tests.support.wait import wait_until

ID = queue_id(1)
LETTER = {
    Role.INGRESS: "i",
    Role.SENDER: "s",
    Role.MONITOR: "m",
    Role.ADMIN: "a",
    Role.WATCH: "w",
}
STREAMS = (
    *("in-0", "lane", "failed", "capture", "body", "event", "checkpoint", "pace"),
    *("limit-hour", "limit-day"),
)
LANES = ("now", "5s", "30s", "2m", "10m", "1h", "4h")

# Subjects, and who may store under them or send to them.
SUBJECTS = {
    "in.0.-": "i",
    f"in.0.{ID}": "i",
    f"body.{ID}.0": "is",
    "lane.now.-": "sm",
    f"lane.now.{ID}": "sm",
    **{f"lane.{lane}.-": "s" for lane in LANES[1:]},
    f"failed.{ID}.0": "s",
    f"capture.{ID}.1-0": "s",
    f"pace.{ID}": "s",
    "event.ingress": "i",
    "event.sender": "s",
    "event.monitor": "m",
    "checkpoint": "m",
    "limit.hour.1.all": "i",
    "limit.day.1.all": "i",
    "recall": "i",
    "state.ingress": "i",
    "state.sender": "s",
    "state.monitor": "",
    "inbox.ingress.x": "",
    "inbox.sender.x": "",
    "inbox.monitor.x": "",
    "something.else": "",
}
# Calls on a stream and who may make them on which; `admin` may make all of them.
CALLS: dict[str, dict[str, str]] = {
    "STREAM.INFO.{s}": {"in-0": "sm", "lane": "sm", "body": "ism", "failed": "sm", "": "m"},
    "STREAM.MSG.GET.{s}": {
        **dict.fromkeys(("in-0", "lane", "body", "failed", "pace"), "sm"),
        "": "m",
    },
    "DIRECT.GET.{s}": {"": "m"},
    "DIRECT.GET.{s}.x": {"body": "sm", "limit-hour": "im", "limit-day": "im", "": "m"},
    "STREAM.PURGE.{s}": {"body": "m", "failed": "m", "capture": "m"},
    "STREAM.MSG.DELETE.{s}": {},
    "STREAM.UPDATE.{s}": {},
    "STREAM.DELETE.{s}": {},
    "STREAM.CREATE.{s}": {},
    "STREAM.SNAPSHOT.{s}": {},
    "CONSUMER.CREATE.{s}": {},
    "CONSUMER.LIST.{s}": {},
    "CONSUMER.NAMES.{s}": {},
}
CONSUMERS = (("in-0", "sender"), *(("lane", f"lane-{lane}") for lane in LANES))
# Calls on a consumer; of them the sender has what it claims and settles by.
CONSUMER_CALLS = {
    "$JS.API.CONSUMER.MSG.NEXT.{s}.{c}": "s",
    "$JS.API.CONSUMER.INFO.{s}.{c}": "s",
    "$JS.API.CONSUMER.DELETE.{s}.{c}": "",
    "$JS.API.CONSUMER.DURABLE.CREATE.{s}.{c}": "",
    "$JS.API.CONSUMER.PAUSE.{s}.{c}": "",
    "$JS.ACK.{s}.{c}.1.1.1.1.0": "s",
}
OTHERS = {
    "$JS.API.INFO": "",
    "$JS.API.STREAM.NAMES": "",
    "$JS.API.STREAM.LIST": "",
    "$JS.API.STREAM.CREATE.evil": "",
    "$SYS.REQ.SERVER.PING": None,  # not even the admin's
    "$SYS.REQ.SERVER.PING.HEALTHZ": "w",
    "$SYS.REQ.SERVER.PING.CONNZ": None,
    "$SYS.REQ.ACCOUNT.PING.CONNZ": None,
    "other.in.0.-": None,
    "_INBOX.x": None,
}


def every_pair() -> dict[str, str]:
    """Each subject with the letters of those who may publish to it."""
    pairs = {f"mailrelay.{subject}": who for subject, who in SUBJECTS.items()}
    for call, who in CALLS.items():
        for stream in STREAMS:
            subject = "$JS.API." + call.format(s=f"mailrelay-{stream}")
            pairs[subject] = who.get(stream, who.get("", "")) + "a"
    for call, letters in CONSUMER_CALLS.items():
        admin = "a" if call.startswith("$JS.API") else ""
        for stream, consumer in CONSUMERS:
            subject = call.format(s=f"mailrelay-{stream}", c=f"mailrelay-{consumer}")
            pairs[subject] = letters + admin
    for subject, others in OTHERS.items():
        pairs[subject] = others or ("" if others is None else "a")
    return pairs


@pytest.mark.timeout(120)
@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
async def test_a_role_may_do_what_it_needs_and_nothing_else(
    role: Role, server: NatsServer, log: Logger, lines: LogCapture
) -> None:
    pairs = every_pair()
    # The client tells the server's errors in lower case.
    forbidden = {subject.lower() for subject, who in pairs.items() if LETTER[role] not in who}
    async with server.connected(role, log) as connection:
        for subject in pairs:
            # What is allowed does nothing: no call takes this for a request.
            await connection.publish_nowait(subject, b"{no request", reply=connection.new_inbox())

        def refused() -> set[str]:
            said = " ".join(str(line.get("error", "")) for line in lines.entries)
            return set(re.findall(r'violation for publish to "([^"]+)"', said.lower()))

        await wait_until(lambda: len(refused()) >= len(forbidden), 20, "all are refused")
        await connection._client.flush()
        assert refused() == forbidden


def test_the_table_holds_every_stream_and_lane_of_the_code() -> None:
    assert tuple(lane.name for lane in LADDER) == LANES
    names = {config["name"] for config in stream_configs(Names("mailrelay"), LIMITS)}
    assert names == {f"mailrelay-{stream}" for stream in STREAMS}
