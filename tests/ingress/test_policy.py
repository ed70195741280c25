from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from mailrelay.config.model import RelayConfig
from mailrelay.mail.header import read_header
from mailrelay.mail.reply import Reply
from mailrelay_ingress import memory, replies
from mailrelay_ingress.memory import MemoryBudget
from mailrelay_ingress.policy import MAX_RECIPIENTS, Policy
from mailrelay_ingress.session import Client, Transaction, is_local_address

LOCAL = Client("127.0.0.1", is_local=True, helo="client.test", esmtp=True)
REMOTE = replace(LOCAL, address="192.0.2.1", is_local=False)


def config(**changes: Any) -> RelayConfig:  # noqa: ANN401
    return RelayConfig.model_validate({"security": {"requireAuth": False}} | changes)


USER = {"defaultUsername": "a", "defaultPassword": "b"}
POLICY = Policy(config())
STRICT = Policy(config(defaultUsername="a", defaultPassword="b", security={}))
CONTAINED = Policy(
    config(security={"trustLoopback": False, "allowedNetworks": ["192.0.2.0/24"]}, **USER)
)
OPEN = Policy(config(security={"requireAuth": False, "allowLocalOnly": False}, maxConnections=2))


@pytest.mark.parametrize(
    ("policy", "client", "connections", "stopping", "code"),
    [
        (POLICY, LOCAL, 1, False, None),
        (POLICY, REMOTE, 1, False, "550 5.7.1"),
        (CONTAINED, LOCAL, 1, False, "550 5.7.1"),
        (CONTAINED, REMOTE, 1, False, None),
        (OPEN, REMOTE, 1, False, None),
        (OPEN, REMOTE, 2, False, None),
        (OPEN, REMOTE, 3, False, "421 4.7.0"),
        (POLICY, LOCAL, 1, True, "421 4.3.2"),
        (POLICY, REMOTE, 1, True, "421 4.3.2"),
    ],
)
def test_who_is_served(
    policy: Policy,
    client: Client,
    connections: int,
    stopping: bool,
    code: str | None,
) -> None:
    refusal = policy.on_connect(client, connections, stopping=stopping)
    assert (str(refusal)[:9] if refusal else None) == code


def test_a_password_in_the_clear_is_loopbacks_right_unless_it_has_none() -> None:
    assert POLICY.allows_plaintext_auth(LOCAL)
    assert not POLICY.allows_plaintext_auth(REMOTE)
    assert not CONTAINED.allows_plaintext_auth(LOCAL)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("FROM:<a@b.test>", None),
        ("from: <a@b.test>", None),
        ("FROM:<>", None),
        ("FROM:<a@b.test> SIZE=100 BODY=8bitmime SMTPUTF8 AUTH=<>", None),
        ("FROM:<ü@b.test> SMTPUTF8", None),
        ("FROM:<ü@b.test>", "553 5.6.7"),
        ('FROM:<"ü> SMTPUTF8"@b.test>', "553 5.6.7"),
        ("", "501 5.5.4"),
        ("TO:<a@b.test>", "501 5.5.4"),
        ("FROM:a@b.test", "501 5.1.7"),
        ("FROM:<a@b@c>", "501 5.1.7"),
        (f"FROM:<{'l' * 65}@b.test>", "501 5.1.7"),
        ("FROM:<a@b.test> SIZE=", "501 5.5.4"),
        ("FROM:<a@b.test> SIZE=-1", "501 5.5.4"),
        ("FROM:<a@b.test> SIZE=\u0661", "501 5.5.4"),
        (f"FROM:<a@b.test> SIZE={'9' * 21}", "501 5.5.4"),
        (f"FROM:<a@b.test> SIZE={'9' * 20}", "552 5.3.4"),
        ("FROM:<a@b.test> BODY=BINARYMIME", "501 5.5.4"),
        ("FROM:<a@b.test> SMTPUTF8=1", "501 5.5.4"),
        ("FROM:<a@b.test> RET=HDRS", "555 5.5.4"),
        ("FROM:<a@b.test> X", "555 5.5.4"),
    ],
)
def test_mail_gets_the_verdict_that_its_argument_deserves(text: str, code: str | None) -> None:
    verdict = POLICY.on_mail(LOCAL, None, text)
    assert (str(verdict)[:9] if isinstance(verdict, Reply) else None) == code


