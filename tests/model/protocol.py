"""The whole protocol as a model for the checker: who may move, and what must hold."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

from tests.model.checker import Move
from tests.model.ingress import REPEATING, UNDER_WAY, accepts, new_submission
from tests.model.monitor import monitor_moves
from tests.model.rules import Rules
from tests.model.sender import sender_moves
from tests.model.server import kills
from tests.model.state import Job, Name, Sender, State, Submission, Walk

INVARIANTS = (
    "nothing accepted is lost",
    "no record names a body that was deleted",
    "nobody gets a message more often than promised",
    "one resend of a failed record is attempted at a time",
    "nothing of a refused submission is stored or sent",
    "a failed record that is deleted while its resend is alive stays deleted",
    "a release is tried until it is sent or has failed",
    "the queue can always become empty without a fault",
)


class Protocol:
    """A walk under given rules."""

    def __init__(self, walk: Walk, rules: Rules) -> None:
        self._walk = walk
        self._rules = rules

    def first(self) -> State:
        return State(
            submissions=(new_submission(self._walk),),
            records=(),
            captured=(),
            senders=(Sender(),) * self._walk.senders,
            question=None,
            releasing=None,
            names=frozenset(),
            epoch=0,
            budget=self._walk.budget,
        )

    def moves(self, state: State) -> Iterator[Move[State]]:
        walk, rules = self._walk, self._rules
        yield from accepts(state, walk, rules)
        yield from sender_moves(state, walk, rules)
        yield from monitor_moves(state, walk, rules)
        yield from kills(state, walk, rules)

    def key(self, state: State) -> Hashable:
        """Senders are alike, and a name that nothing can repeat any more is as good as gone."""
        return state._replace(
            senders=tuple(sorted(state.senders, key=hash)),
            names=_live_names(state),
            submissions=_without_idle_versions(state),
        )

    def wrong(self, state: State) -> str:
        for number, submission in enumerate(state.submissions):
            wrong = (
                self._lost(state, number, submission)
                or _repeated(number, submission)
                or _refused(state, number, submission)
                or _came_back(number, submission)
                or _swallowed(state, number, submission)
            )
            if wrong:
                return wrong
        return self._bodiless(state) or _two_resends(state)

    def is_end(self, state: State) -> bool:
        return (
            not state.records
            and not state.captured
            and state.question is None
            and state.releasing is None
            and all(sender.record is None and not sender.is_stopped for sender in state.senders)
            and all(
                submission.phase not in {"new", *UNDER_WAY}
                and not submission.body
                and not any(failed.kind for failed in submission.failed)
                for submission in state.submissions
            )
        )

    def _lost(self, state: State, number: int, submission: Submission) -> str:
        if submission.phase != "accepted" or submission.was_lost:
            return ""
        for recipient, account in enumerate(submission.accounts):
            if account.delivered or account.let_go:
                continue
            if not any(
                recipient in job.recipients and (submission.body or not job.body)
                for job in _stored_jobs(state, number)
            ):
                return f"recipient {recipient} of {number}, answered 250, is lost"
        return ""

    def _bodiless(self, state: State) -> str:
        for number, submission in enumerate(state.submissions):
            if submission.body or submission.body_was_lost:
                continue
            for job in _stored_jobs(state, number):
                if job.body and not _is_stale_resend(job, submission):
                    return f"a record of {number} for {list(job.recipients)} has no body any more"
        return ""


def _without_idle_versions(state: State) -> tuple[Submission, ...]:
    """A version counts only as long as somebody may compare it."""
    held = (*state.records, *(sender.record for sender in state.senders))
    is_resent = state.budget.resend or any(
        record is not None and record.job.resend for record in held
    )
    submissions = state.submissions
    if not is_resent:
        submissions = tuple(
            submission._replace(
                failed=tuple(failed._replace(version=0) for failed in submission.failed)
            )
            for submission in submissions
        )
    return submissions


def _live_names(state: State) -> frozenset[Name]:
    jobs = {
        (record.job.submission, record.job.batch)
        for record in (*state.records, *(sender.record for sender in state.senders))
        if record is not None
    }
    return frozenset(name for name in state.names if _is_live(name, jobs, state))


def _is_live(name: Name, jobs: set[tuple[int, int]], state: State) -> bool:
    if name[2:3] == ("resend",):
        return bool(state.budget.resend)
    if name[1] == "in":
        number = name[0]
        assert isinstance(number, int)
        return state.submissions[number].phase in REPEATING
    if "release" in name:
        return bool(state.budget.release)
    return name[:2] in jobs


def _stored_jobs(state: State, number: int) -> Iterable[Job]:
    for record in state.records:
        if record.job.submission == number:
            yield record.job
    for captured in state.captured:
        if captured.job.submission == number:
            yield captured.job
    for recipient, failed in enumerate(state.submissions[number].failed):
        if failed.kind == "failed":
            yield Job(number, 0, (recipient,), body=failed.body)


def _is_stale_resend(job: Job, submission: Submission) -> bool:
    """A resend that its claimer will drop names a body that it does not need."""
    return bool(job.resend) and submission.failed[job.recipients[0]].kind != "failed"


def _repeated(number: int, submission: Submission) -> str:
    for recipient, account in enumerate(submission.accounts):
        if account.repeats_left < 0:
            return f"recipient {recipient} of {number} got it more often than promised"
    return ""


def _refused(state: State, number: int, submission: Submission) -> str:
    if submission.phase != "refused":
        return ""
    sent = any(account.delivered for account in submission.accounts)
    if sent or any(True for _ in _stored_jobs(state, number)):
        return f"{number} was answered 452, and something of it was stored"
    return ""


def _came_back(number: int, submission: Submission) -> str:
    for recipient, failed in enumerate(submission.failed):
        if failed.came_back:
            return f"the failed record of {recipient} of {number}, deleted meanwhile, came back"
    return ""


def _swallowed(state: State, number: int, submission: Submission) -> str:
    for recipient, account in enumerate(submission.accounts):
        for release in account.owed:
            if not any(
                record.job.submission == number
                and record.job.release == release
                and recipient in record.job.recipients
                for record in state.records
            ):
                return f"release {release} of recipient {recipient} of {number} was swallowed"
    return ""


def _two_resends(state: State) -> str:
    at_work: dict[tuple[int, tuple[int, ...]], int] = {}
    for sender in state.senders:
        record = sender.record
        if record is None or not record.job.resend or sender.epoch != state.epoch:
            continue
        if sender.steps[0].kind not in {"attempt", "sending"}:
            continue
        key = (record.job.submission, record.job.recipients)
        if at_work.setdefault(key, record.sequence) != record.sequence:
            return f"two resends of {record.job.submission}'s {record.job.recipients} at once"
    return ""
