from __future__ import annotations

import re
from dataclasses import replace
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelay.mail.header import (
    MAX_HEADER_BYTES,
    Hop,
    address_literal,
    fields_on_top,
    read_header,
    received_field,
    with_protocol,
)
from tests.lib.jobs import queue_id
from tests.support.messages import every_shape

HOP = Hop("client.test", "192.0.2.7", "relay.test", True, False, False, "")  # noqa: FBT003
NOW = 1_700_000_000.0
ID = queue_id(7)
TLS = "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384"

# RFC 5321 section 4.4, with the comments that CFWS allows where ours stands.
LITERAL = r"\[(?:\d+\.\d+\.\d+\.\d+|IPv6:[0-9a-fA-F:.]+)\]"
DOMAIN = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
FWS = r"(?:\r\n)?[ \t]+"
STAMP = re.compile(
    rf"Received: from (?:{DOMAIN}|{LITERAL}) \({LITERAL}\)"
    rf"{FWS}by {DOMAIN}{FWS}?with (?:SMTP|ESMTP|ESMTPA|ESMTPS|ESMTPSA|UTF8SMTPS?A?)"
    rf"(?:{FWS}\(using [^()\\\r\n]+\))?"
    rf"{FWS}id [0-9a-z]{{22}}"
    rf"(?:{FWS}for <[^\r\n]*>)?;"
    rf"{FWS}[A-Z][a-z][a-z], \d\d [A-Z][a-z][a-z] \d{{4}} \d\d:\d\d:\d\d [+-]\d{{4}}\r\n"
)


def stamp(hop: Hop, *recipients: str) -> str:
    field = received_field(hop, ID, recipients or ("a@b.test",), NOW).decode()
    assert STAMP.fullmatch(field), field
    return field


@pytest.mark.parametrize(
    ("esmtp", "smtputf8", "tls", "authenticated", "keyword"),
    [
        (False, False, "", False, "SMTP"),
        (True, False, "", False, "ESMTP"),
        (True, False, "", True, "ESMTPA"),
        (True, False, TLS, False, "ESMTPS"),
        (True, False, TLS, True, "ESMTPSA"),
        (True, True, "", False, "UTF8SMTP"),
        (True, True, "", True, "UTF8SMTPA"),
        (True, True, TLS, False, "UTF8SMTPS"),
        (True, True, TLS, True, "UTF8SMTPSA"),
    ],
)
def test_the_protocol_keyword_is_that_of_rfc_3848_and_6531(
    esmtp: bool,
    smtputf8: bool,
    tls: str,
    authenticated: bool,
    keyword: str,
) -> None:
    hop = replace(HOP, esmtp=esmtp, smtputf8=smtputf8, tls=tls, authenticated=authenticated)
    assert with_protocol(hop) == keyword
    assert f" with {keyword}\r\n" in stamp(hop)


@pytest.mark.parametrize(
    ("address", "literal"),
    [
        ("192.0.2.7", "[192.0.2.7]"),
        ("::1", "[IPv6:::1]"),
        ("fe80::1%eth0", "[IPv6:fe80::1]"),
        ("::ffff:192.0.2.7", "[IPv6:::ffff:192.0.2.7]"),
    ],
)
def test_a_peers_address_is_written_as_a_literal(address: str, literal: str) -> None:
    assert address_literal(address) == literal
    assert f"({literal})" in stamp(replace(HOP, peer_address=address))


@pytest.mark.parametrize(
    "helo", ["", "a b", "x (y)", "x;", "x\r", "ü.test", "[IPv6:::1%) x (]", "-", "x" * 300]
)
def test_an_odd_helo_name_gives_way_to_the_address(helo: str) -> None:
    assert "from [192.0.2.7] ([192.0.2.7])" in stamp(replace(HOP, helo=helo))


@pytest.mark.parametrize("helo", ["client.test", "[192.0.2.9]", "[IPv6:2001:db8::1]", "a_b"])
def test_a_good_helo_name_is_repeated(helo: str) -> None:
    assert f"from {helo} (" in stamp(replace(HOP, helo=helo))


@given(st.text(max_size=40))
def test_no_helo_name_breaks_the_received_field(helo: str) -> None:
    stamp(replace(HOP, helo=helo))


def test_a_recipient_is_named_only_when_it_is_the_only_one() -> None:
    assert "for <a@b.test>;" in stamp(HOP, "a@b.test")
    assert "for" not in stamp(HOP, "a@b.test", "c@d.test")
    assert "c@d.test" not in stamp(HOP, "a@b.test", "c@d.test")


