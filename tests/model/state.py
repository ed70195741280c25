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
    came_back: bool = False  # a resend stored it though it was deleted meanwhile


class Captured(NamedTuple):
    job: Job
    releases: int = 0


class Account(NamedTuple):
    """What one recipient is owed."""

    delivered: bool = False
    repeats_left: int = 1  # how often the upstream may still take it
    let_go: bool = False  # somebody deleted it, or a full store dropped it
    owed: tuple[int, ...] = ()  # releases that have not come to an end


class Submission(NamedTuple):
    phase: str = "new"  # body, unknown, split, accepted, refused, unanswered
    accounts: tuple[Account, ...] = ()
    failed: tuple[Failed, ...] = ()
    body: bool = False  # is stored
    body_epoch: int = 0  # of the server, when ingress stored it
    is_prompted: bool = False  # an event told the monitor to ask
    was_lost: bool = False  # accepted before the server lost its data
    body_was_lost: bool = False
    pace: int = 0  # which job is next; -1: nothing is known


class Step(NamedTuple):
    """What a sender has yet to do with its record."""

    kind: str  # mark, attempt, sending, body, failed, lane, captured, done, event, pace, ack
    job: Job | None = None
    why: str = ""  # of a lane step: deferred, move, divided (the first part), part (another one)
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
    # Another may have been given the record: it was not held in time, or the server was killed.
    is_unsure: bool = False
    has_looked: bool = False  # and found its record: what it stores next is on its way
    memory: tuple[Kept, ...] = ()


class Question(NamedTuple):
    """The monitor asks whether a body is in use."""

    submission: int
    asked: int = 0


class Budget(NamedTuple):
    """How many faults and orders may still come in a run."""

    client_crash: int = 0
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
    delete: int = 0  # somebody deletes a failed record while its resend may be alive


class State(NamedTuple):
    submissions: tuple[Submission, ...]
    records: tuple[Record, ...]
    captured: tuple[Captured, ...]
    senders: tuple[Sender, ...]
    question: Question | None
    releasing: Captured | None  # the monitor read it, and is about to store its release
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
    # What the next hop may say of each recipient, where not all may have all outcomes.
    outcomes_of: tuple[tuple[str, ...], ...] = ()
    routes: tuple[int, ...] = ()  # of each recipient; none given: all have the same

    @property
    def recipients(self) -> int:
        return sum(len(job) for job in self.jobs)

    def possible(self, recipient: int) -> tuple[str, ...]:
        """What the next hop may say of a recipient."""
        return self.outcomes_of[recipient] if self.outcomes_of else self.outcomes
