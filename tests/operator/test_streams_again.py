"""When the streams' Job is run again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mailrelay_operator.backlog import Numbers
from mailrelay_operator.conditions import (
    Condition,
    Observed,
    StreamsJob,
    Workload,
    conditions,
)
from mailrelay_operator.observe import observe
from mailrelay_operator.streams_again import Runs, lost_streams, seconds_until_due

DONE = StreamsJob("j", done=True, ended_at=1000.0)
LOST = Numbers(1015.0, missing=("mailrelay-in-0",), is_unavailable=True)
NEVER = Runs()


@pytest.mark.parametrize(
    ("job", "numbers"),
    [
        (DONE, None),  # nobody was asked yet
        (DONE, Numbers(2000.0, fault="connection refused")),  # nothing is known
        (DONE, Numbers(2000.0)),  # nothing is missing
        (None, LOST),  # it is made now
        (StreamsJob("j"), LOST),  # it is at it
        (DONE, Numbers(1014.0, missing=("mailrelay-in-0",))),  # may be of before its end
    ],
)
def test_nothing_is_run_while_there_is_no_need_or_it_is_not_known(
    job: StreamsJob | None, numbers: Numbers | None
) -> None:
    assert seconds_until_due(job, numbers, NEVER, 5000.0, 0.5) is None


def test_nothing_is_told_as_lost_by_what_the_monitor_saw_before_the_job_had_made_it() -> None:
    """A new relay's monitor is up before its streams."""
    assert lost_streams(DONE, LOST) == LOST.missing
    assert lost_streams(DONE, replace(LOST, at=1014.0)) == ()
    assert lost_streams(StreamsJob("j"), LOST) == ()


@pytest.mark.parametrize("job", [DONE, StreamsJob("j", fault="too many tries", ended_at=1000.0)])
def test_a_job_that_ended_is_run_again_at_once_for_what_is_missing_since(job: StreamsJob) -> None:
    assert seconds_until_due(job, LOST, NEVER, 1015.0, 0.5) == 0.0


def test_each_further_time_in_a_row_waits_longer_up_to_ten_minutes() -> None:
    pauses = [
        seconds_until_due(DONE, LOST, Runs(count, 1015.0), 1015.0, 0.0) for count in range(1, 8)
    ]
    assert pauses == [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]
    assert seconds_until_due(DONE, LOST, Runs(7, 1015.0), 1615.0, 0.0) == 0.0


def test_a_jobs_end_is_read_from_its_conditions() -> None:
    ended = {"status": "True", "lastTransitionTime": "1970-01-01T00:16:40Z"}
    for kind in ("Complete", "Failed"):
        found = {"metadata": {"name": "j"}, "status": {"conditions": [{"type": kind, **ended}]}}
        job = observe("Job", found)
        assert isinstance(job, StreamsJob)
        assert job.ended_at == 1000.0


def queue_of(seen: Observed) -> Condition:
    (found,) = (each for each in conditions(seen) if each.type == "QueueReady")
    return found


def test_a_queue_without_its_streams_is_not_ready_and_one_without_advice_is() -> None:
    nats = Workload("StatefulSet", "m-nats", 1, 1, 1)
    lost = Observed(nats=nats, streams=DONE, lost_streams=("mailrelay-in-0",), is_unavailable=True)
    condition = queue_of(lost)
    assert (condition.status, condition.reason) == ("False", "StreamsMissing")
    assert condition.message == "the queue lost mailrelay-in-0: Job j is run again"
    advice = Observed(nats=nats, streams=DONE, lost_streams=("mailrelay-pace",))
    assert queue_of(advice).status == "True"


def test_a_queue_that_answers_stays_ready_while_its_streams_are_looked_at_again() -> None:
    nats = Workload("StatefulSet", "m-nats", 1, 1, 1)
    first = Observed(nats=nats, streams=StreamsJob("j"))
    assert queue_of(first).reason == "StreamsAwaited"
    again = Observed(nats=nats, streams=StreamsJob("j"), answers=True)
    assert queue_of(again).status == "True"
    refused = Observed(nats=nats, streams=StreamsJob("j", fault="no"), answers=True)
    assert queue_of(refused).reason == "StreamsRefused"
