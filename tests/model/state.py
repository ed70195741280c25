"""What the model knows of the world, as values that can be hashed.

Sequence numbers are the smallest that nothing refers to any more: what the protocol compares is
equality, and so states that differ in history alone are one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

Name = tuple[object, ...]


class Job(NamedTuple):
    submission: int
    batch: int
    recipients: tuple[int, ...]
    attempt: int = 1
    hop: int = 0
    body: bool = False  # names the body; otherwise the content is in the record
    resend: int = 0  # version of the failed record, 0: no resend
    release: int = 0  # the how many-th release it stems from, 0: of none


class Record(NamedTuple):
    stream: str  # "in", "lane"
    sequence: int
    job: Job


class Failed(NamedTuple):
    """A recipient's place in the failed store; the version stands for the sequence."""

    kind: str = ""  # "", "failed", "done" (the tombstone)
    version: int = 0
    body: bool = False
    mark: int = 0  # lane sequence of the resend that works on it


class Captured(NamedTuple):
    job: Job
    releases: int = 0


class Account(NamedTuple):
    """What one recipient is owed."""

    delivered: bool = False
    repeats_left: int = 1  # how often the upstream may still take it
    let_go: bool = False  # somebody deleted it, or a full store dropped it


class Submission(NamedTuple):
    phase: str = "new"  # body, unknown, split, accepted, refused, unanswered
    accounts: tuple[Account, ...] = ()
    failed: tuple[Failed, ...] = ()
    body: int = 0  # version that is stored, 0: none
    body_last: int = 0  # last version ever stored
    body_epoch: int = 0  # of the server, when ingress stored it
    is_prompted: bool = False  # an event told the monitor to ask
    was_lost: bool = False  # accepted before the server lost its data
    pace: int = 0  # which job is next; -1: nothing is known


class Step(NamedTuple):
    """What a sender has yet to do with its record."""

    kind: str  # mark, attempt, body, failed, lane, captured, done, event, pace, ack
    job: Job | None = None
    why: str = ""  # of a lane step: deferred, move
    is_repeat: bool = False  # it was sent before, without an answer


class Kept(NamedTuple):
    """What a process remembers of a record that it does not hold any more."""

    record: Record
    steps: tuple[Step, ...]  # () when all but the ack is done


class Sender(NamedTuple):
    record: Record | None = None
    epoch: int = 0
    steps: tuple[Step, ...] = ()
    is_stopped: bool = False
    is_forgotten: bool = False  # the server does not know that it delivered the record
    memory: tuple[Kept, ...] = ()


class Question(NamedTuple):
    """The monitor asks whether a body is in use."""

    submission: int
    bound: int
    asked: int = 0


class Budget(NamedTuple):
    """How many faults and orders may still come in a run."""

    crash: int = 0  # of a sender
    ingress_crash: int = 0
    monitor_crash: int = 0
    stop: int = 0  # SIGSTOP of a sender, or its network cut off; for longer than ack_wait
    restart: int = 0  # the server is killed and comes back with its data
    loss: int = 0  # and without
    lost_reply: int = 0
    silence: int = 0  # the upstream takes and does not answer
    full: int = 0  # the queue refuses a submission
    again: int = 0  # the client got no answer and sends again
    resend: int = 0
    release: int = 0
    delete: int = 0  # somebody deletes a capture record


class State(NamedTuple):
    submissions: tuple[Submission, ...]
    records: tuple[Record, ...]
    captured: tuple[Captured, ...]
    senders: tuple[Sender, ...]
    question: Question | None
    names: frozenset[Name]  # message ids that the server has seen
    epoch: int
    budget: Budget


@dataclass(frozen=True, slots=True)
class Walk:
    """A scenario: what is sent, what the next hop may say, and which faults may come."""

    name: str
    about: str
    jobs: tuple[tuple[int, ...], ...]  # recipients of each job
    outcomes: tuple[str, ...]  # sent, refused, deferred
    budget: Budget
    senders: int = 2
    attempts: int = 2  # a deferral of the last one expires
    moves: int = 0  # lane moves a deferred job may need
    content: str = "small"  # "inline": over 64 KB; "stored": over 1 MB
    captures: bool = False
    paces: bool = False

    @property
    def recipients(self) -> int:
        return sum(len(job) for job in self.jobs)
