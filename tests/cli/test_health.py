"""`mailrelay health` of a real relay, and of services' probes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from mailrelay.runtime.probe import Probe
from mailrelay_cli.run_file import read_run_file, write_run_file
from tests.support.ports import free_port
from tests.support.relay import Relay, relay_config, running_relay
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(120)  # the command alone takes seconds on a busy machine

COMMAND = str(Path(sys.executable).with_name("mailrelay"))


def health(folder: Path, probe: str = "") -> tuple[int, str]:
    """What the command says, in the folder that has `data`."""
    done = subprocess.run(
        [COMMAND, "health"],
        cwd=folder,
        env=os.environ | {"MAILRELAY_PROBE_ADDRESS": probe},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).strip()


async def test_a_relay_is_healthy_while_its_listener_greets_and_its_queue_answers(
    tmp_path: Path,
) -> None:
    # Without any HTTP port.
    relay = Relay(tmp_path, relay_config(enableHealthCheck=False))
    try:
        await relay.start(wait_ready=False)
        await wait_until(lambda: health(tmp_path) == (0, "ok"), 30.0, "it is healthy", 0.2)
        pid = relay.kill("nats", signal.SIGSTOP)
        code, said = health(tmp_path)
        os.kill(pid, signal.SIGCONT)
        assert code == 1
        assert said.startswith("the queue at nats://127.0.0.1:")
        await wait_until(lambda: health(tmp_path) == (0, "ok"), 30.0, "it is healthy again", 0.2)
        await relay.stop()
    finally:
        if relay.process is not None and relay.process.returncode is None:
            relay.process.kill()
            await relay.process.wait()
    code, said = health(tmp_path)
    assert (code, said) == (1, f"no relay is running on data folder {tmp_path / 'data'}")


async def test_a_relay_that_starts_or_was_killed_is_not_healthy(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        path = tmp_path / "data" / "run" / "relay.json"
        running = read_run_file(path)
        assert running is not None
        write_run_file(path, msgspec.structs.replace(running, is_ready=False))
        assert health(tmp_path) == (1, "the relay is still starting")
        write_run_file(path, msgspec.structs.replace(running, smtp=[f"127.0.0.1:{free_port()}"]))
        code, said = health(tmp_path)
        assert code == 1
        assert said.startswith("no SMTP greeting from 127.0.0.1:")
        write_run_file(path, running)
        assert relay.smtp_port


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "*"])
def test_a_service_is_healthy_when_its_probe_says_so(tmp_path: Path, host: str) -> None:
    reasons = ["", "queue unreachable"]
    address = f"{host}:{free_port()}"
    probe = Probe(address, lambda: reasons[0])
    probe.start()
    try:
        assert health(tmp_path, address) == (0, "ok")
        reasons.pop(0)
        assert health(tmp_path, address) == (1, "queue unreachable")
    finally:
        probe.close()
    code, said = health(tmp_path, address)
    assert code == 1
    assert said.startswith(f"the process's probe at {address} does not answer")
