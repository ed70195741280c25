"""What nats-server does with a request, and what happens to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.model.checker import Move
from tests.model.rules import Rules
from tests.model.state import (
    Account,
    Failed,
    Job,
    Kept,
    Name,
    Record,
    Sender,
    State,
    Submission,
    Walk,
)


def with_submission(state: State, number: int, **changes: object) -> State:
    old = state.submissions[number]
    return with_whole_submission(state, number, old._replace(**changes))  # type: ignore[arg-type]


def with_whole_submission(state: State, number: int, new: Submission) -> State:
    submissions = state.submissions
    return state._replace(submissions=(*submissions[:number], new, *submissions[number + 1 :]))


def with_account(
    state: State, number: int, recipient: int, change: Callable[[Account], Account]
) -> State:
    accounts = list(state.submissions[number].accounts)
    accounts[recipient] = change(accounts[recipient])
    return with_submission(state, number, accounts=tuple(accounts))


def with_failed(state: State, number: int, recipient: int, new: Failed) -> State:
    failed = list(state.submissions[number].failed)
    failed[recipient] = new
    return with_submission(state, number, failed=tuple(failed))


def with_sender(state: State, number: int, new: Sender) -> State:
    senders = list(state.senders)
    senders[number] = new
    return state._replace(senders=tuple(senders))


def spend(state: State, what: str) -> State:
    left = getattr(state.budget, what) - 1
    return state._replace(budget=state.budget._replace(**{what: left}))


def excuse(state: State, job: Job) -> State:
    """One more delivery of each of the job's recipients is as promised."""
    for recipient in job.recipients:
        state = with_account(
            state,
            job.submission,
            recipient,
            lambda account: account._replace(repeats_left=account.repeats_left + 1),
        )
    return state


def put(state: State, stream: str, job: Job) -> State:
    record = Record(stream, _next_sequence(state, stream), job)
    return state._replace(records=tuple(sorted((*state.records, record))))


def _next_sequence(state: State, stream: str) -> int:
    used = {record.sequence for record in state.records if record.stream == stream}
    for sender in state.senders:
        held = [*(kept.record for kept in sender.memory)]
        if sender.record is not None and sender.epoch == state.epoch:
            held.append(sender.record)
        used |= {record.sequence for record in held if record.stream == stream}
    used |= {failed.mark for submission in state.submissions for failed in submission.failed}
    return next(number for number in range(1, len(used) + 3) if number not in used)


def find(state: State, record: Record) -> Record | None:
    """The record that the server has under this stream and sequence, whatever it is."""
    for stored in state.records:
        if (stored.stream, stored.sequence) == (record.stream, record.sequence):
            return stored
    return None


def remove(state: State, record: Record) -> State:
    """Carry out an ack: it names stream and sequence, nothing else."""
    stored = find(state, record)
    if stored is None:
        return state
    return state._replace(records=tuple(kept for kept in state.records if kept != stored))


def publish(
    state: State, name: Name, *, may_be_old: bool = True
) -> Iterator[tuple[str, bool, State]]:
    """Yield what the server may make of a message id: words, whether it stores, the state.

    A name that it knows may be older than its window at any time; then it stores again.
    """
    if name not in state.names:
        yield "", True, state._replace(names=state.names | {name})
        return
    yield " (duplicate: nothing stored)", False, state
    if may_be_old:
        yield " (the window is over: stored again)", True, state


def is_open(sender: Sender, rules: Rules) -> bool:
    """Whether something was done for the record that a repeat would do again."""
    if not sender.steps or is_untouched(sender):
        return False
    if is_divided(sender):
        return rules.divisions_are_open
    return rules.moves_are_open or sender.steps[0].why != "move"


def is_divided(sender: Sender) -> bool:
    """Whether some of its record's parts are stored, or all, and not more than that is done."""
    first = sender.steps[0]
    return first.why in {"divided", "part"} or (first.kind == "ack" and first.why == "division")


def is_untouched(sender: Sender) -> bool:
    """Whether neither the next hop nor the queue has seen anything of the work yet."""
    first = sender.steps[0]
    moves = first.kind == "lane" and first.why in {"move", "divided"}
    is_new_move = moves and not first.is_repeat
    return first.kind in {"mark", "attempt"} or is_new_move


def kills(state: State, walk: Walk, rules: Rules) -> Iterator[Move[State]]:
    """What may happen to the server."""
    if state.budget.restart:
        yield Move("the server is killed and comes back", _restarted(state, rules), is_fault=True)
    if state.budget.loss:
        yield Move("the server loses its data and comes back", _emptied(state, walk), is_fault=True)


def _restarted(state: State, rules: Rules) -> State:
    """It may not know what it delivered, and knows no id of a record that is gone."""
    state = spend(state, "restart")
    for number, sender in enumerate(state.senders):
        if sender.record is None:
            continue
        if is_open(sender, rules):
            state = excuse(state, sender.record.job)
        state = with_sender(state, number, sender._replace(is_unsure=True, has_looked=False))
    for number, submission in enumerate(state.submissions):
        jobs = {
            record.job
            for record in state.records
            if record.stream == "in" and record.job.submission == number
        }
        if not jobs and submission.phase == "unknown" and (number, "in") in state.names:
            # Its ingress still repeats the publish of a job that was done meanwhile.
            state = state._replace(names=state.names - {(number, "in")})
            state = _excuse_all(with_submission(state, number, phase="forgotten"), number)
    submissions = tuple(submission._replace(pace=-1) for submission in state.submissions)
    return state._replace(submissions=submissions)


def _excuse_all(state: State, number: int) -> State:
    accounts = tuple(
        account._replace(repeats_left=account.repeats_left + 1)
        for account in state.submissions[number].accounts
    )
    return with_submission(state, number, accounts=accounts)


def _emptied(state: State, walk: Walk) -> State:
    state = spend(state, "loss")
    submissions = []
    for submission in state.submissions:
        stored = submission.phase in {"accepted", "unknown", "forgotten", "split"}
        accounts = submission.accounts
        if stored:  # what was sent may be sent again: the queue that knew of it is gone
            accounts = tuple(
                account._replace(repeats_left=account.repeats_left + 1) for account in accounts
            )
        accounts = tuple(account._replace(owed=()) for account in accounts)
        submissions.append(
            submission._replace(
                accounts=accounts,
                failed=tuple(Failed() for _ in range(walk.recipients)),
                body=False,
                is_prompted=False,
                was_lost=submission.was_lost or submission.phase == "accepted",
                pace=-1,
                body_was_lost=submission.body_was_lost or bool(submission.body),
            )
        )
    # A record is known by its stored time, too: nothing of the new queue is taken for it.
    senders = tuple(sender._replace(memory=(), has_looked=False) for sender in state.senders)
    return state._replace(
        submissions=tuple(submissions),
        records=(),
        captured=(),
        senders=senders,
        names=frozenset(),
        epoch=state.epoch + 1,
        question=state.question,
    )


def is_alive(state: State, mark: int) -> bool:
    """Whether the record in the lane that a failed record's mark names is still there."""
    return any(record.stream == "lane" and record.sequence == mark for record in state.records)


def forget_gone(state: State) -> State:
    """Drop what a process remembers of records that are gone: it never comes to use."""
    stored = set(state.records)
    for number, sender in enumerate(state.senders):
        memory: tuple[Kept, ...] = tuple(kept for kept in sender.memory if kept.record in stored)
        if memory != sender.memory:
            state = with_sender(state, number, sender._replace(memory=memory))
    return state
