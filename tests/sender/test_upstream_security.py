"""TLS and AUTH to an upstream."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailrelay.config.load import ConfigError
from mailrelay.config.model import RelayConfig
from mailrelay_sender import connection as connection_module
from mailrelay_sender.connection import UpstreamSettings
from tests.lib.jobs import make_job
from tests.sender.attempts import DEFERRED, SENT, dispositions, pool_to, try_once
from tests.support.certificates import Certificates, make_certificates
from tests.support.extensions import Extensions
from tests.support.scripts import refuse_tls
from tests.support.upstream import ScriptedUpstream


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
async def test_tls_is_used_and_verified_against_the_configured_authority(
    implicit: bool,
    certificates: Certificates,
) -> None:
    offers = Extensions(starttls=certificates.server.context(), implicit_tls=implicit)
    async with (
        ScriptedUpstream(extensions=offers) as upstream,
        pool_to(upstream, forwardCAFile=str(certificates.authority), forwardSSL=implicit) as pool,
    ):
        result = await try_once(make_job(), pool)
        assert dispositions(result) == [SENT]
        assert upstream.received[0].tls
        assert result.tls.startswith("TLSv1.")
        assert upstream.violations == []


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
@pytest.mark.parametrize("which", ["self_signed", "expired", "untrusted"])
async def test_a_certificate_that_does_not_verify_defers_with_a_clear_reply(
    which: str,
    implicit: bool,
    certificates: Certificates,
) -> None:
    server = certificates.server if which == "untrusted" else getattr(certificates, which)
    offers = Extensions(starttls=server.context(), implicit_tls=implicit)
    trusted = {} if which == "untrusted" else {"forwardCAFile": str(certificates.authority)}
    async with (
        ScriptedUpstream(extensions=offers) as upstream,
        pool_to(upstream, forwardSSL=implicit, **trusted) as pool,
    ):
        result = await try_once(make_job(2), pool)
        assert dispositions(result) == [DEFERRED] * 2
        reply = result.outcomes[0].reply
        assert reply.enhanced == "4.7.5"
        assert "the certificate of 127.0.0.1 is not valid: " in reply.text
        words = {"expired": "certificate has expired", "self_signed": "self-signed certificate"}
        assert words.get(which, "unable to get local issuer certificate") in reply.text
        assert "forwardCAFile" in reply.text
        assert upstream.transactions == 0
        await upstream.wait_until(lambda: upstream.open_connections == 0, 5, "no one is left")


async def test_verification_can_be_switched_off(certificates: Certificates) -> None:
    offers = Extensions(starttls=certificates.self_signed.context())
    async with (
        ScriptedUpstream(extensions=offers) as upstream,
        pool_to(upstream, forwardVerifyTLS=False) as pool,
    ):
        assert dispositions(await try_once(make_job(), pool)) == [SENT]
        assert upstream.received[0].tls


async def test_starttls_offered_and_then_refused_defers(certificates: Certificates) -> None:
    offers = Extensions(starttls=certificates.server.context())
    async with (
        ScriptedUpstream(refuse_tls(), extensions=offers) as upstream,
        pool_to(upstream, forwardCAFile=str(certificates.authority)) as pool,
    ):
        result = await try_once(make_job(), pool)
        assert dispositions(result) == [DEFERRED]
        assert "454" in result.outcomes[0].reply.text


def test_authorities_that_cannot_be_read_are_a_fault_of_the_configuration(tmp_path: Path) -> None:
    config = RelayConfig.model_validate(
        {"security": {"requireAuth": False}, "forwardCAFile": str(tmp_path / "no.pem")}
    )
    with pytest.raises(ConfigError, match=r"forwardCAFile: must be a PEM file .*no\.pem"):
        UpstreamSettings.from_config(config, "x")


CREDENTIALS = {"forwardUsername": "ada", "forwardPassword": "open sesame"}


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_the_upstream_is_told_who_we_are(mechanism: str) -> None:
    offers = Extensions(auth=(mechanism,), credentials={"ada": "open sesame"}, auth_required=True)
    async with (
        ScriptedUpstream(extensions=offers) as upstream,
        pool_to(upstream, **CREDENTIALS) as p,
    ):
        assert dispositions(await try_once(make_job(), p)) == [SENT]
        assert upstream.received[0].auth == "ada"


async def test_credentials_that_are_refused_defer_and_do_not_show() -> None:
    offers = Extensions(auth=("PLAIN",), credentials={"ada": "other"})
    async with (
        ScriptedUpstream(extensions=offers) as upstream,
        pool_to(upstream, **CREDENTIALS) as p,
    ):
        result = await try_once(make_job(), p)
        assert dispositions(result) == [DEFERRED]
        reply = result.outcomes[0].reply
        assert reply.enhanced == "4.7.8"
        assert "535" in reply.text
        assert "sesame" not in str(result)
        assert "sesame" not in repr(p._settings)


async def test_an_upstream_without_auth_defers_when_we_have_credentials() -> None:
    async with ScriptedUpstream() as upstream, pool_to(upstream, **CREDENTIALS) as pool:
        result = await try_once(make_job(), pool)
        assert dispositions(result) == [DEFERRED]
        assert result.outcomes[0].reply.enhanced == "4.7.8"


async def test_a_password_is_never_sent_in_the_clear_to_another_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "_is_loopback", lambda _: False)
    offers = Extensions(auth=("PLAIN",))
    async with (
        ScriptedUpstream(extensions=offers) as upstream,
        pool_to(upstream, **CREDENTIALS) as p,
    ):
        result = await try_once(make_job(), p)
        assert dispositions(result) == [DEFERRED]
        assert "never sent in the clear" in result.outcomes[0].reply.text
        await upstream.wait_until(lambda: upstream.open_connections == 0, 5, "no one is left")
