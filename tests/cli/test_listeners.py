from __future__ import annotations

import contextlib
import re
import socket
import threading

import pytest

from mailrelay_cli import listeners
from mailrelay_cli.errors import BadInputError
from mailrelay_cli.listeners import Listener, _fault, claim_ports, open_listeners, shown
from tests.support.ports import free_port


def listener(host: str, port: int | None = None) -> Listener:
    return Listener("SMTP", host, port or free_port(), "smtpHost", "smtpPort")


def close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def test_localhost_is_both_loopbacks() -> None:
    wanted = listener("localhost")
    opened = open_listeners(wanted)
    assert shown(opened) == [f"127.0.0.1:{wanted.port}", f"[::1]:{wanted.port}"]
    for address in ("127.0.0.1", "::1"):
        socket.create_connection((address, wanted.port), 1).close()
    close(opened)


def test_a_star_is_every_address_of_both_families() -> None:
    wanted = listener("*")
    opened = open_listeners(wanted)
    assert shown(opened) == [f"0.0.0.0:{wanted.port}", f"[::]:{wanted.port}"]
    for address in ("127.0.0.1", "::1"):
        socket.create_connection((address, wanted.port), 1).close()
    close(opened)


@pytest.mark.parametrize(
    ("host", "answers", "silent"),
    [("0.0.0.0", "127.0.0.1", "::1"), ("::", "::1", "127.0.0.1")],  # noqa: S104
)
def test_all_addresses_of_one_family_are_not_those_of_the_other(
    host: str, answers: str, silent: str
) -> None:
    wanted = listener(host)
    opened = open_listeners(wanted)
    socket.create_connection((answers, wanted.port), 1).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((silent, wanted.port), 1)
    close(opened)


@pytest.mark.parametrize(("taken", "shown_as"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_a_port_that_is_taken_is_named_with_what_to_do(taken: str, shown_as: str) -> None:
    first = open_listeners(listener(taken))
    port = first[0].getsockname()[1]
    words = f"port {shown_as}:{port} (SMTP) is taken: stop what uses it or set smtpPort"
    with pytest.raises(BadInputError, match=re.escape(words)):
        open_listeners(listener("localhost", port))
    close(first)
    close(open_listeners(listener("localhost", port)))


def test_a_port_whose_user_is_just_dying_is_waited_for() -> None:
    first = open_listeners(listener("127.0.0.1"))
    wanted = listener("127.0.0.1", first[0].getsockname()[1])
    closing = threading.Timer(0.3, close, [first])
    closing.start()
    close(open_listeners(wanted, patience_seconds=10))
    closing.join()


def test_an_address_of_another_machine_is_a_fault() -> None:
    with pytest.raises(BadInputError, match=r"192\.0\.2\.1 is no address of this machine"):
        open_listeners(listener("192.0.2.1"))


@pytest.mark.parametrize("host", ["no.such.name.invalid", "a..b", "x" * 300, "300.1.1.1"])
def test_a_name_without_address_is_a_fault(host: str) -> None:
    with pytest.raises(BadInputError, match=r"^smtpHost: "):
        open_listeners(listener(host))


def test_a_port_that_needs_more_rights_says_which_do_not() -> None:
    words = _fault(listener("127.0.0.1", 25), "127.0.0.1", PermissionError(13, "Permission denied"))
    assert words == (
        "port 127.0.0.1:25 (SMTP) is not permitted to this user: set smtpPort to 1024 or more"
    )


def test_own_ports_are_distinct_and_below_the_ephemeral_ones() -> None:
    with contextlib.ExitStack() as stack:
        ports = claim_ports(10, stack)
        assert len(set(ports)) == 10
        assert all(24_000 <= port < 28_000 for port in ports)


def test_what_one_relay_has_claimed_no_other_claims_until_it_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listeners, "_OWN_PORTS", range(27_000, 27_003))
    with contextlib.ExitStack() as other:
        with contextlib.ExitStack() as one:
            mine = claim_ports(2, one)
            with pytest.raises(BadInputError, match="no free port between 27000 and 27002"):
                claim_ports(2, other)
        assert set(claim_ports(3, other)) > set(mine)
