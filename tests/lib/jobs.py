"""Jobs as the tests need them, by the fields that matter, and as hypothesis makes them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from mailrelay.mail.disposition import Disposition, Outcome
from mailrelay.mail.ids import QueueId, new_queue_id
from mailrelay.mail.job import Body, Job, Recipient, Release, Try
from mailrelay.mail.reply import Reply

ACCEPTED_AT = 1_700_000_000.0


def queue_id(number: int = 0) -> QueueId:
    return new_queue_id(ACCEPTED_AT, number)


def make_job(recipients: int = 1, **changes: Any) -> Job:  # noqa: ANN401 — the fields' types differ
    content = changes.pop("content", b"Subject: x\r\n\r\ntext\r\n")
    body = changes.get("body")
    fields: dict[str, Any] = {
        "submission": queue_id(),
        "batch": 1,
        "batches": 1,
        "total_recipients": recipients,
        "accepted_at": ACCEPTED_AT,
        "reverse_path": "ada@sender.test",
        "recipients": tuple(Recipient(n, f"r{n}@reader.test") for n in range(recipients)),
        "size_bytes": body.size_bytes if body else len(content),
        "content": b"" if body else content,
    }
    return Job(**(fields | changes))


text = st.text(st.characters(codec="utf-8"), max_size=20)
numbers = st.integers(0, 2**31)
times = st.floats(0, 2**32, allow_nan=False)
replies = st.builds(Reply, st.integers(200, 599), text, text)
tries = st.builds(Try, numbers, times, text, replies)
recipients = st.builds(Recipient, numbers, text, st.lists(tries, max_size=3).map(tuple))
queue_ids = st.builds(new_queue_id, times, st.integers(0, 2**65))
bodies = st.builds(Body, numbers, numbers, text)
jobs = st.builds(
    Job,
    queue_ids,
    numbers,
    numbers,
    numbers,
    times,
    text,
    st.lists(recipients, min_size=1, max_size=4).map(tuple),
    st.booleans(),
    st.booleans(),
    numbers,
    st.binary(max_size=100),
    st.none() | bodies,
    text,
    numbers,
    numbers,
    numbers,
    times,
    numbers,
    st.none() | st.builds(Release, text, times, text),
)
outcomes = st.builds(Outcome, numbers, st.sampled_from(Disposition), replies, text)
