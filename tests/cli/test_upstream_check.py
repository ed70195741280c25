"""`mailrelay upstream check` at scripted upstreams: each step told, nothing sent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.relay_process import run_command
from tests.support.certificates import Certificates, ServerCertificate, make_certificates
from tests.support.extensions import Extensions
from tests.support.ports import free_port
from tests.support.replies import Reply
from tests.support.scripting import Stage
from tests.support.scripts import fail_at
from tests.support.upstream import ScriptedUpstream

USER = {"forwardUsername": "relay", "forwardPassword": "secret sesame-4711"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


async def check(folder: Path, port: int, **changes: Any) -> tuple[int, list[str]]:  # noqa: ANN401 — JSON
    config = {
        "security": {"requireAuth": False},
        "forwardSMTP": True,
        "forwardHost": "localhost",
        "forwardPort": port,
        "heloName": "relay.example",
        **changes,
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    done = await asyncio.to_thread(run_command, "upstream", "check", "--config", str(path))
    assert "Traceback" not in done.stderr, done.stderr
    assert "sesame" not in done.stdout + done.stderr
    return done.returncode, (done.stdout + done.stderr).splitlines()


def steps(lines: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in lines]


@pytest.mark.parametrize("implicit", [False, True])
async def test_a_good_upstream_passes_every_step_and_is_sent_nothing(
    implicit: bool,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    offers = Extensions(
        starttls=certificates.server.context(),
        implicit_tls=implicit,
        auth=("PLAIN",),
        auth_only_with_tls=True,
        credentials={"relay": "secret sesame-4711"},
    )
    async with ScriptedUpstream(extensions=offers) as upstream:
        code, lines = await check(
            tmp_path, upstream.port, forwardCAFile=str(certificates.authority),
            forwardSSL=implicit, **USER,
        )  # fmt: skip
        assert code == 0, lines
        assert upstream.transactions == 0
        assert upstream.violations == []
    tls, ehlo = "ok     TLS", "ok     EHLO"
    expected = [tls, "ok     greeting", ehlo] if implicit else ["ok     greeting", ehlo, tls, ehlo]
    assert steps(lines) == ["ok     DNS", "ok     connection", *expected, "ok     AUTH"]
    told = lines[steps(lines).index(tls)]
    assert "certificate for localhost, 127.0.0.1" in told
    assert "signed by MailRelay tests' authority" in told
    assert "valid until" in told
    assert "as relay.example; offers" in lines[steps(lines).index(ehlo)]


@pytest.mark.parametrize(
    ("which", "host", "words"),
    [
        ("expired", "localhost", "certificate has expired"),
        ("self_signed", "localhost", "self-signed certificate"),
        ("server", "127.0.0.2", "IP address mismatch, certificate is not valid for '127.0.0.2'"),
    ],
)
async def test_a_bad_certificate_is_told_with_host_reason_and_option(
    which: str, host: str, words: str, certificates: Certificates, tmp_path: Path
) -> None:
    certificate: ServerCertificate = getattr(certificates, which)
    offers = Extensions(starttls=certificate.context())
    listen = host if host != "localhost" else "127.0.0.1"
    async with ScriptedUpstream(extensions=offers, host=listen) as upstream:
        options = {"forwardHost": host, "forwardCAFile": str(certificates.authority)}
        code, lines = await check(tmp_path, upstream.port, **options)
        assert code == 1
        assert lines[-1].startswith(f"FAILED TLS: the certificate of {host} is not valid: ")
        assert words in lines[-1]
        assert "forwardCAFile" in lines[-1]
        assert "forwardVerifyTLS" in lines[-1]
        code, lines = await check(tmp_path, upstream.port, forwardVerifyTLS=False, **options)
        assert code == 0
        assert any("NOT verified" in line for line in lines)


async def test_a_wrong_password_fails_the_last_step(
    certificates: Certificates, tmp_path: Path
) -> None:
    offers = Extensions(
        starttls=certificates.server.context(), auth=("LOGIN",), credentials={"relay": "other"}
    )
    async with ScriptedUpstream(extensions=offers) as upstream:
        code, lines = await check(
            tmp_path, upstream.port, forwardCAFile=str(certificates.authority), **USER
        )
    assert code == 1
    assert lines[-1].startswith("FAILED AUTH: 535 5.7.8 ")
    assert "forwardUsername is relay" in lines[-1]


async def test_a_closed_port_fails_the_connection(tmp_path: Path) -> None:
    port = free_port()
    code, lines = await check(tmp_path, port, forwardHost="127.0.0.1")
    assert code == 1
    assert lines == [
        "ok     DNS: 127.0.0.1 is 127.0.0.1",
        f"FAILED connection: 127.0.0.1 port {port}: Connection refused (forwardHost, forwardPort)",
    ]


async def test_an_unknown_host_fails_dns(tmp_path: Path) -> None:
    code, lines = await check(tmp_path, 25, forwardHost="nowhere.invalid")
    assert code == 1
    assert lines[-1].startswith("FAILED DNS: nowhere.invalid has no address: ")


async def test_a_server_that_turns_us_away_is_told_with_its_words(tmp_path: Path) -> None:
    async with ScriptedUpstream(fail_at(Stage.EHLO, Reply(550, "5.7.1 go away"))) as upstream:
        code, lines = await check(tmp_path, upstream.port, forwardHost="127.0.0.1")
    assert code == 1
    assert lines[-1] == "FAILED EHLO: 550 5.7.1 go away (heloName is relay.example)"


async def test_without_an_upstream_there_is_nothing_to_check(tmp_path: Path) -> None:
    code, lines = await check(tmp_path, 25, forwardHost="", forwardSMTP=False)
    assert (code, lines) == (2, ["there is no upstream to check: set forwardHost, or routes"])


async def test_every_smart_host_of_every_route_is_checked_and_named(
    certificates: Certificates, tmp_path: Path
) -> None:
    offers = Extensions(
        starttls=certificates.server.context(), auth=("PLAIN",), credentials={"ada": "sesame"}
    )
    password = tmp_path / "password"
    password.write_text("sesame\n")
    password.chmod(0o600)
    closed = free_port()
    async with ScriptedUpstream(extensions=offers) as good, ScriptedUpstream() as plain:
        secure = {
            "host": "localhost",
            "port": good.port,
            "caFile": str(certificates.authority),
            "username": "ada",
            "passwordFile": str(password),
        }
        routes = [
            {
                "name": "partners",
                "recipientDomains": [".example.org"],
                "smartHosts": [secure, {"host": "127.0.0.1", "port": closed}],
            },
            {
                "name": "plain",
                "recipientDomains": ["example.com"],
                "smartHosts": [{"host": "127.0.0.1", "port": plain.port}],
            },
        ]
        code, lines = await check(tmp_path, plain.port, forwardHost="127.0.0.1", routes=routes)
        assert code == 1
        assert [line for line in lines if line.startswith("route")] == [
            f"route  partners: localhost:{good.port}",
            f"route  partners: 127.0.0.1:{closed}",
            f"route  plain: 127.0.0.1:{plain.port}",
            f"route  smarthost: 127.0.0.1:{plain.port}",
        ]
        assert [line for line in lines if line.startswith("ok     AUTH")] == [
            "ok     AUTH: as ada: 235 2.7.0 Authentication successful"
        ]
        refused, tls = [line for line in lines if line.startswith("FAILED")]
        assert refused.endswith("(routes[0].smartHosts[1].host, routes[0].smartHosts[1].port)")
        assert tls.startswith("FAILED TLS: the server does not offer STARTTLS (routes[1].smart")
        assert lines[-1] == "none   AUTH: forwardUsername is not set"
        assert good.transactions + plain.transactions == 0
