from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from mailrelay.config.token import Token
from mailrelay.queue.levels import Level
from mailrelay.queue.state import Condition, Kind
from mailrelay_monitor.access import Guests, Refusal, refusal
from mailrelay_monitor.backlog import Backlog
from mailrelay_monitor.exposition import wants_exposition
from mailrelay_monitor.health import Health, Status, judge
from mailrelay_monitor.index import RecipientRow, SubmissionRow
from mailrelay_monitor.page import render
from mailrelay_monitor.totals import Ledger, Totals

NOW = 1_800_000_000.0
GB = 1024**3
FINE = Backlog("", {}, disk_free_bytes=50 * GB, disk_total_bytes=100 * GB, at=NOW)


def judged(
    backlog: Backlog = FINE,
    *,
    ledger: Ledger | None = None,
    connected: bool = True,
    fault: str = "",
    conditions: tuple[Condition, ...] = (),
) -> Health:
    return judge(
        connected=connected,
        backlog=backlog,
        ledger=ledger or Ledger(),
        collector_fault=fault,
        conditions=conditions,
        now=NOW,
    )


def level(messages: int, limit: int, *, drops_oldest: bool = False) -> Level:
    return Level(messages, limit, 0, -1, drops_oldest)


def test_all_well_is_ok_without_reasons() -> None:
    assert judged() == Health(Status.OK, ())


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        (judged(connected=False), "queue unreachable: not connected"),
        (judged(replace(FINE, fault="no answer")), "queue unreachable: no answer"),
    ],
)
def test_queue_that_does_not_answer_is_unavailable(health: Health, reason: str) -> None:
    assert health == Health(Status.UNAVAILABLE, (reason,))


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        (
            judged(replace(FINE, levels={"in": level(901, 1000)})),
            "the queue (queueSize) is 90% full",
        ),
        (
            judged(replace(FINE, levels={"capture": level(100, 100)})),
            "capture is full (100 messages): delete or release some",
        ),
        (judged(replace(FINE, disk_free_bytes=4 * GB)), "disk low: 4096 MB of 102400 MB free"),
        (
            judged(replace(FINE, disk_free_bytes=GB // 4, disk_total_bytes=GB)),
            "disk low: 256 MB of 1024 MB free",
        ),
        (
            judged(ledger=Ledger(missed_events=7, missed_at=NOW - 60)),
            "event gap: 7 event records were gone before they were counted",
        ),
        (
            judged(ledger=Ledger(Totals(lost_emails=3), queue_losses=1, queue_lost_at=NOW - 60)),
            "the queue lost its data: 3 accepted emails have no known outcome",
        ),
        (judged(fault="disk full"), "totals stand still: disk full"),
        (
            judged(conditions=(Condition(Kind.UPSTREAM, "upstream down: no route", NOW),)),
            "upstream down: no route (since 2027-01-15T08:00:00Z)",
        ),
        (
            judged(conditions=(Condition(Kind.CONFIGURATION, "a comma", NOW),)),
            "the changed configuration is not in force: a comma (since 2027-01-15T08:00:00Z)",
        ),
    ],
)
def test_what_somebody_should_look_at_is_degraded(health: Health, reason: str) -> None:
    assert health == Health(Status.DEGRADED, (reason,))


