"""An SMTP reply: a code, an enhanced status code (RFC 3463) and words for people."""

from __future__ import annotations

import re
from dataclasses import dataclass

# A reply's text is kept with each recipient for days, so an upstream may not fill the queue by it.
MAX_TEXT_CHARACTERS = 512
_PERMANENT = 5  # the first digit
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s|$)")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered; `enhanced` is empty when it gave no enhanced status code."""

    code: int
    enhanced: str
    text: str

    @classmethod
    def parse(cls, code: int, text: str) -> Reply:
        """Take the enhanced status code off the front of an upstream's text, and bound the text."""
        match = _ENHANCED.match(text)
        enhanced = match.group(1) if match else ""
        words = _UNPRINTABLE.sub(" ", text[match.end() :] if match else text).strip()
        words = words.encode("utf-8", "replace").decode()  # an upstream may answer in any octets
        return cls(code, enhanced, words[:MAX_TEXT_CHARACTERS])

    @property
    def is_permanent(self) -> bool:
        """Whether the code is 5yz (RFC 5321 section 4.2.1)."""
        return self.code // 100 == _PERMANENT

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced, self.text) if part)
