from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelay.mail.next_hop import format_next_hop, parse_next_hop
from mailrelay.mail.wire_form import DotUnstuffer


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n.", b"\r\n.."]), max_size=30),
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
)
def test_content_comes_back_as_it_was_before_its_dots_were_stuffed(
    words: list[bytes], sizes: list[int]
) -> None:
    content = b"".join(words)
    wire = re.sub(rb"(\A|(?<=\r\n))\.", b"..", content)
    unstuffer, got, at, turn = DotUnstuffer(), b"", 0, 0
    while at < len(wire):
        size = sizes[turn % len(sizes)]
        got += unstuffer.feed(wire[at : at + size])
        at, turn = at + size, turn + 1
    assert got == content


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("mx.example.com:2525", "mx.example.com", 2525),
        ("mx.example.com", "mx.example.com", 25),
        ("192.0.2.7:26", "192.0.2.7", 26),
        ("[2001:db8::1]:465", "2001:db8::1", 465),
        ("[::1]", "::1", 25),
        ("::1", "::1", 25),
        (" localhost:65535 ", "localhost", 65535),
    ],
)
def test_a_next_hop_is_read_as_people_write_it(text: str, host: str, port: int) -> None:
    assert parse_next_hop(text) == (host, port)
    assert parse_next_hop(format_next_hop(host, port)) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":25", "mx:", "mx:0", "mx:65536", "mx:x", "mx: 25", "a b:25", "-a:25", "[mx]:25"),
        *("[::1]25", "[::1", "[::1]:", "1.2.3:25", "256.1.1.1", "mx\n:25", "mx/:25", "u@mx:25"),
    ],
)
def test_what_is_no_next_hop_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no next hop"):
        parse_next_hop(text)
