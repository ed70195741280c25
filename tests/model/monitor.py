"""The monitor and who uses it: bodies, resend, release, deletion (queue rules 8 to 10)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.checker import Move
from tests.model.ingress import UNDER_WAY
from tests.model.rules import Rules
from tests.model.server import publish, put, spend, with_account, with_failed, with_submission
from tests.model.state import Failed, Job, Question, State, Walk

ORDER = ("in", "lane", "failed", "capture")


def monitor_moves(state: State, walk: Walk, rules: Rules) -> Iterator[Move[State]]:
    yield from _bodies(state, walk, rules)
    asking = state.question.submission if state.question is not None else -1
    for number in range(len(state.submissions)):
        if number == asking and rules.monitor_takes_turns:
            continue
        yield from _resends(state, number, rules)
        yield from _tidies(state, number)
    for place, captured in enumerate(state.captured):
        if captured.job.submission != asking or not rules.monitor_takes_turns:
            yield from _captured(state, place)


def _bodies(state: State, walk: Walk, rules: Rules) -> Iterator[Move[State]]:
    question = state.question
    if question is not None:
        yield from _ask_on(state, question, walk, rules)
        if state.budget.monitor_crash:
            after = spend(state, "monitor_crash")._replace(question=None)
            yield Move("the monitor is killed", after, is_fault=True)
        return
    for number, submission in enumerate(state.submissions):
        if not submission.body:
            continue
        if submission.is_prompted and not rules.asks_before_deletion:
            yield Move(
                f"the monitor deletes the body of {number}: an event was final",
                with_submission(state, number, body=0),
            )
        if not submission.is_prompted and _is_being_written(state, number, rules):
            continue
        if not rules.sweep_asks:
            yield Move(
                f"the monitor deletes the body of {number} by its age",
                with_submission(state, number, body=0),
            )
        yield Move(
            f"the monitor begins to ask for the body of {number}",
            state._replace(question=Question(number, submission.body_last)),
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
    submission = state.submissions[number]
    order = ORDER if rules.asks_in_order else ORDER[::-1]
    if question.asked == len(order):
        keeps = rules.purge_is_bounded and submission.body > question.bound
        after = state if keeps else with_submission(state, number, body=0)
        after = with_submission(after, number, is_prompted=keeps and submission.is_prompted)
        words = "purges nothing: the body is newer" if keeps else "purges the body"
        yield Move(f"the monitor {words} of {number}", after._replace(question=None))
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


def _resends(state: State, number: int, rules: Rules) -> Iterator[Move[State]]:
    if not state.budget.resend:
        return
    for recipient, failed in enumerate(state.submissions[number].failed):
        if failed.kind != "failed" or (failed.mark and rules.marked_is_not_resent):
            continue
        name = (number, recipient, "resend", failed.version)
        job = Job(number, 0, (recipient,), body=failed.body, resend=failed.version)
        for words, stores, after in publish(spend(state, "resend"), name):
            yield Move(
                f"the monitor stores a resend of {number}'s recipient {recipient}{words}",
                put(after, "lane", job) if stores else after,
            )


def _tidies(state: State, number: int) -> Iterator[Move[State]]:
    """What time or a person does to records that nobody works on."""
    for recipient, failed in enumerate(state.submissions[number].failed):
        if failed.kind == "done":
            after = with_failed(state, number, recipient, Failed())
            yield Move(f"the tombstone of {number}'s recipient {recipient} goes", after)
        elif failed.kind == "failed" and not state.budget.resend and not failed.mark:
            after = with_failed(state, number, recipient, Failed())
            after = with_account(
                after, number, recipient, lambda account: account._replace(let_go=True)
            )
            yield Move(f"a person deletes the failed record of recipient {recipient}", after)


def _captured(state: State, place: int) -> Iterator[Move[State]]:
    captured = state.captured[place]
    job = captured.job
    others = (*state.captured[:place], *state.captured[place + 1 :])
    if state.budget.release:
        count = captured.releases + 1
        released = job._replace(release=count, attempt=1)
        after = put(spend(state, "release"), "lane", released)
        after = after._replace(captured=(*others, captured._replace(releases=count)))
        if count > 1:
            for recipient in job.recipients:
                after = with_account(
                    after,
                    job.submission,
                    recipient,
                    lambda account: account._replace(repeats_left=account.repeats_left + 1),
                )
        yield Move(f"the monitor stores a release of {list(job.recipients)}", after)
    after = state._replace(captured=others)
    if not captured.releases:
        for recipient in job.recipients:
            after = with_account(
                after,
                job.submission,
                recipient,
                lambda account: account._replace(let_go=True),
            )
    yield Move(f"a person deletes the capture record of {list(job.recipients)}", after)
