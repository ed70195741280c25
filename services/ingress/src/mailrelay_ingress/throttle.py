"""Slow down who guesses passwords: by address, and by the name that is guessed at.

A failed guess makes the next one wait longer; an address that goes on is turned away for a while. A
name is only ever slowed down, never locked: or anybody could lock out anybody. What succeeded
lately does not come here at all (`authentication` remembers it), so a client with the right
password is not slowed down by others' guesses once it was let in.

Time is an argument. The tables are bounded: at the bound the one that failed longest ago is
forgotten, so that memory does not grow with the number of addresses and names that are tried.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

from mailrelay.config.networks import parse_address

FREE_GUESSES_OF_ADDRESS = 5  # then 1, 2, 4, 8, 16 s
MAX_GUESSES_OF_ADDRESS = 10  # then nothing is checked
FREE_GUESSES_AT_NAME = 10  # then 1, 2, 4, 4 … s
MAX_PAUSE_AT_NAME_SECONDS = 4.0
FORGET_SECONDS = 15 * 60.0  # after the last failure
MAX_ENTRIES = 10_000  # in each of the two tables; some 2 MB
_IPV6_PREFIX = 64  # what one customer has


@dataclass(slots=True)
class _Failures:
    count: int
    last_at: float
    free_at: float  # when the next guess may be checked


class GuessThrottle:
    """Remembers failures. Times are seconds of one steady clock."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._by_address: OrderedDict[bytes, _Failures] = OrderedDict()
        self._by_name: OrderedDict[bytes, _Failures] = OrderedDict()
        self._max_entries = max_entries

    @property
    def entries(self) -> int:
        """How many addresses and names are remembered."""
        return len(self._by_address) + len(self._by_name)

    def is_turned_away(self, address: str, now: float) -> bool:
        """Tell whether the address has guessed too often."""
        found = _known(self._by_address, _address_key(address), now)
        return found is not None and found.count >= MAX_GUESSES_OF_ADDRESS

    def pause(self, address: str, name: bytes, now: float) -> float:
        """Return how many seconds must pass before a guess may be checked."""
        found = (
            _known(self._by_address, _address_key(address), now),
            _known(self._by_name, _name_key(name), now),
        )
        return max(0.0, *(each.free_at - now for each in found if each is not None), 0.0)

    def failed(self, address: str, name: bytes, now: float) -> None:
        """Note a wrong guess."""
        of_address = self._note(self._by_address, _address_key(address), now)
        of_address.free_at = now + _pause(of_address.count - FREE_GUESSES_OF_ADDRESS, 16.0)
        at_name = self._note(self._by_name, _name_key(name), now)
        pause = _pause(at_name.count - FREE_GUESSES_AT_NAME, MAX_PAUSE_AT_NAME_SECONDS)
        at_name.free_at = now + pause

    def succeeded(self, name: bytes) -> None:
        """Forget the failures at a name: who knows its password is there.

        The address keeps its failures: it may have one password and guess at others.
        """
        self._by_name.pop(_name_key(name), None)

    def _note(self, table: OrderedDict[bytes, _Failures], key: bytes, now: float) -> _Failures:
        found = _known(table, key, now) or _Failures(0, now, now)
        found.count += 1
        found.last_at = now
        table[key] = found
        table.move_to_end(key)
        if len(table) > self._max_entries:
            table.popitem(last=False)
        return found


def _known(table: OrderedDict[bytes, _Failures], key: bytes, now: float) -> _Failures | None:
    found = table.get(key)
    if found is not None and now - found.last_at > FORGET_SECONDS:
        del table[key]
        return None
    return found


def _pause(failures_beyond: int, longest: float) -> float:
    return 0.0 if failures_beyond < 0 else min(2.0 ** min(failures_beyond, 10), longest)


def _address_key(text: str) -> bytes:
    address = parse_address(text)
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        return ipaddress.ip_network((address, _IPV6_PREFIX), strict=False).network_address.packed
    return address.packed if address is not None else text.encode()


def _name_key(name: bytes) -> bytes:
    return hashlib.blake2b(name, digest_size=16).digest()  # names may be long
