"""Client and ingress: from DATA to the answer (queue rules 1 and 3)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.checker import Move
from tests.model.rules import Rules
from tests.model.server import publish, put, spend, with_submission
from tests.model.state import Account, Failed, Job, State, Submission, Walk

# forgotten: the server was killed, and knows no id of a job that was done meanwhile.
REPEATING = {"new", "body", "unknown", "forgotten", "split"}
UNDER_WAY = {"body", "unknown", "forgotten", "split", "late body"}


def new_submission(walk: Walk) -> Submission:
    return Submission(
        accounts=tuple(Account() for _ in range(walk.recipients)),
        failed=tuple(Failed() for _ in range(walk.recipients)),
    )


def jobs_of(number: int, walk: Walk) -> list[Job]:
    body = walk.content == "stored"
    return [Job(number, batch, who, body=body) for batch, who in enumerate(walk.jobs)]


def accepts(state: State, walk: Walk, rules: Rules) -> Iterator[Move[State]]:
    for number, submission in enumerate(state.submissions):
        yield from _accept(state, number, submission, walk, rules)
        if submission.phase in UNDER_WAY and state.budget.ingress_crash:
            after = with_submission(spend(state, "ingress_crash"), number, phase="unanswered")
            words = f"ingress is killed; the client of {number} has no answer"
            yield Move(words, after, is_fault=True)
        if submission.phase == "accepted" and state.budget.client_crash:
            after = with_submission(spend(state, "client_crash"), number, phase="unanswered")
            words = f"the client of {number} is killed before it hears the 250"
            yield Move(words, after, is_fault=True)
    last = state.submissions[-1]
    if last.phase == "unanswered" and state.budget.again:
        again = (*state.submissions, new_submission(walk))
        yield Move(
            "the client sends again",
            spend(state, "again")._replace(submissions=again),
            is_fault=True,
        )


def _accept(
    state: State, number: int, submission: Submission, walk: Walk, rules: Rules
) -> Iterator[Move[State]]:
    phase = submission.phase
    if phase == "new":
        if walk.content == "stored" and rules.body_before_record:
            after = store_body(with_submission(state, number, phase="body"), number)
            yield Move(f"ingress stores the body of {number}", after)
        else:
            yield from _publish(state, number, walk, rules)
    elif (
        phase in {"body", "unknown", "forgotten"}
        and walk.content == "stored"
        and submission.body_epoch != state.epoch
        and rules.bodies_know_the_epoch
    ):
        after = with_submission(state, number, phase="unanswered")
        yield Move(f"ingress answers {number} 451: the body was stored in a lost queue", after)
    elif phase == "body":
        yield from _publish(state, number, walk, rules)
    elif phase in {"unknown", "forgotten"}:
        if rules.repeats_the_same_batch or len(walk.jobs) == 1:
            yield from _publish(state, number, walk, rules)
        else:
            yield from _split(state, number, walk)
        after = with_submission(state, number, phase="unanswered")
        yield Move(f"ingress answers {number} 451: the deadline is over", after)
    elif phase == "split":
        yield from _split(state, number, walk)
    elif phase == "late body":
        after = store_body(with_submission(state, number, phase="accepted"), number)
        yield Move(f"ingress stores the body of {number}: 250", after)


def store_body(state: State, number: int) -> State:
    return with_submission(state, number, body=True, body_epoch=state.epoch)


def _publish(state: State, number: int, walk: Walk, rules: Rules) -> Iterator[Move[State]]:
    jobs = jobs_of(number, walk)
    what = "the job" if len(jobs) == 1 else f"all {len(jobs)} jobs"
    is_known = (number, "in") in state.names
    stored = state
    if not is_known:
        for job in jobs:
            stored = put(stored, "in", job)
        stored = stored._replace(names=stored.names | {(number, "in")})
        if walk.content == "stored" and not rules.body_before_record:
            # The answer waits for the body, which comes second.
            yield Move(
                f"ingress stores {what} of {number}",
                with_submission(stored, number, phase="late body"),
            )
            return
    words = f"ingress {'repeats the publish of' if is_known else 'stores'} {what} of {number}"
    known = " (known already)" if is_known else ""
    accepted = with_submission(stored, number, phase="accepted")
    yield Move(f"{words}{known}: 250", accepted)
    if state.budget.lost_reply:
        unknown = with_submission(spend(stored, "lost_reply"), number, phase="unknown")
        yield Move(f"{words}{known}, the ack is lost", unknown, is_fault=True)
        phase = state.submissions[number].phase
        phase = phase if phase == "forgotten" else "unknown"
        nothing = with_submission(spend(state, "lost_reply"), number, phase=phase)
        if nothing != state and not is_known:
            yield Move(f"{words}, which does not arrive", nothing, is_fault=True)
    if state.budget.full and not is_known:
        was_forgotten = state.submissions[number].phase == "forgotten"
        phase = "unanswered" if was_forgotten else "refused"
        refused = with_submission(spend(state, "full"), number, phase=phase)
        yield Move(f"the queue is full: {number} is answered 452", refused, is_fault=True)


def _split(state: State, number: int, walk: Walk) -> Iterator[Move[State]]:
    """What must not be done: store the jobs one by one, each under a name of its own."""
    for job in jobs_of(number, walk):
        name = (number, "in", job.batch)
        if name in state.names:
            continue
        for words, stores, after in publish(state, name, may_be_old=False):
            stored = put(after, "in", job) if stores else after
            phase = "accepted" if job.batch == len(walk.jobs) - 1 else "split"
            yield Move(
                f"ingress stores job {job.batch} of {number} alone{words}",
                with_submission(stored, number, phase=phase),
            )
        if state.budget.full:
            refused = with_submission(spend(state, "full"), number, phase="refused")
            yield Move(f"the queue is full: {number} is answered 452", refused, is_fault=True)
        return
