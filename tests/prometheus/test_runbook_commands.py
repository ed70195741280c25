"""The commands of the runbooks, run as they stand there beside a running relay."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.prometheus.observed import ROOT, Observed
from tests.support.relay import Relay

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]
PAGES = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
LIMIT_SECONDS = 90
# Which end with another code than 0 here, and why that is right.
MAY_END_WITH = {
    "mailrelay upstream check": {1: "one smart host of this relay is dead"},
    "| grep": {1: "the log has no such line"},
}


@dataclass(frozen=True, slots=True)
class Command:
    """One line of a page, or a block that goes on over several."""

    page: str
    text: str


def blocks(path: Path, info: str) -> list[str]:
    return re.findall(rf"^```{info}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def commands(path: Path) -> list[Command]:
    """A line is a command, but where a quote goes on to the next one."""
    found = []
    for block in blocks(path, "sh"):
        text = ""
        for line in block.splitlines():
            text += line + "\n"
            if text.count("'") % 2 == 0:
                found.append(Command(path.stem, text.strip()))
                text = ""
        assert not text, f"{path.stem}: a quote is open"
    return found


COMMANDS = list(dict.fromkeys(command.text for path in PAGES for command in commands(path)))


def environment(relay: Relay) -> dict[str, str]:
    """What the list of runbooks says to set, for this relay."""
    here = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{here}:{os.environ['PATH']}",
        "RELAY": relay.http_url,
        "SMTP": f"127.0.0.1:{relay.smtp_port}",
    }


@pytest.mark.parametrize("text", COMMANDS)
async def test_a_command_of_a_runbook_works_as_it_stands(text: str, observed: Observed) -> None:
    if text.startswith("export "):
        text = f"{text.partition('=')[0]}=x"  # its own values are of another relay
    running = await asyncio.create_subprocess_exec(
        *("bash", "-u", "-o", "pipefail", "-c", text),
        cwd=observed.relay.folder,
        env=environment(observed.relay),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(running.communicate(), LIMIT_SECONDS)
    allowed = {0, *(code for part, codes in MAY_END_WITH.items() if part in text for code in codes)}
    assert running.returncode in allowed, (output + errors).decode()
    if running.returncode == 0 and not text.startswith("export ") and ">" not in text:
        assert output.strip(), "it says nothing"


async def test_the_list_of_targets_is_what_prometheus_reads(observed: Observed) -> None:
    (text,) = (text for text in COMMANDS if "mailrelay-targets.json" in text)
    made = await asyncio.create_subprocess_exec(
        "bash", "-c", text, cwd=observed.relay.folder, env=environment(observed.relay)
    )
    assert await asyncio.wait_for(made.wait(), LIMIT_SECONDS) == 0
    listed = json.loads((observed.relay.folder / "mailrelay-targets.json").read_text())
    assert {each["labels"]["component"]: each["targets"] for each in listed} == {
        name: [address] for name, address in observed.relay.run_file().probes.items()
    }
    assert {each["labels"]["relay"] for each in listed} == {"mail"}
