"""docs/guide/from-postfix.md, run as it is written, with Debian's Postfix and a real relay."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mailrelay.config.text import parse_config_text
from tests.support.command import run
from tests.support.extensions import Extensions
from tests.support.pages import GUIDES, blocks, quoted, table
from tests.support.ports import free_port
from tests.support.postfix import Postfix, PostfixOptions, running_postfix
from tests.support.relay import COMMAND, STORE_BYTES, Relay, relay_config, running_relay
from tests.support.smtp_client import SmtpDialogue
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

PAGE = GUIDES / "from-postfix.md"
BESIDE, HAND_OVER = "One server: a relay beside Postfix", "One server: hand over"
SOON = 60.0
WAITING = [f"waiting-{number}@example.com" for number in range(3)]
CONTENT = b"From: ada@example.com\r\nTo: you@example.com\r\nSubject: hello\r\n\r\nHello.\r\n"


async def test_every_parameter_in_the_table_is_one_of_postfix() -> None:
    names = [name for row in table(PAGE, "What becomes of main.cf") for name in quoted(row[0])]
    done = await run("postconf", "-d", *names, limit=SOON)
    assert done.stderr == ""
    assert sorted(line.split(" =")[0] for line in done.stdout.splitlines()) == sorted(names)


async def test_what_postfix_holds_and_what_comes_later_goes_out_through_the_relay(
    tmp_path: Path,
) -> None:
    offers = Extensions(auth=("PLAIN",), credentials={"relay": "secret"}, auth_required=True)
    away = PostfixOptions(relay_port=free_port())
    async with ScriptedUpstream(extensions=offers) as upstream, running_postfix(away) as postfix:
        await hand_in(postfix.port, WAITING)
        reader = Reader(postfix, Relay(tmp_path, relay_config(**of_the_page(upstream.port))))
        reader.relay.config_file.write_text(blocks(PAGE, "json")[BESIDE])
        check, upstream_check, send = blocks(PAGE)[BESIDE].splitlines()
        assert "smtp.example.com" in await reader.follow(check)
        reader.write_config()
        await reader.follow(upstream_check)
        async with running_relay(tmp_path, **of_the_page(upstream.port)) as relay:
            reader.relay = relay
            assert "you@example.com: sent" in await reader.follow(send)
            *hand_over, look = blocks(PAGE)[HAND_OVER].splitlines()
            held = await reader.follow(hand_over[0])
            assert all(recipient in held for recipient in WAITING)
            await reader.follow("\n".join(hand_over[1:]))
            await hand_in(postfix.port, ["later@example.com"])

            async def is_empty() -> bool:
                return "Mail queue is empty" in await reader.follow(look)

            await wait_until(is_empty, SOON, "Postfix has nothing left", interval=0.5)
            arrived = await upstream.wait_received(len(WAITING) + 2, SOON)
        expected = [*WAITING, "later@example.com", "you@example.com"]
        assert sorted(r for mail in arrived for r in mail.rcpt_tos) == sorted(expected)


class Reader:
    """Runs the page's lines with Postfix's own folder and the relay's in their places."""

    def __init__(self, postfix: Postfix, relay: Relay) -> None:
        self.relay = relay
        path = f"{COMMAND.parent}:/usr/sbin:{os.environ['PATH']}"
        config = str(postfix.folder / "config")
        self._environ = os.environ | {"PATH": path, "MAIL_CONFIG": config}

    def write_config(self) -> None:
        """Write the file as the test needs it."""
        self.relay.config_file.write_text(json.dumps(self.relay.config))

    async def follow(self, text: str) -> str:
        """Run lines; what they printed."""
        for page, here in {
            "/etc/mailrelay/config.json": str(self.relay.config_file),
            "/var/lib/mailrelay": str(self.relay.data_dir),
            ":2525": f":{self.relay.smtp_port}",
        }.items():
            text = text.replace(page, here)
        done = await run("bash", "-euc", text, limit=SOON, environ=self._environ)
        assert done.code == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout


def of_the_page(upstream_port: int) -> dict[str, Any]:
    """The page's configuration with the smart host on this machine and ports that are free."""
    page = parse_config_text(blocks(PAGE, "json")[BESIDE])
    return page | {
        "smtpHost": "127.0.0.1",
        "smtpPort": free_port(),
        "healthCheckPort": free_port(),
        "forwardHost": "127.0.0.1",
        "forwardPort": upstream_port,
        "queue": {"storeBytes": STORE_BYTES},
    }


async def hand_in(port: int, recipients: list[str]) -> None:
    """Give Postfix a message for each recipient, as programs of this machine do."""
    async with SmtpDialogue.greeted("127.0.0.1", port) as client:
        for recipient in recipients:
            assert (await client.submit("ada@example.com", [recipient], CONTENT)).accepted
        await client.quit()