def test_what_mail_declares_is_noted() -> None:
    verdict = POLICY.on_mail(LOCAL, None, "FROM:<a@b.test> SIZE=100 BODY=8BITMIME SMTPUTF8")
    assert verdict == Transaction("a@b.test", smtputf8=True, body_8bitmime=True, declared_bytes=100)


@pytest.mark.parametrize(
    ("policy", "client", "current", "code"),
    [
        (POLICY, replace(LOCAL, helo=""), None, "503 5.5.1"),
        (STRICT, LOCAL, None, "530 5.7.0"),
        (STRICT, replace(LOCAL, user="a"), None, None),
        (POLICY, LOCAL, Transaction(""), "503 5.5.1"),
    ],
)
def test_mail_comes_in_its_turn(
    policy: Policy, client: Client, current: Transaction | None, code: str | None
) -> None:
    verdict = policy.on_mail(client, current, "FROM:<a@b.test>")
    assert (str(verdict)[:9] if isinstance(verdict, Reply) else None) == code


def test_helo_allows_no_parameters() -> None:
    client = replace(LOCAL, esmtp=False)
    assert POLICY.on_mail(client, None, "FROM:<a@b.test> SIZE=1") is replies.UNKNOWN_PARAMETER
    refusal = POLICY.on_mail(client, None, "FROM:<ü@b.test> SMTPUTF8")
    assert refusal is replies.SENDER_NEEDS_SMTPUTF8


@pytest.mark.parametrize(
    ("text", "smtputf8", "answer"),
    [
        ("TO:<a@b.test>", False, "a@b.test"),
        ("to: <Postmaster>", False, "Postmaster"),
        ("TO:<@x:a@b.test>", False, "a@b.test"),
        ("TO:<ü@b.test>", True, "ü@b.test"),
        ("TO:<ü@b.test>", False, "553 5.6.7"),
        ("TO:<>", False, "501 5.1.3"),
        ("TO:a@b.test", False, "501 5.1.3"),
        ("FROM:<a@b.test>", False, "501 5.5.4"),
        ("", False, "501 5.5.4"),
        ("TO:<a@b.test> NOTIFY=NEVER", False, "555 5.5.4"),
    ],
)
def test_rcpt_gets_the_verdict_that_its_argument_deserves(
    text: str,
    smtputf8: bool,
    answer: str,
) -> None:
    verdict = POLICY.on_rcpt(Transaction("", smtputf8=smtputf8), text)
    assert (str(verdict)[:9] if isinstance(verdict, Reply) else verdict) == answer


@pytest.mark.parametrize(("batch_size", "limit"), [(1, 1000), (20, MAX_RECIPIENTS), (1000, 20_000)])
def test_more_recipients_than_one_atomic_batch_holds_are_refused(
    batch_size: int, limit: int
) -> None:
    policy = Policy(config(batchSize=batch_size))
    transaction = Transaction("")
    transaction.recipients = ["x"] * (limit - 1)
    assert policy.on_rcpt(transaction, "TO:<a@b.test>") == "a@b.test"
    transaction.add("a@b.test")
    assert policy.on_rcpt(transaction, "TO:<c@b.test>") is replies.TOO_MANY_RECIPIENTS


def test_data_needs_a_recipient() -> None:
    transaction = Transaction("")
    assert POLICY.on_data(LOCAL, None) is replies.NEED_RCPT
    assert POLICY.on_data(LOCAL, transaction) is replies.NEED_RCPT
    assert POLICY.on_data(replace(LOCAL, helo=""), None) is replies.SEND_HELO_FIRST
    transaction.add("a@b.test")
    assert POLICY.on_data(LOCAL, transaction) is None


@pytest.mark.parametrize(("hops", "loops"), [(0, False), (99, False), (100, True)])
def test_a_hundred_received_fields_are_a_loop(hops: int, loops: bool) -> None:
    verdict = POLICY.on_header(read_header(b"Received: x\r\n" * hops + b"\r\n"))
    assert verdict is (replies.LOOP if loops else None)