@pytest.mark.parametrize(
    "health",
    [
        judged(replace(FINE, levels={"in": level(900, 1000)})),
        judged(replace(FINE, levels={"capture": level(100, 100, drops_oldest=True)})),
        judged(ledger=Ledger(missed_events=7, missed_at=NOW - 25 * 3600)),
    ],
)
def test_what_is_usual_or_long_past_is_ok(health: Health) -> None:
    assert health.status is Status.OK


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("*/*", False),
        ("", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/json, text/plain, */*", False),
        ("text/plain", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2", True),
    ],
)
def test_exposition_is_for_who_asks_as_prometheus_does(accept: str, *, wanted: bool) -> None:
    assert wants_exposition(accept) is wanted


TOKEN = "0123456789abcdef" * 2
GUESTS = Guests((ip_network("192.0.2.0/28"), ip_network("2001:db8::/32")), Token(TOKEN))


def refused(
    *,
    client: str = "127.0.0.1",
    host: str = "localhost:8025",
    origin: str = "",
    method: str = "GET",
    path: str = "/",
    authorization: tuple[str, ...] = (),
    guests: Guests = GUESTS,
) -> Refusal | None:
    headers = [(b"host", host.encode())]
    if origin:
        headers.append((b"origin", origin.encode()))
    headers.append((b"x-forwarded-for", b"127.0.0.1"))
    headers += [(b"authorization", each.encode()) for each in authorization]
    scope = {"type": "http", "client": (client, 5), "method": method, "path": path}
    return refusal(scope | {"headers": headers}, guests)


def asked(**request: str) -> str:
    found = refused(**request)  # type: ignore[arg-type]
    return found.reason if found else ""


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:8025", "127.0.0.2", "[::1]:8025", "[::1]"]
)
def test_this_machine_is_answered_under_its_own_names(client: str, host: str) -> None:
    assert asked(client=client, host=host) == ""


@pytest.mark.parametrize(
    "client", ["192.0.2.16", "::ffff:192.0.2.16", "2001:db9::1", "", "socket", "10.0.0.1"]
)
@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/admin/retry-failed"])
def test_others_are_refused_whatever_they_show_or_is_said_to_be_forwarded(
    client: str, path: str
) -> None:
    found = refused(client=client, path=path, authorization=(f"Bearer {TOKEN}",))
    assert found is not None
    assert found.status == 403
    assert found.reason.startswith("only this machine is answered")


@pytest.mark.parametrize("client", ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::1"])
def test_a_guest_looks_at_what_monitoring_asks_for_without_the_token(client: str) -> None:
    for path in ("/healthz", "/readyz", "/health", "/metrics"):
        assert refused(client=client, path=path, host="relay.example") is None
        posted = refused(client=client, path=path, method="POST")
        assert posted is not None
        assert posted.status == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/api/messages"), ("POST", "/admin/retry-failed"), ("GET", "/health/")],
)
def test_a_guest_does_everything_else_with_the_token_and_nothing_without(
    method: str, path: str
) -> None:
    def of(*authorization: str, guests: Guests = GUESTS) -> int:
        found = refused(
            client="192.0.2.7", method=method, path=path, host="relay.example",
            authorization=authorization, guests=guests,
        )  # fmt: skip
        return found.status if found else 200

    assert of(f"Bearer {TOKEN}") == of(f"bearer  {TOKEN}") == 200
    for wrong in (
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        "Bearer ",
        "",
        f"Basic {TOKEN}",
        TOKEN,
    ):
        assert of(wrong) == 401
    assert of() == 401
    assert of(f"Bearer {TOKEN}", f"Bearer {TOKEN}") == 401
    assert of(f"Bearer {TOKEN}", guests=Guests(GUESTS.networks, None)) == 403
    assert of(f"Bearer {TOKEN}", guests=Guests((), Token(TOKEN))) == 403


def test_loopback_is_an_address_as_any_other_where_it_is_not_trusted() -> None:
    def of(guests: Guests, path: str, *authorization: str) -> int:
        found = refused(path=path, authorization=authorization, guests=guests)
        return found.status if found else 200

    contained = Guests((ip_network("127.0.0.0/8"),), Token(TOKEN), trusts_loopback=False)
    assert of(contained, "/health") == 200
    assert of(contained, "/api/messages") == 401
    assert of(contained, "/api/messages", f"Bearer {TOKEN}") == 200
    assert of(Guests((), Token(TOKEN), trusts_loopback=False), "/health") == 403


def test_a_token_shows_nowhere() -> None:
    assert TOKEN not in repr(GUESTS)
    assert TOKEN not in str(vars(GUESTS.token))


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "localhost@evil.example", "evil.example:8025", "",
     "127.0.0.1:x", "[::1", "localhost/x", "127.0.0.1.", "0"],
)  # fmt: skip
def test_host_header_of_another_name_is_refused(host: str) -> None:
    assert asked(host=host).startswith("the Host header")


def test_page_of_another_site_cannot_post_here() -> None:
    for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
        assert asked(method="POST", origin=origin).startswith("requests from another site")
    assert asked(method="POST", origin="http://localhost:8025") == ""
    assert asked(method="POST") == ""


def test_page_escapes_what_strangers_wrote() -> None:
    recipient = RecipientRow(0, "<script>alert(1)</script>", "bounced", 1, "550 <b>&", "mx", 1.0)
    row = SubmissionRow("id", 1.0, '"><img src=x>', 1, 3, "failed", (recipient,))
    text = render(Totals(), Health(Status.DEGRADED, ("<i>",)), [row])
    assert "<script" not in text
    assert "<img" not in text
    assert "<i>" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text
    assert "and 2 more" in text
