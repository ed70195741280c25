"""Attempts by a route of several smart hosts, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mailrelay.config.load import ConfigError
from mailrelay.config.model import RelayConfig
from mailrelay.mail.disposition import Disposition
from mailrelay.mail.job import Job
from mailrelay_sender.attempt import AttemptResult, attempt
from mailrelay_sender.connection import Verdicts
from mailrelay_sender.plan import Hosts, Plan
from tests.lib.jobs import make_job
from tests.support.certificates import Certificates, make_certificates
from tests.support.extensions import Extensions
from tests.support.replies import Reply
from tests.support.scripting import Action, Close, Stage, Stall
from tests.support.scripts import fail_at
from tests.support.upstream import ScriptedUpstream

SENT, DEFERRED, BOUNCED = Disposition.SENT, Disposition.DEFERRED, Disposition.BOUNCED
LIMIT_SECONDS = 60.0
PASSWORD = "right sesame-4711"  # noqa: S105 — of the tests
PLAIN = {"tls": "opportunistic"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def first() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream
        assert upstream.violations == []


@pytest.fixture
async def second() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream
        assert upstream.violations == []


def hosts_of(*sections: Mapping[str, Any]) -> Hosts:
    config = RelayConfig.model_validate(
        {
            "security": {"requireAuth": False},
            "routes": [{"name": "out", "smartHosts": [dict(each) for each in sections]}],
        }
    )
    return Plan.of(config, "relay.test", Verdicts()).hosts["out"]


def at(upstream: ScriptedUpstream, **options: Any) -> dict[str, Any]:  # noqa: ANN401 — JSON
    return {"host": "127.0.0.1", "port": upstream.port} | PLAIN | options


async def inline(job: Job) -> AsyncIterator[bytes]:
    yield job.content


async def try_once(hosts: Hosts, job: Job | None = None, limit: float = LIMIT_SECONDS) -> Any:  # noqa: ANN401 — the result, asserted on below
    result: AttemptResult = await attempt(job or make_job(), hosts, inline, limit)
    assert result.fault is None, result.fault
    for pool in hosts.pools:
        await pool.close_idle()
    return result


def next_hop(upstream: ScriptedUpstream) -> str:
    return f"127.0.0.1:{upstream.port}"


async def test_the_first_smart_host_takes_the_mail_as_long_as_it_can(
    first: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    hosts = hosts_of(at(first), at(second))
    for _ in range(3):
        [outcome] = (await try_once(hosts)).outcomes
        assert (outcome.disposition, outcome.next_hop) == (SENT, next_hop(first))
    assert second.connections == 0


@pytest.mark.parametrize(
    "trouble",
    ["closed port", "turned away", "no EHLO", "bad certificate", "no TLS", "wrong password"],
)
async def test_the_second_takes_it_in_the_same_attempt_when_the_first_fails_before_mail(
    trouble: str, certificates: Certificates, first: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    options: dict[str, Any] = {}
    match trouble:
        case "closed port":
            await first.stop()
        case "turned away":
            first.script = fail_at(Stage.CONNECT, Reply(554, "5.7.1 no"))
        case "no EHLO":
            first.script = fail_at(Stage.EHLO, Reply(421, "4.3.2 busy"))
        case "bad certificate":
            first.extensions = Extensions(starttls=certificates.expired.context())
            options = {"tls": "starttls", "caFile": str(certificates.authority)}
        case "no TLS":
            options = {"tls": "starttls"}
        case "wrong password":
            first.extensions = Extensions(auth=("PLAIN",), credentials={"ada": "another"})
            options = {"username": "ada", "password": PASSWORD}
    hosts = hosts_of(at(first, **options), at(second))
    result = await try_once(hosts)
    [outcome] = result.outcomes
    assert (outcome.disposition, outcome.next_hop) == (SENT, next_hop(second))
    assert first.transactions == 0
    assert second.received_count == 1
    down = hosts.pools[0].down
    assert down is not None
    assert next_hop(first) in down.text or "certificate of 127.0.0.1" in down.text


@pytest.mark.parametrize(
    ("action", "disposition"),
    [
        (Reply(451, "4.3.0 later"), DEFERRED),
        (Reply(550, "5.7.1 never"), BOUNCED),
        (Close(), DEFERRED),
    ],
)
@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.FINAL_DOT])
async def test_behind_mail_the_word_of_the_one_spoken_with_counts(
    stage: Stage,
    action: Action,
    disposition: Disposition,
    first: ScriptedUpstream,
    second: ScriptedUpstream,
) -> None:
    first.script = fail_at(stage, action)
    [outcome] = (await try_once(hosts_of(at(first), at(second)))).outcomes
    assert (outcome.disposition, outcome.next_hop) == (disposition, next_hop(first))
    assert second.connections == 0


async def test_one_that_is_down_is_passed_over_until_it_is_known_to_be_back(
    first: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    first.script = fail_at(Stage.CONNECT, Reply(554, "5.7.1 no"))
    hosts = hosts_of(at(first), at(second))
    for _ in range(3):
        assert (await try_once(hosts)).outcomes[0].next_hop == next_hop(second)
    assert first.connections == 1, "it was asked once"
    first.script = fail_at(Stage.CONNECT, Reply(554, "5.7.1 no"), times=0)
    pool = hosts.pools[0]
    await pool.put_back(await pool.get(fresh=True))  # as the probe does
    assert (await try_once(hosts)).outcomes[0].next_hop == next_hop(first)


async def test_with_all_down_it_is_deferred_with_every_reason_and_each_is_tried_again(
    first: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    await first.stop()
    await second.stop()
    hosts = hosts_of(at(first), at(second))
    for _ in range(2):
        [outcome] = (await try_once(hosts)).outcomes
        assert outcome.disposition is DEFERRED
        assert str(outcome.reply).startswith("451 4.4.1 ")
        for each in (first, second):
            assert f"cannot reach {next_hop(each)}: " in outcome.reply.text
        assert outcome.next_hop == f"{next_hop(first)}, {next_hop(second)}"
    await first.start()
    [outcome] = (await try_once(hosts)).outcomes
    assert (outcome.disposition, outcome.next_hop) == (SENT, next_hop(first))


async def test_different_reasons_are_told_under_a_code_that_fits_both(
    first: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    await first.stop()
    hosts = hosts_of(at(first), at(second, tls="starttls"))
    [outcome] = (await try_once(hosts)).outcomes
    assert str(outcome.reply).startswith("451 4.4.0 ")
    assert "Connection refused" in outcome.reply.text or "cannot reach" in outcome.reply.text
    assert "does not offer STARTTLS" in outcome.reply.text
    assert "routes[0].smartHosts[1].tls" in outcome.reply.text


async def test_the_reason_of_one_passed_over_is_told_too(
    first: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    await first.stop()
    hosts = hosts_of(at(first), at(second))
    await try_once(hosts)
    await second.stop()
    [outcome] = (await try_once(hosts)).outcomes
    assert outcome.disposition is DEFERRED
    assert next_hop(first) in outcome.reply.text
    assert next_hop(second) in outcome.reply.text


async def test_one_that_does_not_answer_leaves_time_for_the_next(
    first: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    first.script = fail_at(Stage.CONNECT, Stall())
    hosts = hosts_of(at(first), at(second))
    started = asyncio.get_running_loop().time()
    [outcome] = (await try_once(hosts, limit=24.0)).outcomes
    assert (outcome.disposition, outcome.next_hop) == (SENT, next_hop(second))
    assert asyncio.get_running_loop().time() - started >= 8.0, "its share of the attempt's time"


async def test_a_kept_connection_that_ended_is_no_reason_to_leave_a_host_that_is_there(
    first: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    hosts = hosts_of(at(first), at(second))
    assert (await attempt(make_job(), hosts, inline, LIMIT_SECONDS)).outcomes[0].disposition is SENT
    first.drop_connections()
    assert (await try_once(hosts)).outcomes[0].next_hop == next_hop(first)
    assert (first.received_count, second.connections) == (2, 0)


async def test_a_kept_connection_of_a_host_that_went_away_leads_to_the_next(
    first: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    hosts = hosts_of(at(first), at(second))
    await attempt(make_job(), hosts, inline, LIMIT_SECONDS)
    await first.stop()
    assert (await try_once(hosts)).outcomes[0].next_hop == next_hop(second)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_each_smart_host_has_its_own_tls_and_credentials_out_of_files(
    tls: str, certificates: Certificates, tmp_path: Path, second: ScriptedUpstream
) -> None:
    user, password = tmp_path / "user", tmp_path / "password"
    user.write_text("ada\n")
    password.write_text(f"{PASSWORD}\r\n")
    for file in (user, password):
        file.chmod(0o600)
    offers = Extensions(
        starttls=certificates.server.context(),
        implicit_tls=tls == "implicit",
        auth=("PLAIN",),
        auth_only_with_tls=True,
        credentials={"ada": PASSWORD},
    )
    async with ScriptedUpstream(extensions=offers) as upstream:
        files = {"usernameFile": str(user), "passwordFile": str(password)}
        secure = at(upstream, tls=tls, caFile=str(certificates.authority), **files)
        [outcome] = (await try_once(hosts_of(secure, at(second)))).outcomes
        assert (outcome.disposition, outcome.next_hop) == (SENT, next_hop(upstream))
        assert upstream.received[0].tls
        assert upstream.received[0].auth == "ada"


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (None, 0o600, "cannot be read: No such file"),
        ("", 0o600, "must hold one line"),
        ("a\nb\n", 0o600, "must hold one line"),
        (PASSWORD, 0o644, "others can read or write it"),
    ],
)
def test_a_password_file_that_cannot_be_used_is_named_and_never_shown(
    text: str | None, mode: int, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(ConfigError) as error:
        hosts_of({"host": "mx.example", "username": "ada", "passwordFile": str(file)})
    [fault] = error.value.faults
    assert fault.startswith(f"routes[0].smartHosts[0].passwordFile: {file}: ")
    assert words in fault
    assert "sesame" not in fault
