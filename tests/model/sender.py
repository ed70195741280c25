"""A sender with one slot: claim, attempt, settle (queue rules 4 to 6, 8, 12, 14)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tests.model.checker import Move
from tests.model.follow_up import parts_of, steps_after
from tests.model.rules import Rules
from tests.model.server import (
    excuse,
    find,
    forget_gone,
    is_alive,
    is_open,
    is_untouched,
    remove,
    spend,
    with_account,
    with_failed,
    with_sender,
)
from tests.model.state import (
    Account,
    Job,
    Kept,
    Record,
    Sender,
    State,
    Step,
    Walk,
)
from tests.model.stores import STORES, words_of

ACK = Step("ack")


def sender_moves(state: State, walk: Walk, rules: Rules) -> Iterator[Move[State]]:
    for number, sender in enumerate(state.senders):
        if sender.is_stopped:
            yield Move(f"sender {number} goes on", _resumed(state, number, rules))
        elif sender.record is None:
            yield from _claims(state, number, walk, rules)
        else:
            yield from _work(state, number, sender, walk, rules)
        if sender.record is not None or sender.memory:
            yield from _faults(state, number, sender, rules)


def _faults(state: State, number: int, sender: Sender, rules: Rules) -> Iterator[Move[State]]:
    """Killed, or stopped for longer than ack_wait (a network that is cut looks the same)."""
    excused = state
    if sender.record is not None and is_open(sender, rules):
        excused = excuse(state, sender.record.job)
    if state.budget.crash:
        after = with_sender(spend(excused, "crash"), number, Sender(epoch=state.epoch))
        yield Move(f"sender {number} is killed", after, is_fault=True)
    if state.budget.stop and sender.record is not None and not sender.is_stopped:
        after = with_sender(spend(excused, "stop"), number, sender._replace(is_stopped=True))
        yield Move(f"sender {number} is stopped; its claim runs out", after, is_fault=True)


def _resumed(state: State, number: int, rules: Rules) -> State:
    sender = state.senders[number]
    is_unsure = sender.is_unsure or rules.lost_claims_stay_lost
    going_on = sender._replace(is_stopped=False, is_unsure=is_unsure, has_looked=False)
    return _uncertain(state, number, going_on, rules)


def _uncertain(state: State, number: int, sender: Sender, rules: Rules) -> State:
    if rules.lets_go_of_lost_claims and sender.is_unsure and is_untouched(sender):
        return with_sender(state, number, _idle(sender))
    return with_sender(state, number, sender)


def _idle(sender: Sender, kept: Record | None = None) -> Sender:
    memory = sender.memory
    if kept is not None:
        memory = tuple(sorted((*memory, Kept(kept, ()))))
    return Sender(epoch=sender.epoch, memory=memory)


def _holds(state: State, sender: Sender, record: Record) -> bool:
    return (
        sender.record == record
        and sender.epoch == state.epoch
        and not sender.is_stopped
        and not sender.is_unsure
    )


def _claims(state: State, number: int, walk: Walk, rules: Rules) -> Iterator[Move[State]]:
    for record in state.records:
        if any(_holds(state, sender, record) for sender in state.senders):
            continue
        others = [other for other in state.senders if other.record == record]
        for words, steps in _first_steps(state, number, record, walk, rules):
            chosen = (ACK,) if others and not rules.works_on_what_comes_again else steps
            memory = tuple(kept for kept in state.senders[number].memory if kept.record != record)
            claimed = Sender(record, state.epoch, chosen, memory=memory)
            job = record.job
            what = "resend of " if job.resend else "release of " if job.release else ""
            yield Move(
                f"sender {number} claims {what}{words_of(job)} from {record.stream}"
                f" {record.sequence}{words}",
                with_sender(state, number, claimed),
            )


def _first_steps(
    state: State, number: int, record: Record, walk: Walk, rules: Rules
) -> Iterator[tuple[str, tuple[Step, ...]]]:
    for kept in state.senders[number].memory:
        if kept.record == record:
            yield ", which it settled before", (ACK,)
            return
    job = record.job
    if job.resend:
        yield "", (Step("mark"), Step("attempt"))
        return
    parts = parts_of(job, walk, rules)
    if parts:
        yield ", whose recipients have several routes", parts
        return
    if walk.paces and record.stream == "in":
        steps = _paced(state, job, rules)
        if steps:
            yield "", steps
        return
    yield "", (Step("attempt"),)
    if record.stream == "lane" and not job.release and job.hop < walk.moves:
        moved = job._replace(hop=job.hop + 1)
        yield ", which is not due", (Step("lane", moved, "move"), Step("ack", why="move"))


def _paced(state: State, job: Job, rules: Rules) -> tuple[Step, ...]:
    """A job waits for its turn, but not for ever; that time passes is not told apart here."""
    turn = state.submissions[job.submission].pace
    if turn == job.batch or (rules.pace_is_advice and rules.pace_waits_are_bounded):
        return (Step("attempt"),)
    if turn == -1:
        return (Step("attempt"),) if rules.pace_is_advice else (ACK,)
    return ()


def _work(
    state: State, number: int, sender: Sender, walk: Walk, rules: Rules
) -> Iterator[Move[State]]:
    record = sender.record
    assert record is not None
    is_void = sender.epoch != state.epoch
    if (
        is_void
        and rules.acks_know_the_epoch
        and (sender.steps[0].kind == "ack" or is_untouched(sender))
    ):
        after = with_sender(state, number, Sender(epoch=state.epoch))
        yield Move(f"sender {number} forgets a claim of a queue that is lost", after)
        return
    if (sender.is_unsure or is_void) and rules.lets_go_of_lost_claims and is_untouched(sender):
        after = with_sender(state, number, _idle(sender))
        yield Move(f"sender {number} lets go of a claim that it may have lost", after)
        return
    yield from _step(state, number, sender, walk, rules)


def _step(
    state: State, number: int, sender: Sender, walk: Walk, rules: Rules
) -> Iterator[Move[State]]:
    step, record = sender.steps[0], sender.record
    assert record is not None
    if step.kind == "attempt":
        sending = with_sender(state, number, sender._replace(steps=(Step("sending"),)))
        yield Move(f"sender {number} begins to send {words_of(record.job)}", sending)
    elif step.kind == "sending":
        yield from _attempt(state, number, record.job, walk, rules)
    elif step.kind == "ack":
        yield from _ack(state, number, sender)
    elif step.kind == "mark":
        yield from _mark(state, number, sender, rules)
    elif _must_look(state, sender, step, rules):
        yield _look(state, number, sender, record)
    elif step.kind == "look":
        yield Move(f"sender {number} is sure of its record", _advanced(state, number))
    else:
        yield from _store(state, number, sender, step, rules)


def _look(state: State, number: int, sender: Sender, record: Record) -> Move[State]:
    # A record of a queue that is lost is not looked for: this process has the only copy left.
    if find(state, record) != record:
        after = with_sender(state, number, _idle(sender))
        return Move(f"sender {number} finds that another settled its record", after)
    if sender.steps[0].kind == "look":
        return Move(f"sender {number} finds its record there", _advanced(state, number))
    looked = with_sender(state, number, sender._replace(has_looked=True))
    return Move(f"sender {number} finds its record there, and goes on", looked)


def _must_look(state: State, sender: Sender, step: Step, rules: Rules) -> bool:
    """Whether it was not looked just now whether the record is still there."""
    stores = step.kind in {"body", "failed", "lane", "captured", "done"}
    return (
        (sender.is_unsure or rules.looks_when_sure)
        and sender.epoch == state.epoch
        and not sender.has_looked
        and (step.kind == "look" or (stores and rules.looks_before_each_store))
    )


def _attempt(
    state: State, number: int, job: Job, walk: Walk, rules: Rules
) -> Iterator[Move[State]]:
    if walk.captures and not job.release:
        choices: Iterator[tuple[str, ...]] = iter([("captured",) * len(job.recipients)])
    elif job.body and not state.submissions[job.submission].body:
        choices = iter([("unreadable",) * len(job.recipients)])
    else:
        silent = ("silent",) if state.budget.silence else ()
        choices = itertools.product(*(walk.possible(who) + silent for who in job.recipients))
    for outcomes in choices:
        after, is_fault = state, False
        told = []
        for recipient, outcome in zip(job.recipients, outcomes, strict=True):
            if outcome in {"sent", "silent"}:
                after = with_account(after, job.submission, recipient, _taken)
            if outcome == "silent":
                if not after.budget.silence:
                    break
                is_fault = True
                after = spend(after, "silence")
                if rules.silence_is_excused:
                    after = excuse(after, job._replace(recipients=(recipient,)))
            told.append("deferred" if outcome in {"silent", "unreadable"} else outcome)
        else:
            sender = after.senders[number]
            after = _ended_release(after, job, tuple(told), walk)
            steps = steps_after(job, tuple(told), walk, rules)
            words = ", ".join(
                f"{recipient} {outcome}"
                for recipient, outcome in zip(job.recipients, outcomes, strict=True)
            )
            after = with_sender(after, number, sender._replace(steps=steps))
            yield Move(f"sender {number} attempts {words_of(job)}: {words}", after, is_fault)


def _ended_release(state: State, job: Job, told: tuple[str, ...], walk: Walk) -> State:
    """A release has come to an end for those that are not deferred again."""

    def ended(account: Account) -> Account:
        left = tuple(other for other in account.owed if other != job.release)
        return account._replace(owed=left)

    for recipient, outcome in zip(job.recipients, told, strict=True):
        if job.release and (outcome != "deferred" or job.attempt >= walk.attempts):
            state = with_account(state, job.submission, recipient, ended)
    return state


def _taken(account: Account) -> Account:
    return account._replace(delivered=True, repeats_left=account.repeats_left - 1)


def _advanced(state: State, number: int) -> State:
    sender = state.senders[number]
    steps = sender.steps[1:]
    after = sender._replace(steps=steps, has_looked=False) if steps else _idle(sender)
    return with_sender(state, number, after)


def _ack(state: State, number: int, sender: Sender) -> Iterator[Move[State]]:
    record = sender.record
    assert record is not None
    stored = find(state, record)
    is_same_epoch = sender.epoch == state.epoch
    if sender.is_unsure and is_same_epoch and stored == record:
        kept = with_sender(state, number, _idle(sender, record))
        yield Move(f"sender {number} acks, gets no answer, and lets go", kept)
        if not any(_holds(state, other, record) for other in state.senders):
            return
    after = forget_gone(_advanced(remove(state, record), number))
    yield Move(f"sender {number} acks {record.stream} {record.sequence}", after)


def _mark(state: State, number: int, sender: Sender, rules: Rules) -> Iterator[Move[State]]:
    """Look whether the resend is current, and make the failed record its own."""
    record = sender.record
    assert record is not None
    job = record.job
    recipient = job.recipients[0]
    failed = state.submissions[job.submission].failed[recipient]
    going_on = _advanced(state, number)
    is_named = failed.kind == "failed" and failed.version == job.resend
    if failed.mark != record.sequence and is_alive(state, failed.mark):
        is_named = is_named and not rules.marked_is_not_resent
    if not rules.resend_is_current:
        yield Move(f"sender {number} does not look at the failed record", going_on)
    elif rules.resend_is_marked and is_named:
        marked = failed._replace(version=failed.version + 1, mark=record.sequence)
        after = with_failed(state, job.submission, recipient, marked)
        words = f"sender {number} marks the failed record of {recipient} as resent by"
        words += f" lane {record.sequence}"
        yield Move(words, _advanced(after, number))
        if state.budget.lost_reply:
            yield Move(f"{words}; the ack is lost", spend(after, "lost_reply"), is_fault=True)
    elif is_named or (
        rules.resend_is_marked and failed.kind == "failed" and failed.mark == record.sequence
    ):
        yield Move(f"sender {number} finds the failed record its resend's", going_on)
    else:
        dropped = with_sender(state, number, sender._replace(steps=(ACK,)))
        yield Move(f"sender {number} finds the resend stale", dropped)


def _store(
    state: State, number: int, sender: Sender, step: Step, rules: Rules
) -> Iterator[Move[State]]:
    record = sender.record
    assert record is not None
    for words, after in STORES[step.kind](state, record, step, rules):
        yield Move(f"sender {number} {words}", _advanced(after, number))
        if state.budget.lost_reply and step.kind not in {"event", "pace"}:
            repeat = (step._replace(is_repeat=True), *sender.steps[1:])
            going_on = sender._replace(steps=repeat, has_looked=False)
            lost = with_sender(spend(after, "lost_reply"), number, going_on)
            yield Move(f"sender {number} {words}; the ack is lost", lost, is_fault=True)
