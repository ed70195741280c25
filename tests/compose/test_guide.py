"""docs/guide/one-server.md, run as it is written."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.compose.clients import wait_total
from tests.compose.docker import ALL_IN_ONE, QUICK, Project, do, docker, inspect
from tests.compose.images import package_index
from tests.compose.page import PAGE, SYSTEMD, commit, publish
from tests.support.certificates import make_certificates
from tests.support.command import ROOT
from tests.support.pages import blocks
from tests.support.smtp_client import SmtpDialogue

pytestmark = [pytest.mark.compose, pytest.mark.timeout(900)]

CONTENT = b"From: me@example.org\r\nTo: you@example.com\r\nSubject: hello\r\n\r\nHello.\r\n"
BUILD_SECONDS = 240.0  # all but the last layers is built; measured 5 s
NEWER = "9999.1.0"
PASSWORD = "a long password"  # noqa: S105 — the page's


@contextlib.asynccontextmanager
async def authenticated(
    context: ssl.SSLContext, user: str, password: str
) -> AsyncIterator[SmtpDialogue]:
    """A client that has verified the certificate and is let in."""
    async with SmtpDialogue.greeted("127.0.0.1", 2525) as client:
        await client.starttls(context)
        await client.ehlo()
        await client.auth_plain(user, password, 235)
        yield client
        await client.quit()


@contextlib.asynccontextmanager
async def image_kept(name: str) -> AsyncIterator[str]:
    """Let the name mean the same image afterwards, whatever is built; yields its id."""
    old = (await docker("image", "inspect", "--format", "{{.Id}}", name)).strip()
    try:
        yield old
    finally:
        await docker("tag", old, name)


async def publish_newer(upstream: Path) -> None:
    dockerfile = upstream / "Dockerfile"
    newer = re.sub(
        r"^ARG VERSION=.*$", f"ARG VERSION={NEWER}", dockerfile.read_text(), flags=re.MULTILINE
    )
    dockerfile.write_text(newer)
    await commit(upstream, "A newer version")


async def test_the_page_does_what_it_says(older_compose: tuple[str, ...], tmp_path: Path) -> None:
    relay = Project(older_compose, (ALL_IN_ONE,), f"mailrelay-guide-{secrets.token_hex(4)}")
    upstream = await publish(tmp_path / "upstream")
    checkout = tmp_path / "checkout"
    await do("git", "clone", "--quiet", str(upstream), str(checkout))
    certificates = make_certificates(tmp_path / "certificates")
    shutil.copyfile(certificates.server.certificate, checkout / "fullchain.pem")
    shutil.copyfile(certificates.server.key, checkout / "privkey.pem")
    environ = os.environ | {
        "COMPOSE_PROJECT_NAME": relay.name,
        "COMPOSE_FILE": f"{ALL_IN_ONE}:{ROOT / QUICK}",
    }

    async def follow(text: str) -> str:
        """Run a part of the page, and wait as its reader would."""
        command = " ".join(older_compose)
        script = f"set -eu\ncd '{checkout}'\n" + text.replace("docker-compose", command)
        said = await do("bash", "-c", script, environ=environ, limit=BUILD_SECONDS)
        await relay.wait_healthy()
        return said

    try:
        parts = blocks(PAGE)
        assert list(parts) == [
            *("Start", "Users", "A certificate", "Look at it", "Back up", "Restore", "Upgrade"),
            SYSTEMD,
        ]
        start, rest = parts["Start"].split("\n", 1)
        await follow(start)
        password = (await follow(rest)).strip()
        assert len(password) == 32
        assert (await follow(parts["Users"])).split()[-2:] == ["mailrelay", "ada"]
        await follow(parts["A certificate"])
        async with authenticated(certificates.client_context(), "ada", PASSWORD) as client:
            assert (await client.submit("a@example.org", ["b@example.com"], CONTENT)).accepted
        await wait_total(8025, 1)
        said = await follow(parts["Look at it"])
        assert '"status":"ok"' in said
        assert '"total_emails":1' in said
        await follow(parts["Back up"])
        await follow(parts["Restore"])
        await wait_total(8025, 1)
        async with authenticated(certificates.client_context(), "mailrelay", password):
            pass
        async with image_kept("mailrelay") as older:
            await publish_newer(upstream)
            index = [f"--build-arg {each}" for each in package_index()]
            await follow(parts["Upgrade"].replace(" build", " ".join((" build", *index))))
            running = await inspect(await relay.container("mailrelay"))
            assert running["Image"] != older
            assert running["Config"]["Labels"]["org.opencontainers.image.version"] == NEWER
            await wait_total(8025, 1)
            listed = await relay.exec("mailrelay", "mailrelay", "captured", "list")
            assert "a@example.org" in listed
    finally:
        await relay.down("--volumes")
        left = await docker("volume", "ls", "--quiet", "--filter", f"name={relay.name}")
        assert left == ""