def test_a_mailbox_named_twice_is_one_recipient() -> None:
    transaction = Transaction("")
    for address in ("a@B.test", "a@b.test", "A@b.test", "a@b.test"):
        transaction.add(address)
    assert transaction.recipients == ["a@B.test", "A@b.test"]


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::1%lo", True),
        ("::ffff:192.0.2.1", False),
        ("192.0.2.1", False),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("0.0.0.0", False),  # noqa: S104 — read, not bound
        ("", False),
        ("localhost", False),
    ],
)
def test_local_is_loopback_and_nothing_else(address: str, local: bool) -> None:
    assert is_local_address(address) is local


def test_every_reply_has_an_enhanced_code_of_its_class() -> None:
    found = [each for each in vars(replies).values() if isinstance(each, Reply)]
    assert len(found) > 25
    for reply in (*found, replies.accepted("x")):
        if reply is replies.START_MAIL_INPUT:
            continue
        assert reply.enhanced[0] == str(reply.code)[0], reply
        assert str(reply).isascii()


NETWORKS = Policy(
    config(
        security={
            "requireAuth": False,
            "allowedNetworks": [
                "10.1.0.0/16",
                "192.0.2.7",
                "::ffff:198.51.100.0/120",
                "2001:db8::/32",
            ],
        }
    )
)


@pytest.mark.parametrize(
    ("address", "served"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("10.1.255.255", True),
        ("::ffff:10.1.0.1", True),
        ("10.2.0.0", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("198.51.100.200", True),
        ("::ffff:198.51.100.200", True),
        ("198.51.101.0", False),
        ("2001:db8:ffff::1", True),
        ("2001:db9::1", False),
        ("fe80::1%eth0", False),
        ("", False),
        ("rubbish", False),
    ],
)
def test_networks_are_served_beside_loopback(address: str, served: bool) -> None:
    client = replace(LOCAL, address=address, is_local=is_local_address(address))
    refusal = NETWORKS.on_connect(client, 1, stopping=False)
    assert refusal is (None if served else replies.CLIENT_DENIED)


def test_only_loopback_may_send_a_password_in_the_clear() -> None:
    assert NETWORKS.allows_plaintext_auth(LOCAL)
    assert not NETWORKS.allows_plaintext_auth(replace(REMOTE, address="10.1.0.1"))
    unwise = Policy(config(security={"requireAuth": False, "allowPlaintextAuth": True}))
    assert unwise.allows_plaintext_auth(REMOTE)


# --- Memory -------------------------------------------------------------------------------------


async def test_messages_that_all_outgrow_their_small_share_end_all() -> None:
    budget = MemoryBudget(small=8, large=1)
    done = []

    async def message(number: int) -> None:
        share = budget.share()
        try:
            assert await share.reserve_small()
            await asyncio.sleep(0)
            assert await share.reserve_large()
            await asyncio.sleep(0)
            assert await share.reserve_large()
            done.append(number)
        finally:
            share.give_back()

    async with asyncio.timeout(5):
        await asyncio.gather(*(message(number) for number in range(100)))
    assert sorted(done) == list(range(100))


async def test_a_message_that_is_cancelled_while_it_waits_leaves_no_hole() -> None:
    budget = MemoryBudget(small=1, large=1)
    first, second = budget.share(), budget.share()
    await first.reserve_small()
    waiting = asyncio.create_task(second.reserve_small())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    second.give_back()
    first.give_back()
    first.give_back()
    third, fourth = budget.share(), budget.share()
    async with asyncio.timeout(1):
        assert await third.reserve_small()
    blocked = asyncio.create_task(fourth.reserve_small())
    await asyncio.sleep(0)
    assert not blocked.done()
    third.give_back()
    assert await blocked


async def test_small_messages_go_on_while_large_ones_wait() -> None:
    budget = MemoryBudget(small=3, large=1)
    large, waits, small = budget.share(), budget.share(), budget.share()
    for share in (large, waits):
        assert await share.reserve_small()
    assert await large.reserve_large()
    waiting = asyncio.create_task(waits.reserve_large())
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        assert await small.reserve_small()
    large.give_back()
    assert await waiting


async def test_waiting_for_memory_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "WAIT_SECONDS", 0.05)
    budget = MemoryBudget(small=1, large=1)
    first, second = budget.share(), budget.share()
    assert await first.reserve_small()
    assert not await second.reserve_small()
