"""Ready-made scripts. Each is deterministic: the same dialogue gets the same answers.

Scripts that choose by recipient hash the address with a seed, so that the
choice does not depend on the order in which sessions happen to run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from tests.support.replies import Reply
from tests.support.scripting import ACCEPT, Action, Context, Script, Stage

Recipient = str | Callable[[str], bool]

# What most servers say when they want the mail later (greylisting).
DEFERRAL = Reply(451, "4.7.1 Please try again later")
REFUSAL = Reply(550, "5.1.1 No such user here")


def accept_all(_stage: Stage, _context: Context) -> Action:
    """Take everything. The server knows this one and does not even call it."""
    return ACCEPT


def per_recipient(answers: Mapping[Recipient, Action | Sequence[Action]]) -> Script:
    """Answer RCPT by its address, or by a predicate over it; all else is accepted.

    A list of actions is for successive attempts, and its last one stays. An
    exact address goes before predicates, which are asked in their order.
    """
    exact = {key.lower(): value for key, value in answers.items() if isinstance(key, str)}
    asked = [(key, value) for key, value in answers.items() if not isinstance(key, str)]

    def script(stage: Stage, context: Context) -> Action:
        if stage is not Stage.RCPT:
            return ACCEPT
        found = exact.get(context.address.lower())
        if found is None:
            found = next((value for key, value in asked if key(context.address)), ACCEPT)
        if isinstance(found, Sequence):
            return found[min(context.nth, len(found)) - 1] if found else ACCEPT
        return found

    return script


def chosen(address: str, fraction: float, seed: int) -> bool:
    """Whether the address falls into the fraction; the same in every process."""
    digest = hashlib.blake2b(f"{seed}:{address}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def defer_fraction(
    fraction: float,
    seed: int = 0,
    *,
    first_attempt_only: bool = True,
    action: Action = DEFERRAL,
) -> Script:
    """Defer this fraction of recipients, at their first attempt or at every one."""

    def script(stage: Stage, context: Context) -> Action:
        if stage is not Stage.RCPT or (first_attempt_only and context.nth > 1):
            return ACCEPT
        return action if chosen(context.address, fraction, seed) else ACCEPT

    return script


def half_of_recipients(action: Action = REFUSAL) -> Script:
    """Answer every second RCPT of a transaction so, and accept the first."""
    seen: dict[int, int] = {}

    def script(stage: Stage, context: Context) -> Action:
        if stage is not Stage.RCPT:
            return ACCEPT
        position = seen.get(context.transaction, 0)
        seen[context.transaction] = position + 1
        return action if position % 2 else ACCEPT

    return script


def refuse_tls(reply: Reply = Reply(454, "4.7.0 TLS not available")) -> Script:  # noqa: B008 - a frozen value
    """Offer STARTTLS, then refuse it (RFC 3207 §4)."""
    return fail_at(Stage.STARTTLS, reply)


def fail_at(stage: Stage, action: Action, times: int | None = None) -> Script:
    """Do this at a stage, the first `times` times that it is reached, or always."""
    reached = 0

    def script(at: Stage, _context: Context) -> Action:
        nonlocal reached
        if at is not stage:
            return ACCEPT
        reached += 1
        return action if times is None or reached <= times else ACCEPT

    return script


def first_of(*scripts: Script) -> Script:
    """Ask all scripts in order; the first answer other than `Accept` stands.

    All are asked even after one has answered, so that each counts the same.
    """

    def script(stage: Stage, context: Context) -> Action:
        answers = [each(stage, context) for each in scripts]
        return next((answer for answer in answers if answer != ACCEPT), ACCEPT)

    return script
