"""Addresses: what is taken, what is refused for which fault, and that nothing is changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelay.mail.address import (
    AddressError,
    AddressFault,
    Path,
    domain_of,
    is_helo_name,
    parse_path,
    same_mailbox,
)

SYNTAX = AddressFault.SYNTAX
UTF8 = AddressFault.NEEDS_SMTPUTF8


@pytest.mark.parametrize(
    ("text", "address", "parameters"),
    [
        ("<a@b.test>", "a@b.test", ""),
        ("<A.B+c@Sub.B.Test>", "A.B+c@Sub.B.Test", ""),
        ("<a@b.test> SIZE=1 BODY=8BITMIME", "a@b.test", "SIZE=1 BODY=8BITMIME"),
        ("<>", "", ""),
        ("<> SIZE=1", "", "SIZE=1"),
        ("<postmaster>", "postmaster", ""),
        ("<PostMaster> X=1", "PostMaster", "X=1"),
        ("<a@localhost>", "a@localhost", ""),
        ("<a@under_score.test>", "a@under_score.test", ""),
        ("<a@1.2.3>", "a@1.2.3", ""),
        ('<"a b"@b.test>', '"a b"@b.test', ""),
        ('<"a>b"@b.test>', '"a>b"@b.test', ""),
        ('<"a@c"@b.test>', '"a@c"@b.test', ""),
        ('<"a\\"b"@b.test>', '"a\\"b"@b.test', ""),
        ('<""@b.test>', '""@b.test', ""),
        ("<a@[192.0.2.1]>", "a@[192.0.2.1]", ""),
        ("<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]", ""),
        ("<@x,@y:a@b.test>", "a@b.test", ""),
        ("<@x:a@b.test> SIZE=1", "a@b.test", "SIZE=1"),
        ("<!#$%&'*+/=?^_`{|}~-@b.test>", "!#$%&'*+/=?^_`{|}~-@b.test", ""),
        (f"<{'l' * 64}@b.test>", f"{'l' * 64}@b.test", ""),
    ],
)
def test_a_path_of_rfc_5321_is_taken_apart(text: str, address: str, parameters: str) -> None:
    assert parse_path(text, smtputf8=False) == Path(address, parameters)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a@b.test",
        "<a@b.test",
        "a@b.test>",
        "<<a@b.test>>",
        "<a@b.test>>",
        "<a@b.test>x",
        "<a@b.test>SIZE=1",
        "<a b@b.test>",
        "< a@b.test>",
        "<a@b.test >",
        "<a@>",
        "<@b.test>",
        "<a>",
        "<a@b@c.test>",
        "<.a@b.test>",
        "<a.@b.test>",
        "<a..b@b.test>",
        "<a@.b.test>",
        "<a@b..test>",
        "<a@b.test.>",
        "<a@-b.test>",
        "<a@b-.test>",
        "<a@b.test\r>",
        "<a@b.test\n>",
        "<a\r@b.test>",
        "<a\0@b.test>",
        "<a\t@b.test>",
        "<a\x7f@b.test>",
        '<"a\r"@b.test>',
        '<"a\0"@b.test>',
        '<"a@b.test>',
        '<"a"b@b.test>',
        '<a"b"@b.test>',
        '<"a\\"@b.test>',
        "<a@[192.0.2.256]>",
        "<a@[192.0.2.1>",
        "<a@[192.0.2.1]x>",
        "<a@[IPv6:zz]>",
        "<a@[]>",
        "<a@b.test,c@d.test>",
        "<a@b(comment).test>",
        f"<a@{'d' * 64}.test>",
        "<@x a@b.test>",
        "<@x:>",
        "<a@b;c>",
    ],
)
def test_a_path_that_could_be_misread_is_a_syntax_fault(text: str) -> None:
    with pytest.raises(AddressError) as error:
        parse_path(text, smtputf8=True)
    assert error.value.fault is SYNTAX


@pytest.mark.parametrize(
    "scope", ["eth0", "1", "\r", "> SIZE=1 <", "x\nRCPT TO:<evil@x>", " ", ") by evil ("]
)
def test_an_address_literal_with_a_scope_id_is_refused(scope: str) -> None:
    # RFC 5321 section 4.1.3 has none, and Python takes any characters for one.
    with pytest.raises(AddressError):
        parse_path(f"<a@[IPv6:fe80::1%{scope}]>", smtputf8=True)
    assert not is_helo_name(f"[IPv6:fe80::1%{scope}]")


def test_lengths_are_counted_in_octets() -> None:
    with pytest.raises(AddressError) as error:
        parse_path(f"<{'l' * 65}@b.test>", smtputf8=False)
    assert error.value.fault is AddressFault.LOCAL_PART_TOO_LONG
    with pytest.raises(AddressError) as error:
        parse_path(f"<{'ü' * 33}@b.test>", smtputf8=True)
    assert error.value.fault is AddressFault.LOCAL_PART_TOO_LONG
    label = "d" * 63
    with pytest.raises(AddressError) as error:
        parse_path(f"<a@{label}.{label}.{label}.{label}.d>", smtputf8=False)
    assert error.value.fault is AddressFault.DOMAIN_TOO_LONG


@pytest.mark.parametrize("address", ["ü@b.test", "a@ü.test", '"ü"@b.test', "用户@例え.test"])
def test_a_non_ascii_address_needs_smtputf8(address: str) -> None:
    with pytest.raises(AddressError) as error:
        parse_path(f"<{address}>", smtputf8=False)
    assert error.value.fault is UTF8
    assert parse_path(f"<{address}>", smtputf8=True).address == address


def test_octets_that_are_no_utf_8_are_a_syntax_fault() -> None:
    text = b"<\xff\xfe@b.test>".decode("utf-8", "surrogateescape")
    with pytest.raises(AddressError) as error:
        parse_path(text, smtputf8=True)
    assert error.value.fault is SYNTAX


def test_only_the_domain_folds_for_the_same_mailbox() -> None:
    assert same_mailbox("Ada@B.TEST") == same_mailbox("Ada@b.test")
    assert same_mailbox("ada@b.test") != same_mailbox("Ada@b.test")
    assert domain_of('"a@b"@c.test') == "c.test"
    assert domain_of("postmaster") == ""


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("client.test", True),
        ("client", True),
        ("[192.0.2.1]", True),
        ("[IPv6:::1]", True),
        ("[192.0.2.1", False),
        ("", False),
        ("a b", False),
        ("a(b)", False),
        ("a\r", False),
        ("ü.test", False),
        ("a" * 64, False),
        (".".join(["a"] * 129), False),
    ],
)
def test_a_helo_name_is_a_domain_or_an_address_literal(name: str, good: bool) -> None:
    assert is_helo_name(name) is good


ATOM = st.text("abcXYZ019!#$%&'*+/=?^_`{|}~-", min_size=1, max_size=8)
QUOTED = st.text(
    st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'), max_size=12
).map(lambda inner: f'"{inner}"')
LOCAL = st.lists(ATOM, min_size=1, max_size=3).map(".".join) | QUOTED
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
DOMAIN = st.lists(LABEL, min_size=1, max_size=4).map(".".join) | st.ip_addresses().map(
    lambda ip: f"[{ip}]" if ip.version == 4 else f"[IPv6:{ip}]"
)


@given(LOCAL, DOMAIN, st.sampled_from(["", "SIZE=1", "SIZE=1 BODY=7BIT"]))
def test_every_valid_mailbox_comes_back_unchanged(local: str, domain: str, more: str) -> None:
    path = parse_path(f"<{local}@{domain}> {more}".rstrip(), smtputf8=False)
    assert path == Path(f"{local}@{domain}", more)


@given(st.text(max_size=40) | st.from_regex(r"<[^>]{0,20}@[^>]{0,20}>", fullmatch=True))
def test_whatever_is_taken_can_go_into_a_command_line(text: str) -> None:
    try:
        path = parse_path(text, smtputf8=True)
    except AddressError:
        return
    assert not any(ord(letter) < 32 or ord(letter) == 127 for letter in path.address)
    again = parse_path(f"<{path.address}>", smtputf8=True)
    assert again.address == path.address
