"""The monitor and who uses it: bodies, resend, release, deletion (queue rules 8 to 10)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.model.checker import Move
from tests.model.ingress import UNDER_WAY
from tests.model.rules import Rules
from tests.model.server import (
    excuse,
    is_alive,
    publish,
    put,
    spend,
    with_account,
    with_failed,
    with_submission,
)
from tests.model.state import Account, Captured, Failed, Job, Question, State, Walk

ORDER = ("in", "lane", "failed", "capture")


def monitor_moves(state: State, walk: Walk, rules: Rules) -> Iterator[Move[State]]:
    yield from _bodies(state, walk, rules)
    for number in range(len(state.submissions)):
        yield from _resends(state, number)
        yield from _tidies(state, number)
    if state.releasing is not None and (
        state.question is None
        or state.question.submission != state.releasing.job.submission
        or not rules.monitor_takes_turns
    ):
        yield from _release(state, state.releasing, rules)
    for place, captured in enumerate(state.captured):
        if state.budget.release and state.releasing is None:
            yield Move(
                f"the monitor reads the capture record of {list(captured.job.recipients)}",
                state._replace(releasing=captured),
            )
        yield _forgotten(state, place)
    if state.budget.monitor_crash and (state.question or state.releasing):
        after = spend(state, "monitor_crash")._replace(question=None, releasing=None)
        yield Move("the monitor is killed", after, is_fault=True)


def _bodies(state: State, walk: Walk, rules: Rules) -> Iterator[Move[State]]:
    question = state.question
    if question is not None:
        yield from _ask_on(state, question, walk, rules)
        return
    for number, submission in enumerate(state.submissions):
        if not submission.body:
            continue
        if submission.is_prompted and not rules.asks_before_deletion:
            yield Move(
                f"the monitor deletes the body of {number}: an event was final",
                with_submission(state, number, body=False),
            )
        if not submission.is_prompted and _is_being_written(state, number, rules):
            continue
        if not rules.sweep_asks:
            yield Move(
                f"the monitor deletes the body of {number} by its age",
                with_submission(state, number, body=False),
            )
        yield Move(
            f"the monitor begins to ask for the body of {number}",
            state._replace(question=Question(number)),
        )


def _is_being_written(state: State, number: int, rules: Rules) -> bool:
    """Whether the body is younger than the sweep's hour: its record is still to be stored."""
    if not rules.stops_spare_bodies:
        return False
    submission = state.submissions[number]
    if submission.phase in UNDER_WAY and submission.body_epoch == state.epoch:
        return True
    return any(
        sender.record is not None
        and sender.record.job.submission == number
        and not sender.record.job.body
        and any(step.kind in {"failed", "lane"} for step in sender.steps)
        for sender in state.senders
    )


def _ask_on(state: State, question: Question, walk: Walk, rules: Rules) -> Iterator[Move[State]]:
    number = question.submission
    if rules.stops_spare_bodies and any(sender.has_looked for sender in state.senders):
        return
    order = ORDER if rules.asks_in_order else ORDER[::-1]
    if question.asked == len(order):
        # The code purges no further than what was stored before it asked. No invariant needs that.
        after = with_submission(state, number, body=False, is_prompted=False)
        yield Move(f"the monitor purges the body of {number}", after._replace(question=None))
        return
    place = order[question.asked]
    if _names_body(state, number, place, walk, rules):
        words = f"the monitor asks {place} for the body of {number}: in use"
        yield Move(words, state._replace(question=None))
    else:
        asked = question._replace(asked=question.asked + 1)
        yield Move(
            f"the monitor asks {place} for the body of {number}: none",
            state._replace(question=asked),
        )


def _names_body(state: State, number: int, place: str, walk: Walk, rules: Rules) -> bool:
    if place == "failed":
        return any(failed.kind == "failed" for failed in state.submissions[number].failed)
    if place == "capture":
        return any(captured.job.submission == number for captured in state.captured)
    by_subject = walk.content == "inline" and rules.large_inline_is_found
    return any(
        record.stream == place
        and record.job.submission == number
        and (record.job.body or by_subject)
        for record in state.records
    )


