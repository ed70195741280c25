"""Kubernetes' amounts: `10Gi`, `500m`, `1e3`, as numbers."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_FACTORS: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
# An exponent or a suffix, not both; `1E` is the suffix.
_AMOUNT = re.compile(
    r"(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:[eE](?P<power>[+-]?\d{1,2})|(?P<suffix>[KMGTPE]i|[numkMGTPE])?)",
    re.ASCII,
)


def amount(text: str) -> Decimal:
    """Return what an amount of Kubernetes' is. Raises ValueError, which says what was found."""
    match = _AMOUNT.fullmatch(text)
    if match is None or len(text) > 64:  # noqa: PLR2004 — nobody writes longer ones
        raise ValueError(f"{text[:64]!r} is no amount such as 500m, 512Mi or 10Gi")
    number = Decimal(match["number"])
    if match["power"]:
        return number.scaleb(int(match["power"]))
    return number * _FACTORS[match["suffix"] or ""]


def whole_bytes(text: str) -> int:
    """Return an amount as bytes, a part of one left out. Raises ValueError."""
    return int(amount(text))
