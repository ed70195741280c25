"""What an attempt leaves to store, in which order, and under which names (queue rules 4 and 5)."""

from __future__ import annotations

from tests.model.rules import Rules
from tests.model.state import Job, Name, Step, Walk


def steps_after(job: Job, outcomes: tuple[str, ...], walk: Walk, rules: Rules) -> tuple[Step, ...]:
    """Return what a sender does after an attempt, up to the ack."""
    by_outcome: dict[str, list[int]] = {}
    for recipient, outcome in zip(job.recipients, outcomes, strict=True):
        is_last = outcome == "deferred" and (bool(job.resend) or job.attempt >= walk.attempts)
        by_outcome.setdefault("refused" if is_last else outcome, []).append(recipient)
    failed = by_outcome.get("refused", [])
    deferred = tuple(by_outcome.get("deferred", []))
    captured = tuple(by_outcome.get("captured", []))
    is_moved = walk.content == "inline" and not job.body and bool(failed or deferred)
    rest = job._replace(body=job.body or is_moved)
    stores = [
        Step("failed", rest._replace(recipients=(recipient,), resend=0)) for recipient in failed
    ]
    if deferred:
        again = rest._replace(recipients=deferred, attempt=job.attempt + 1, hop=0)
        stores.append(Step("lane", again, "deferred"))
    if captured:
        stores.append(Step("captured", job._replace(recipients=captured)))
    if is_moved:
        stores.insert(0 if rules.body_before_record else len(stores), Step("body"))
    tombstone = [Step("done")] if job.resend and not failed else []
    if rules.tombstone_before_ack:
        stores += tombstone
    if rest.body:  # to the queue an event is nothing but the question that it prompts
        stores.append(Step("event"))
    if walk.paces:
        stores.append(Step("pace"))
    stores.insert(len(stores) if rules.ack_comes_last else 0, Step("ack"))
    if not rules.looks_before_each_store:
        stores.insert(0, Step("look"))
    if not rules.tombstone_before_ack:
        stores += tombstone
    return tuple(stores)


def parts_of(job: Job, walk: Walk, rules: Rules) -> tuple[Step, ...]:
    """Return how a job is divided, up to the ack; nothing when its recipients have one route."""
    by_route: dict[int, tuple[int, ...]] = {}
    for recipient in job.recipients:
        route = walk.routes[recipient] if walk.routes else 0
        by_route[route] = (*by_route.get(route, ()), recipient)
    if len(by_route) == 1:
        return ()
    is_moved = walk.content == "inline" and not job.body
    parts = [
        job._replace(recipients=recipients, body=job.body or is_moved)
        for recipients in by_route.values()
    ]
    whys = ("divided", *["part"] * (len(parts) - 1))
    stores = [Step("lane", part, why) for part, why in zip(parts, whys, strict=True)]
    if is_moved:
        stores.insert(0 if rules.body_before_record else len(stores), Step("body"))
    return (*stores, Step("ack", why="division"))


def name_of(job: Job, step: Step, rules: Rules) -> Name:
    """Return the message id of what `step` stores after an attempt of `job`."""
    rest = step.job
    assert rest is not None
    # A move is named by what it stores: the hop is the new one.
    hop = rest.hop if step.why == "move" and rules.names_have_hop else job.hop
    attempt = job.attempt
    if step.why == "move" and not rules.names_have_hop:
        # The name that the record was stored under when it was deferred.
        return _name(job, attempt - 1, "lane", rest, 0, rules)
    kind = "lane" if step.why == "deferred" else step.why or step.kind
    return _name(job, attempt, kind, rest, hop, rules)


def _name(job: Job, attempt: int, kind: str, rest: Job, hop: int, rules: Rules) -> Name:
    return (
        job.submission,
        job.batch,
        attempt if rules.names_have_attempt else 0,
        "divided" if kind == "part" else kind,
        rest.recipients if rules.names_have_recipients else (),
        hop,
        job.resend,
        job.release if rules.names_have_release else 0,
    )