def _resends(state: State, number: int) -> Iterator[Move[State]]:
    if not state.budget.resend:
        return
    for recipient, failed in enumerate(state.submissions[number].failed):
        if failed.kind != "failed":  # what it knows of marks may be old by the time it stores
            continue
        name = (number, recipient, "resend", failed.version)
        job = Job(number, 0, (recipient,), body=failed.body, resend=failed.version)
        for words, stores, after in publish(spend(state, "resend"), name):
            yield Move(
                f"the monitor stores a resend of {number}'s recipient {recipient}{words}",
                put(after, "lane", job) if stores else after,
            )
            if state.budget.lost_reply and stores:
                lost = spend(put(after, "lane", job), "lost_reply")
                lost = lost._replace(budget=lost.budget._replace(resend=state.budget.resend))
                yield Move(
                    f"the monitor stores a resend of {number}'s recipient {recipient}"
                    ", the ack is lost",
                    lost,
                    is_fault=True,
                )


def _tidies(state: State, number: int) -> Iterator[Move[State]]:
    """What time or a person does to records that nobody works on."""
    for recipient, failed in enumerate(state.submissions[number].failed):
        if failed.kind == "done":
            if _is_repeated(state, number, recipient):
                continue  # it stays for an hour, longer than a publish is repeated
            after = with_failed(state, number, recipient, Failed())
            yield Move(f"the tombstone of {number}'s recipient {recipient} goes", after)
        elif failed.kind == "failed":
            is_idle = not state.budget.resend and not (failed.mark and is_alive(state, failed.mark))
            # Not while the job that failed is still open: its repeat would store it again.
            is_open = _has_open_job(state, number, recipient)
            if not is_idle and (not state.budget.delete or is_open):
                continue
            after = state if is_idle else spend(state, "delete")
            after = with_failed(after, number, recipient, Failed())
            after = with_account(
                after, number, recipient, lambda account: account._replace(let_go=True)
            )
            yield Move(f"a person deletes the failed record of recipient {recipient}", after)


def _has_open_job(state: State, number: int, recipient: int) -> bool:
    return any(
        record.job.submission == number
        and recipient in record.job.recipients
        and not record.job.resend
        for record in state.records
    )


def _is_repeated(state: State, number: int, recipient: int) -> bool:
    return any(
        step.is_repeat and step.kind == "failed" and step.job.recipients == (recipient,)
        for sender in state.senders
        if sender.record is not None and sender.record.job.submission == number
        for step in sender.steps
        if step.job is not None
    )


def _release(state: State, captured: Captured, rules: Rules) -> Iterator[Move[State]]:
    """Store the job that a release asks for; the capture record was read before."""
    read = next((other for other in state.captured if other.job == captured.job), None)
    job = captured.job
    whom = list(job.recipients)
    idle = state._replace(releasing=None)
    if read is None and rules.release_looks_again:
        yield Move(
            f"the monitor finds the capture record of {whom} deleted", spend(idle, "release")
        )
        return
    count = captured.releases + 1
    name = (job.submission, job.batch, "release", job.recipients, count)
    for words, stores, published in publish(idle, name):
        after = published
        if stores:
            after = put(after, "lane", job._replace(release=count, attempt=1))
            for recipient in job.recipients if name not in state.names else ():
                after = with_account(after, job.submission, recipient, _owing(count))
            if name in state.names or count > 1:
                after = excuse(after, job)  # asked for twice, or its monitor was killed
        what = f"the monitor stores release {count} of {whom}{words}"
        if state.budget.monitor_crash and stores:
            killed = spend(after, "monitor_crash")
            yield Move(f"{what} and is killed before it notes that", killed, is_fault=True)
        after = spend(after, "release")
        if read is not None:
            others = (other for other in after.captured if other != read)
            noted = (*others, read._replace(releases=count))
            after = after._replace(captured=tuple(sorted(noted)))
        yield Move(what, after)


def _owing(release: int) -> Callable[[Account], Account]:
    def owing(account: Account) -> Account:
        return account._replace(owed=tuple(sorted({*account.owed, release})))

    return owing


def _forgotten(state: State, place: int) -> Move[State]:
    captured = state.captured[place]
    job = captured.job
    after = state._replace(captured=(*state.captured[:place], *state.captured[place + 1 :]))
    for recipient in job.recipients:
        # Who has it released first is owed its attempt all the same (`owed`).
        after = with_account(
            after, job.submission, recipient, lambda account: account._replace(let_go=True)
        )
    return Move(f"a person deletes the capture record of {list(job.recipients)}", after)
