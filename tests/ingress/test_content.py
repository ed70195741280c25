"""The scanner against a reading of the whole at once, whatever the chunks."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailrelay_ingress.content import ContentScanner, Fault

LINE = 1000  # with its CRLF


def scan(chunks: list[bytes]) -> tuple[ContentScanner, bytes]:
    scanner, kept = ContentScanner(), b""
    for number, chunk in enumerate(chunks):
        kept += scanner.feed(chunk)
        if scanner.ended:
            scanner.rest += b"".join(chunks[number + 1 :])
            break
    return scanner, kept


def faults_of(content: bytes) -> set[Fault]:
    """Everything wrong with complete content, read naively."""
    found = set()
    if re.search(rb"\r(?!\n)|(?<!\r)\n", content):
        found.add(Fault.BARE_LINE_END)
    if b"\0" in content:
        found.add(Fault.NUL)
    for line in content.split(b"\n"):
        if len(line) + 1 > LINE + line.startswith(b"."):
            found.add(Fault.LINE_TOO_LONG)
    return found


def chunked(octets: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(octets) + 1) for cut in cuts} | {0, len(octets)})
    return [octets[a:b] for a, b in itertools.pairwise(places)]


PIECES = st.sampled_from(
    [b"\r\n", b"\r", b"\n", b".", b"..", b"x", b"\0", b"\r\n.\r\n", b"\r\n.", b"hello", b"\xff"]
    + [b"y" * n for n in (990, 996, 997, 998, 999, 1000, 1001, 1003)]
)
STREAMS = st.lists(PIECES, max_size=25).map(b"".join)
CUTS = st.lists(st.integers(0, 10_000), max_size=20)


@given(STREAMS, CUTS)
@example(b".\r\nQUIT\r\n", [1])
@example(b"\r\n.\r\n", [1, 2, 3, 4])
@example(b"." + b"y" * 998 + b"\r\n.\r\n", [999])
def test_the_scanner_agrees_with_a_naive_reading(octets: bytes, cuts: list[int]) -> None:
    scanner, kept = scan(chunked(octets, cuts))
    framed = b"\r\n" + octets
    end = framed.find(b"\r\n.\r\n")
    if end < 0:
        assert not scanner.ended
        assert scanner.rest == b""
        whole = octets
    else:
        whole = octets[: max(0, end)]
        assert scanner.ended
        assert scanner.rest == framed[end + 5 :]
    found = faults_of(whole)
    if scanner.ended:
        assert (scanner.fault is None) == (not found), (scanner.fault, found)
        if not found:
            assert kept == whole
    if scanner.fault is not None:
        # Without an end the last CR may yet get its LF, and the naive reading calls it bare.
        assert scanner.fault in found
    assert whole.startswith(kept)


@given(STREAMS, CUTS)
def test_only_the_last_octets_may_lag_behind(octets: bytes, cuts: list[int]) -> None:
    scanner, kept = scan(chunked(octets, cuts))
    if scanner.fault is None and not scanner.ended:
        assert len(octets) - len(kept) <= 6


@given(st.lists(st.sampled_from([b"x", b".", b"\r\n", b"word"])).map(b"".join), CUTS)
def test_the_verdict_does_not_depend_on_the_chunks(octets: bytes, cuts: list[int]) -> None:
    wire = octets + b"\r\n.\r\nNEXT"
    one, kept_one = scan([wire])
    other, kept_other = scan(chunked(wire, cuts))
    assert (one.ended, one.fault, one.rest) == (other.ended, other.fault, other.rest)
    assert kept_one == kept_other


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"x" * 998, None),
        (b"x" * 999, Fault.LINE_TOO_LONG),
        (b"." + b"x" * 998, None),
        (b"." + b"x" * 999, Fault.LINE_TOO_LONG),
        (b"." * 999, None),
        (b"." * 1000, Fault.LINE_TOO_LONG),
    ],
)
@pytest.mark.parametrize("before", [b"", b"short\r\n", b"y" * 998 + b"\r\n"])
@pytest.mark.parametrize("step", [1, 7, 1000, 10_000])
def test_a_line_may_have_998_octets_and_a_stuffed_dot(
    line: bytes, fault: Fault | None, before: bytes, step: int
) -> None:
    wire = before + line + b"\r\n.\r\n"
    scanner, _ = scan([wire[at : at + step] for at in range(0, len(wire), step)])
    assert scanner.ended
    assert scanner.fault is fault


@pytest.mark.parametrize(
    "octets", [b"\n", b"\r.", b"a\n.\n", b"a\n.\r\n", b"a\r.\r\n", b"\r\n.\n", b"a\r\r\n"]
)
def test_a_bare_line_end_is_seen_without_waiting_for_more(octets: bytes) -> None:
    scanner = ContentScanner()
    scanner.feed(octets)
    assert scanner.fault is Fault.BARE_LINE_END


def test_an_endless_line_is_found_before_its_end() -> None:
    scanner = ContentScanner()
    for _ in range(2):
        scanner.feed(b"x" * 600)
    assert scanner.fault is Fault.LINE_TOO_LONG
    assert scanner.feed(b"y" * 10_000) == b""
