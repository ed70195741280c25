"""Which failed records are meant: what people may ask for, checked. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from mailrelay.mail.ids import is_queue_id

KEYS = ("id", "sender", "recipient_domain", "reply_code", "since", "until")
MAX_IDS = 1000  # SQLite takes some 32,000 variables; nobody types more than this
_CODE = re.compile(r"[45]\d\d")
_ENHANCED = re.compile(r"[45]\.\d{1,3}\.\d{1,3}")
_RECIPIENT = re.compile(r"\d{1,9}")
_SECONDS = re.compile(r"\d{9,11}(\.\d+)?")  # from 1973 on; fewer digits may be a date
_MAX_TEXT = 1000


class FilterError(ValueError):
    """A filter that cannot be meant; one line that names the key and what is allowed."""


@dataclass(frozen=True, slots=True)
class FailedFilter:
    """Everything that is set must match; nothing set means all. Times are seconds since 1970."""

    ids: tuple[tuple[str, int | None], ...] = ()  # queue id, and the recipient's number or None
    sender: str | None = None
    recipient_domain: str = ""
    reply_code: str = ""  # `451`
    enhanced_code: str = ""  # `4.7.1`
    since: float | None = None  # of the failure
    until: float | None = None

    def condition(self) -> tuple[str, list[object]]:
        """Return the condition on the rows of `failed_index`, and its values."""
        parts: list[str] = []
        values: list[object] = []
        for column, comparison, value in (
            ("reverse_path", "=", self.sender),
            ("domain", "=", self.recipient_domain or None),
            ("code", "=", int(self.reply_code) if self.reply_code else None),
            ("enhanced", "=", self.enhanced_code or None),
            ("failed_at", ">=", self.since),
            ("failed_at", "<=", self.until),
        ):
            if value is not None:
                parts.append(f"{column} {comparison} ?")
                values.append(value)
        if self.ids:
            either = []
            for queue_id, recipient in self.ids:
                if recipient is None:
                    either.append("submission = ?")
                    values.append(queue_id)
                else:
                    either.append("(submission = ? AND recipient = ?)")
                    values += [queue_id, recipient]
            parts.append(f"({' OR '.join(either)})")
        return " AND ".join(parts) or "1", values


def parse_filter(asked: Mapping[str, object]) -> FailedFilter:
    """Read a filter. Raises FilterError."""
    unknown = sorted(set(asked) - set(KEYS))
    if unknown:
        raise FilterError(f"{unknown[0]}: no such filter; there are {', '.join(KEYS)}")
    code = _text(asked, "reply_code")
    if code and not (_CODE.fullmatch(code) or _ENHANCED.fullmatch(code)):
        raise FilterError(f"reply_code: {code!r} is no 4xx or 5xx code such as 451, 4.7.1 or 550")
    sender = _text(asked, "sender")
    if sender == "<>":
        sender = ""
    parsed = FailedFilter(
        ids=tuple(_ids(asked.get("id"))),
        sender=sender,
        recipient_domain=(_text(asked, "recipient_domain") or "").lower().removeprefix("@"),
        reply_code=code if code and _CODE.fullmatch(code) else "",
        enhanced_code=code if code and _ENHANCED.fullmatch(code) else "",
        since=_time(asked, "since"),
        until=_time(asked, "until"),
    )
    if parsed.since is not None and parsed.until is not None and parsed.since > parsed.until:
        raise FilterError("since: must not be later than until")
    return parsed


def parse_id(text: str) -> tuple[str, int | None]:
    """Read `<queue id>` or `<queue id>/<recipient no.>`. Raises FilterError."""
    queue_id, slash, number = text.partition("/")
    if not is_queue_id(queue_id) or (slash and not _RECIPIENT.fullmatch(number)):
        raise FilterError(
            f"id: {text[:80]!r} is no queue id, nor one with /<recipient number> behind it"
        )
    return queue_id, int(number) if slash else None


def _ids(asked: object) -> list[tuple[str, int | None]]:
    if asked is None:
        return []
    several = asked if isinstance(asked, list) else [asked]
    texts = [one for one in several if isinstance(one, str)]
    if not several or len(several) > MAX_IDS or len(texts) != len(several):
        raise FilterError(f"id: must be a queue id or a list of 1 to {MAX_IDS} of them")
    return [parse_id(one) for one in texts]


def _text(asked: Mapping[str, object], key: str) -> str | None:
    value = asked.get(key)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # "reply_code": 451
    if not isinstance(value, str) or not value or len(value) > _MAX_TEXT:
        raise FilterError(f"{key}: must be a text that is not empty, is {value!r:.80}")
    return value


def _time(asked: Mapping[str, object], key: str) -> float | None:
    """Read RFC 3339 (a time without an offset is UTC), or seconds since 1970."""
    value = asked.get(key)
    if value is None:
        return None
    if not isinstance(value, bool) and _SECONDS.fullmatch(str(value)):
        return float(str(value))
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        raise FilterError(f"{key}: {value!r:.80} is no time such as 2026-11-25T08:30:00Z") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
