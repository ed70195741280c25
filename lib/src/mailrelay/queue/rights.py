"""What each role may do at NATS: least privilege, in one table.

Only `admin` makes and changes streams; nobody but ingress stores new mail; nobody but a sender
acks. Every role has an inbox prefix of its own, or it could read the others' replies.

`watch` is the one role outside the queue: it lives in the server's system account, reaches no
stream, and may ask the server how it is, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mailrelay.mail.limit import Window
from mailrelay.queue.names import Names


class Role(Enum):
    """Who connects."""

    ADMIN = "admin"
    INGRESS = "ingress"
    SENDER = "sender"
    MONITOR = "monitor"
    WATCH = "watch"

    @property
    def is_of_system_account(self) -> bool:
        """Whether the role asks the server itself and reaches no stream."""
        return self is Role.WATCH


SERVER_HEALTH = "$SYS.REQ.SERVER.PING.HEALTHZ"


@dataclass(frozen=True, slots=True)
class Rights:
    """Subjects that a role may publish to and subscribe to; all others are denied."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def rights_of(role: Role, names: Names) -> Rights:
    """Return the rights of a role."""
    publish = {
        Role.ADMIN: ("$JS.API.>",),
        Role.INGRESS: _ingress(names),
        Role.SENDER: _sender(names),
        Role.MONITOR: _monitor(names),
        Role.WATCH: (SERVER_HEALTH,),
    }[role]
    subscribe = [f"{names.inbox_prefix(role.value)}.>"]
    if role is Role.INGRESS:
        subscribe.append(names.recall_subject)
    if role is Role.MONITOR:
        subscribe.append(names.state_subject("*"))
    return Rights(publish, tuple(subscribe))


def _ingress(names: Names) -> tuple[str, ...]:
    prefix = names.prefix
    return (
        f"{prefix}.in.>",
        f"{prefix}.body.>",
        f"{prefix}.event.ingress",
        names.state_subject("ingress"),
        f"{prefix}.limit.>",
        names.recall_subject,
        *(f"$JS.API.DIRECT.GET.{names.limit_stream(window)}.>" for window in Window),
        f"$JS.API.STREAM.INFO.{names.body_stream}",  # whether it is the one that chunks went to
    )


def _sender(names: Names) -> tuple[str, ...]:
    prefix = names.prefix
    claims = [(names.in_stream(), names.in_consumer)]
    claims += [(names.lane_stream, consumer) for consumer in names.lane_consumers]
    return (
        *(f"{prefix}.{stem}.>" for stem in ("lane", "failed", "capture", "body")),
        f"{prefix}.pace.*",
        f"{prefix}.event.sender",
        names.state_subject("sender"),
        *(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}" for stream, consumer in claims),
        *(f"$JS.API.CONSUMER.INFO.{stream}.{consumer}" for stream, consumer in claims),
        *(f"$JS.ACK.{stream}.{consumer}.>" for stream, consumer in claims),
        *(
            f"$JS.API.STREAM.INFO.{stream}"
            for stream in (
                names.in_stream(),
                names.lane_stream,
                names.body_stream,
                names.failed_stream,  # whether who says that a record is not there is its leader
            )
        ),
        f"$JS.API.DIRECT.GET.{names.body_stream}.>",
        f"$JS.API.STREAM.MSG.GET.{names.body_stream}",
        f"$JS.API.STREAM.MSG.GET.{names.failed_stream}",
        f"$JS.API.STREAM.MSG.GET.{names.pace_stream}",
        # Which job of a submission is the first that still waits: it may claim all of them anyway.
        f"$JS.API.STREAM.MSG.GET.{names.in_stream()}",
        f"$JS.API.STREAM.MSG.GET.{names.lane_stream}",  # whether another resend is alive
    )


def _monitor(names: Names) -> tuple[str, ...]:
    prefix = names.prefix
    streams = (
        names.in_stream(),
        names.lane_stream,
        names.failed_stream,
        names.capture_stream,
        names.body_stream,
        names.event_stream,
        names.checkpoint_stream,
        *(names.limit_stream(window) for window in Window),
        names.pace_stream,
    )
    return (
        f"{prefix}.lane.now.>",
        f"{prefix}.event.monitor",
        names.checkpoint_subject,
        *(f"$JS.API.STREAM.INFO.{stream}" for stream in streams),
        *(f"$JS.API.STREAM.MSG.GET.{stream}" for stream in streams),
        *(f"$JS.API.DIRECT.GET.{stream}" for stream in streams),
        *(f"$JS.API.DIRECT.GET.{stream}.>" for stream in streams),
        *(
            f"$JS.API.STREAM.PURGE.{stream}"
            for stream in (names.body_stream, names.failed_stream, names.capture_stream)
        ),
    )
