"""docs/reference/queue.md: streams, consumers, lanes and rights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from mailrelay.config.model import RelayConfig
from mailrelay.queue.lanes import LADDER
from mailrelay.queue.names import Names
from mailrelay.queue.rights import Role, rights_of
from mailrelay.queue.streams import QueueLimits, consumer_configs, stream_configs
from mailrelay.queue.wire import FORMAT_VERSION
from tools.reference.markdown import code, table

# Sizes that no constant has by chance, so that a setting shows which of them it is.
_STORE_BYTES: Final = 1_000_000_000_000
_QUEUE_SIZE: Final = 7_654_321
_CAPTURE: Final = 5_432_111
_ACK_WAIT: Final = 543.0
_NANOSECONDS: Final = 1_000_000_000
_WORDS = {_QUEUE_SIZE: "`queueSize`", _CAPTURE: "`capture.maxMessages`"}
_INTRODUCTION = """\
# Queue: streams, consumers, rights

What docs/queue.md tells in words. All names begin with `queue.prefix` (here the default,
`mailrelay`). Every stream but the one of turns (`…-pace`, in memory) is a file store; all have
`num_replicas` 1 on one machine, a duplicate window of 120 s and direct gets allowed; nats-server
syncs each write to a file before it acks (`sync_interval: always`). Records are format version
{version}.

## Streams

"Share" is the part of the store (`queue.storeBytes`) that the stream may fill.
"""
_CONSUMERS = """\
## Consumers

Pull, explicit acks, delivered as often as it takes; a claim lasts `queue.ackWaitSeconds` unless it
is held.
"""
_RIGHTS = """\
## Rights

What is not listed is denied. Each role hears replies only under an inbox prefix of its own.
"""


def queue_page() -> str:
    """Return the page."""
    names = Names(str(RelayConfig.model_fields["queue"].default.prefix))
    limits = QueueLimits(
        store_bytes=_STORE_BYTES,
        queue_size=_QUEUE_SIZE,
        capture_max_messages=_CAPTURE,
        capture_drops_oldest=False,
        ack_wait_seconds=_ACK_WAIT,
    )
    streams = stream_configs(names, limits)
    _check_common(streams)
    parts = [
        _INTRODUCTION.format(version=FORMAT_VERSION),
        table(
            ("Stream", "Subjects", "Retention", "When full", "Share", "Other limits"),
            (_stream_row(config) for config in streams),
        ),
        "`mailrelay-capture` drops its oldest instead when `capture.whenFull` is `dropOldest`.\n",
        _CONSUMERS,
        table(
            ("Stream", "Consumer", "Filter", "Claimed at once, at most"),
            _consumer_rows(names, limits),
        ),
        "## Lanes\n",
        table(("Lane", "Delay"), ((code(n.name), f"{n.delay_seconds:g} s") for n in LADDER)),
        _RIGHTS,
    ]
    parts += [_rights(role, names) for role in Role]
    return "\n".join(parts)


def _consumer_rows(names: Names, limits: QueueLimits) -> Iterator[tuple[str, ...]]:
    small = consumer_configs(names, replace(limits, queue_size=1))
    for (stream, config), (_, least) in zip(consumer_configs(names, limits), small, strict=True):
        most = f"{config['max_ack_pending']}"
        if config != least:
            most = f"`queueSize`, but at least {least['max_ack_pending']} and at most {most}"
        yield code(stream), code(config["durable_name"]), code(config["filter_subject"]), most


def _check_common(streams: list[dict[str, Any]]) -> None:
    """The introduction says it of all of them."""
    for config in streams:
        in_memory = config["name"].endswith("-pace")
        common = {"storage": "memory" if in_memory else "file", "num_replicas": 1}
        common |= {"allow_direct": True, "duplicate_window": 120 * _NANOSECONDS}
        differing = {key for key, value in common.items() if config.get(key) != value}
        if differing:
            raise AssertionError(f"{config['name']}: {differing} differ, say so in the page")


def _per_subject(most: int) -> str:
    return "1 record" if most == 1 else f"{most} records"


def _stream_row(config: Mapping[str, Any]) -> tuple[str, ...]:
    size = config["max_bytes"]
    share = f"{size * 100 / _STORE_BYTES:g} %" if size > _STORE_BYTES // 1000 else f"{size} octets"
    other = []
    if "max_msgs" in config:
        other.append(f"{_WORDS[config['max_msgs']]} records")
    if "max_msgs_per_subject" in config:
        other.append(f"{_per_subject(config['max_msgs_per_subject'])} a subject, the last")
    if "max_age" in config:
        days = config["max_age"] // (86400 * _NANOSECONDS)
        other.append(f"{days} day{'s' if days > 1 else ''}")
    allowed = ("allow_atomic", "allow_msg_ttl", "allow_rollup_hdrs")
    other += [code(key) for key in allowed if config.get(key)]
    return (
        code(config["name"]),
        ", ".join(map(code, config["subjects"])),
        {"workqueue": "until acked", "limits": "until a limit"}[config["retention"]],
        {"new": "refuses", "old": "drops its oldest"}[config["discard"]],
        share,
        ", ".join(other),
    )


def _rights(role: Role, names: Names) -> str:
    rights = rights_of(role, names)
    lists = [
        f"May {verb}:\n\n" + "".join(f"- {code(subject)}\n" for subject in subjects)
        for verb, subjects in (("publish", rights.publish), ("subscribe", rights.subscribe))
    ]
    return f"### {role.value}\n\n" + "\n".join(lists)