def test_the_received_field_has_the_time_of_acceptance() -> None:
    date = stamp(replace(HOP, tls=TLS)).rpartition(";")[2].strip()
    assert parsedate_to_datetime(date).timestamp() == NOW


HEAD = b"Subject: x\r\nFrom: a@b.test\r\n"


@pytest.mark.parametrize(
    ("content", "date", "message_id"),
    [
        (HEAD + b"\r\ntext", False, False),
        (HEAD + b"Date: x\r\n\r\n", True, False),
        (HEAD + b"dAtE : x\r\nMESSAGE-ID:\r\n <x@y>\r\n\r\n", True, True),
        (HEAD + b"X-Date: x\r\nDated: y\r\nOld-Message-ID: z\r\n\r\n", False, False),
        (HEAD + b"X: 1\r\n Date: folded\r\n\r\n", False, False),
        (HEAD + b"\r\nDate: body\r\nMessage-ID: <body@x>\r\n", False, False),
        (b"Date: x\r\nMessage-ID: <a@b>", True, True),
        (b"", False, False),
        (b"\r\nDate: body\r\n", False, False),
    ],
)
def test_date_and_message_id_are_found_only_in_the_header_section(
    content: bytes,
    date: bool,
    message_id: bool,
) -> None:
    section = read_header(content)
    assert (section.has_date, section.has_message_id) == (date, message_id)
    top = fields_on_top(section, b"R: 1\r\n", ID, "relay.test", NOW)
    assert (b"Date: " in top) is not date
    assert (f"Message-ID: <{ID}@relay.test>\r\n".encode() in top) is not message_id
    assert top.startswith(b"R: 1\r\n")


@pytest.mark.parametrize("content", [b"Hello\r\n", b" folded\r\n\r\n", b"a b: c\r\n", b"..\r\n"])
def test_content_without_a_header_section_is_set_off_by_an_empty_line(content: bytes) -> None:
    section = read_header(content)
    assert not section.begins_with_field
    assert fields_on_top(section, b"R: 1\r\n", ID, "x", NOW).endswith(b"\r\n\r\n")


@pytest.mark.parametrize("content", [b"\r\nHello\r\n", b"", b"X:\r\n\r\n", b"X : y\r\n\r\n"])
def test_no_line_is_put_before_content_that_needs_none(content: bytes) -> None:
    section = read_header(content)
    assert not fields_on_top(section, b"R: 1\r\n", ID, "x", NOW).endswith(b"\r\n\r\n")


def test_received_fields_are_counted_whatever_their_case_and_folding() -> None:
    head = b"Received: a\r\nRECEIVED : b\r\n\tReceived: folded\r\nX-Received: c\r\n"
    assert read_header(head + b"\r\nReceived: body\r\n").received_count == 2


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", True),
        (b"TraceParent:00-" + b"A" * 32 + b"-" + b"b" * 16 + b"-01  ", True),
        (b"traceparent: 01-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", False),
        (b"traceparent: 00-" + b"a" * 31 + b"-" + b"b" * 16 + b"-01", False),
        (b"traceparent: rubbish", False),
    ],
)
def test_a_traceparent_is_found_in_the_header(line: bytes, found: bool) -> None:
    assert bool(read_header(HEAD + line + b"\r\n\r\n").traceparent) is found
    assert not read_header(HEAD + b"\r\n" + line + b"\r\n").traceparent


def test_a_header_section_longer_than_the_limit_is_read_so_far() -> None:
    long = HEAD + b"X: y\r\n" * (MAX_HEADER_BYTES // 6)
    section = read_header(long + b"Date: too far\r\n\r\n")
    assert section.begins_with_field
    assert not section.has_date


@pytest.mark.parametrize("message", every_shape(), ids=lambda message: message.name)
def test_what_goes_on_top_leaves_every_shape_of_mail_intact(message: object) -> None:
    content = message.content  # type: ignore[attr-defined]
    section = read_header(content)
    top = fields_on_top(section, received_field(HOP, ID, ("a@b.test",), NOW), ID, "r.test", NOW)
    whole = top + content
    head, blank, body = whole.partition(b"\r\n\r\n")
    field = rb"[!-9;-~]+[ \t]*:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*"
    assert re.fullmatch(rb"(?:" + field + rb")+", head + b"\r\n" if blank else head)
    if not content.startswith(b"\r\n"):
        assert body == content.partition(b"\r\n\r\n")[2]


@given(st.binary(max_size=300))
def test_reading_a_header_never_fails(content: bytes) -> None:
    read_header(content)
