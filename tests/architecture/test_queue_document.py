"""docs/queue.md against the code: subjects, kinds, records' fields, rights."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import fields

import pytest

from mailrelay.mail.disposition import Outcome
from mailrelay.mail.event import Abandoned, Accepted, Attempted, Discarded, Summary
from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import (
    Body,
    CaptureRecord,
    FailedRecord,
    Job,
    Recipient,
    Release,
    ResendMark,
    Try,
)
from mailrelay.mail.limit import Window
from mailrelay.mail.pace import Pace
from mailrelay.mail.reply import Reply
from mailrelay.queue.lanes import Lane
from mailrelay.queue.names import Names
from mailrelay.queue.rights import Role, rights_of
from mailrelay.queue.streams import QueueLimits, stream_configs
from tests.architecture.repository import ROOT

TEXT = (ROOT / "docs" / "queue.md").read_text()
NAMES = Names("prefix")
LIMITS = QueueLimits(
    store_bytes=10**9, queue_size=1, capture_max_messages=1, capture_drops_oldest=True
)
STREAMS = {config["name"]: config for config in stream_configs(NAMES, LIMITS)}
RECORDS = {
    "job": Job,
    "recipient": Recipient,
    "try": Try,
    "reply": Reply,
    "body": Body,
    "release": Release,
    "failed": FailedRecord,
    "mark": ResendMark,
    "capture": CaptureRecord,
    "summary": Summary,
    "accepted": Accepted,
    "discarded": Discarded,
    "abandoned": Abandoned,
    "attempted": Attempted,
    "outcome": Outcome,
    "pace": Pace,
}


def section(title: str) -> str:
    """A part of the document, up to the next heading of its level."""
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str, columns: int) -> list[list[str]]:
    """The rows of the tables with so many columns, heads left out."""
    found = []
    for line in re.findall(r"^\| (.*) \|$", text, re.MULTILINE):
        cells = [cell.strip() for cell in line.split(" | ")]
        if len(cells) == columns and not set(line) <= set("-| "):
            found.append(cells)
    return found[1:]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def full(name: str) -> str:
    """A name as the document writes it, with the prefix in place of `P`."""
    return re.sub(r"^P(?=[.-])", NAMES.prefix, name)


def test_each_stream_has_the_subject_that_the_code_makes() -> None:
    body = QueueId("<body>")
    submission = QueueId("<submission>")
    number, chunk, job = "<recipient no.>", "<chunk>", "<job no.>"
    made = {
        NAMES.in_stream(): NAMES.in_subject(body),
        NAMES.lane_stream: NAMES.lane_subject(Lane("<lane>", 0), body),
        NAMES.failed_stream: NAMES.failed_subject(submission, number),  # type: ignore[arg-type]
        NAMES.capture_stream: NAMES.capture_subject(
            submission,
            job,  # type: ignore[arg-type]
            "<hash of recipients>",
        ),
        NAMES.body_stream: NAMES.body_subject(submission, chunk),  # type: ignore[arg-type]
        NAMES.event_stream: NAMES.event_subject("<role>"),
        **{
            NAMES.limit_stream(window): NAMES.limit_subject(window, f"<{window.value}>") + ".<key>"  # type: ignore[arg-type]
            for window in Window
        },
        NAMES.checkpoint_stream: NAMES.checkpoint_subject,
        NAMES.pace_stream: NAMES.pace_subject(submission),
    }
    told = {full(code(row[0])[0]): full(code(row[1])[0]) for row in rows(section("Streams"), 4)}
    assert told == made


def test_each_stream_is_of_the_kind_that_is_told() -> None:
    for name, _, _, kind in rows(section("Streams"), 4):
        config = STREAMS[full(code(name)[0])]
        assert ("work queue" in kind) == (config["retention"] == "workqueue"), name
        if "refuses" in kind or "drops" in kind:
            assert ("refuses" in kind) == (config["discard"] == "new"), name
        assert ("drops its oldest" in kind) <= (config["discard"] == "old"), name
        keeps_one = config.get("max_msgs_per_subject") == 1 or config.get("allow_rollup_hdrs")
        assert not ("last one" in kind and not keeps_one), name


def test_each_stream_that_is_told_holds_its_subject() -> None:
    for name, subject, _, _ in rows(section("Streams"), 4):
        stem = full(code(subject)[0]).partition("<")[0].rstrip(".")
        patterns = STREAMS[full(code(name)[0])]["subjects"]
        assert {stem, f"{stem}.>", f"{stem}.*"} & set(patterns), name


@pytest.mark.parametrize("record", RECORDS)
def test_the_fields_of_a_record_are_those_of_the_code(record: str) -> None:
    told = {row[0]: code(row[1]) for row in rows(section("Records"), 2)}
    assert told[record] == [field.name for field in fields(RECORDS[record])]


def test_no_record_is_told_that_is_not_there() -> None:
    assert [row[0] for row in rows(section("Records"), 2)] == list(RECORDS)


def test_each_role_may_do_what_is_told_and_nothing_else() -> None:
    told = {
        (role, code(verb)[0] if code(verb) else verb): {full(each) for each in code(what)}
        for role, verb, what in rows(section("Who may do what"), 3)
    }
    assert told == allowed()


def allowed() -> dict[tuple[str, str], set[str]]:
    """What the rights come to: role and verb, and the subjects or streams."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for role in Role:
        for subject in rights_of(role, NAMES).publish:
            call = re.fullmatch(r"\$JS\.(?:API\.)?([A-Z.]+)\.(prefix-[^.]+)(?:\..*)?", subject)
            if call is not None:
                found[role.value, call[1]].add(call[2])
            elif subject.startswith("$JS"):
                found[role.value, subject] = set()
            else:
                found[role.value, "store"].add(subject.removesuffix(".>").removesuffix(".*"))
    return dict(found)
