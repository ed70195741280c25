"""One trace from the client's header to every delivery attempt, as a collector sees it."""

from __future__ import annotations

from pathlib import Path

from tests.support.otlp import collector, spans_by_name
from tests.support.relay import Relay, forwarding_to, relay_config
from tests.support.replies import Reply
from tests.support.scripting import Accept
from tests.support.scripts import per_recipient
from tests.support.smtp_client import SmtpDialogue
from tests.support.upstream import ScriptedUpstream

TRACE, SPAN = "ab" * 16, "cd" * 8


async def test_a_clients_trace_goes_on_to_each_attempt(tmp_path: Path) -> None:
    content = f"Subject: x\r\nTraceparent: 00-{TRACE}-{SPAN}-01\r\n\r\nhi\r\n".encode()
    script = per_recipient({"slow@example.com": [Reply(450, "4.2.0 later"), Accept()]})
    with collector() as (url, arrived, _):
        async with ScriptedUpstream(script) as upstream:
            relay = Relay(tmp_path, relay_config(**forwarding_to(upstream.port)))
            relay.environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
            await relay.start()
            async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as client:
                submitted = await client.submit("a@example.org", ["slow@example.com"], content)
            await upstream.wait_received(1, timeout=30)
            await relay.wait_health(queued_emails=0, total_emails_processed=1)
            assert await relay.stop() == 0  # which sends what was not sent yet
    spans = spans_by_name(arrived)
    (accept,) = spans["mailrelay accept"]
    attempts = sorted(spans["mailrelay attempt"], key=lambda span: span.start_time_unix_nano)
    assert accept.parent_span_id.hex() == SPAN
    assert [span.parent_span_id for span in attempts] == [accept.span_id] * 2
    assert {span.trace_id.hex() for span in (accept, *attempts)} == {TRACE}
    assert [span.status.message for span in attempts] == ["450 4.2.0 later", ""]
    ids = {
        attribute.value.string_value
        for span in (accept, *attempts)
        for attribute in span.attributes
        if attribute.key == "mailrelay.queue_id"
    }
    assert ids == {submitted.queue_id}
    (logged,) = relay.log_lines("mail.accepted")
    assert logged["trace"] == f"00-{TRACE}-{accept.span_id.hex()}-01"
