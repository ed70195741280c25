"""What a sender's steps store behind an attempt (queue rules 4 to 6, 8, 11, 14)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.model.follow_up import name_of
from tests.model.ingress import store_body
from tests.model.rules import Rules
from tests.model.server import excuse, is_alive, publish, put, with_failed, with_submission
from tests.model.state import Captured, Failed, Job, Record, State, Step

Effect = tuple[str, State]


def words_of(job: Job) -> str:
    return f"job {job.submission}.{job.batch} {list(job.recipients)} attempt {job.attempt}"


def _store_body(state: State, record: Record, _step: Step, _rules: Rules) -> Iterator[Effect]:
    yield f"stores the body of {record.job.submission}", store_body(state, record.job.submission)


def _store_lane(state: State, record: Record, step: Step, rules: Rules) -> Iterator[Effect]:
    job = step.job
    assert job is not None
    state = _with_body(state, record, job, rules)
    name = name_of(record.job, step, rules)
    for words, stores, after in publish(state, name):
        stored = put(after, "lane", job) if stores else after
        if stores and name in state.names and step.is_repeat and rules.window_is_excused:
            stored = excuse(stored, job)
        yield f"stores {words_of(job)} in a lane ({step.why}){words}", stored


def _with_body(state: State, record: Record, job: Job, rules: Rules) -> State:
    """A body that the server lost is written anew by who still has its content."""
    if not job.body or record.job.body or not rules.bodies_know_the_epoch:
        return state
    return store_body(state, job.submission) if state.epoch else state


def _store_failed(state: State, record: Record, step: Step, rules: Rules) -> Iterator[Effect]:
    """Compare-and-set: of a job where nothing is, of a resend over its own mark alone."""
    job = step.job
    assert job is not None
    state = _with_body(state, record, job, rules)
    recipient = job.recipients[0]
    place = state.submissions[job.submission].failed[recipient]
    what = f"a failed record of {recipient}"
    new = Failed("failed", place.version + 1, job.body)
    if record.job.resend:
        if place.mark != record.sequence:
            if rules.resend_settles_marked and rules.resend_is_marked:
                yield f"finds that {what} is not its resend's any more", state
                return
            new = new._replace(came_back=not place.kind and rules.resend_is_marked)
    elif record.job.release:
        if place.mark and is_alive(state, place.mark):
            yield f"finds {what} whose resend is alive", state
            return
    elif place.kind and rules.failed_is_stored_once:
        yield f"finds {what} stored already", state
        return
    yield f"stores {what}", with_failed(state, job.submission, recipient, new)


def _store_done(state: State, record: Record, _step: Step, rules: Rules) -> Iterator[Effect]:
    job = record.job
    recipient = job.recipients[0]
    place = state.submissions[job.submission].failed[recipient]
    is_ours = place.mark == record.sequence
    if rules.resend_settles_marked and rules.resend_is_marked and not is_ours:
        yield f"finds that the failed record of {recipient} is not its resend's any more", state
        return
    new = Failed("done", place.version + 1)
    yield f"stores the tombstone of {recipient}", with_failed(state, job.submission, recipient, new)


def _store_captured(state: State, record: Record, step: Step, rules: Rules) -> Iterator[Effect]:
    job = step.job
    assert job is not None
    name = name_of(record.job, step, rules)
    for words, stores, published in publish(state, name):
        after = published
        known = {captured.job for captured in state.captured}
        if stores and job not in known:
            if step.is_repeat and name in state.names and rules.window_is_excused:
                after = excuse(after, job)
            captured = tuple(sorted((*after.captured, Captured(job))))
            yield f"stores a capture record{words}", after._replace(captured=captured)
        else:
            yield f"stores a capture record{words}", after


def _tell(state: State, record: Record, _step: Step, _rules: Rules) -> Iterator[Effect]:
    number = record.job.submission
    yield "tells the event", with_submission(state, number, is_prompted=True)


def _pace(state: State, record: Record, _step: Step, _rules: Rules) -> Iterator[Effect]:
    number = record.job.submission
    if state.submissions[number].pace == -1:
        yield "finds nothing to tell the pace to", state
        return
    yield "tells whose turn it is, which nobody hears", state
    yield (
        f"tells that job {record.job.batch + 1} is next",
        with_submission(state, number, pace=record.job.batch + 1),
    )


STORES: dict[str, Callable[[State, Record, Step, Rules], Iterator[Effect]]] = {
    "body": _store_body,
    "lane": _store_lane,
    "failed": _store_failed,
    "done": _store_done,
    "captured": _store_captured,
    "event": _tell,
    "pace": _pace,
}
