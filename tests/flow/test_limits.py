"""A whole relay's rate limits: told over HTTP and by `mailrelay limits`, kept over restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.ingress.test_rate_limits import wait_for_a_new_window
from tests.support.relay import COMMAND, Relay, running_relay
from tests.support.smtp_client import SmtpDialogue
from tests.support.wait import wait_until

NEEDED_SECONDS = 60.0  # what the longest test here may take
CONTENT = b"From: a@sender.test\r\nSubject: x\r\n\r\nx\r\n"


async def submit(relay: Relay, sender: str) -> int:
    async with SmtpDialogue.greeted("127.0.0.1", relay.smtp_port) as dialogue:
        submitted = await dialogue.submit(sender, ["b@reader.test"], CONTENT)
        return (submitted.final or submitted.mail).code


async def used(relay: Relay, **query: Any) -> dict[tuple[str, str | None], tuple[int, int]]:  # noqa: ANN401
    answer = (await relay.get("/api/limits", params=query)).json()
    assert answer["enabled"]
    assert answer["complete"]
    uses = {
        (each["limit"], each["sender"]): (each["used"], each["most"]) for each in answer["counters"]
    }
    assert len(uses) == len(answer["counters"])
    return uses


async def command(relay: Relay, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *("limits", "--data-dir", str(relay.data_dir), *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


@pytest.mark.timeout(60 + 60)
async def test_each_counter_is_shown_and_survives_a_restart_of_everything(tmp_path: Path) -> None:
    limits = {"enabled": True, "maxPerHour": 3, "maxPerDay": 10, "globalMaxPerDay": 50}
    await wait_for_a_new_window(NEEDED_SECONDS)
    async with running_relay(tmp_path, rateLimits=limits) as relay:
        for _ in range(3):
            assert await submit(relay, "Alfred@Sender.Test") == 250
        assert await submit(relay, "Alfred@sender.test") == 450
        assert await submit(relay, "") == 250
        expected = {
            ("global_hour", None): (4, 1000),
            ("global_day", None): (4, 50),
            ("sender_hour", "Alfred@sender.test"): (3, 3),
            ("sender_day", "Alfred@sender.test"): (3, 10),
            ("sender_hour", ""): (1, 3),
            ("sender_day", ""): (1, 10),
        }

        async def shows_all() -> bool:
            found = await used(relay)
            assert found == expected
            return True

        await wait_until(shows_all, 10, "every counter is shown")
        only = await used(relay, sender="Alfred@SENDER.test")
        assert only == {key: use for key, use in expected.items() if key[1] != ""}
        lines = [line.split() for line in (await command(relay)).splitlines()]
        assert lines[0] == ["LIMIT", "SENDER", "USED", "OF", "RESETS", "AT"]
        assert ["sender", "hour", "Alfred@sender.test", "3", "3"] in [line[:5] for line in lines]
        assert ["sender", "day", "<>", "1", "10"] in [line[:5] for line in lines]
        one = await command(relay, "--sender", "<>")
        assert "Alfred" not in one
        assert len(one.splitlines()) == 5
        assert await relay.stop() == 0
        await relay.start()
        assert await used(relay) == expected
        assert await submit(relay, "Alfred@sender.test") == 450


async def test_a_relay_without_limits_says_so(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        assert await submit(relay, "a@sender.test") == 250
        assert "rateLimits.enabled is false" in await command(relay)
