"""The guide's part without containers, as it is written, on a machine with a real systemd."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compose.machine import Machine, running_machine
from tests.compose.page import PAGE, SYSTEMD, commit, publish
from tests.support.pages import separate_blocks
from tests.support.wait import wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(900)]

COMMAND = "/opt/mailrelay/.venv/bin/mailrelay"
DATA = "--data-dir /var/lib/mailrelay"
# A low port, which only a capability of the unit opens, and no upstream: mail is captured.
CONFIG = {"smtpPort": 25, "security": {"requireAuth": False}}
LOG = "/var/lib/mailrelay/log/mailrelay.log"
FOLDER = "/etc/mailrelay"
READY_SECONDS = 90.0  # measured 3 s, 6 s at a load of 25
BIND_SERVICE = f"{1 << 10:016x}"  # CAP_NET_BIND_SERVICE, alone


async def test_the_service_does_what_the_page_says(tmp_path: Path) -> None:
    install, ask, reload, back_up, restore, upgrade = separate_blocks(PAGE)[SYSTEMD]
    upstream = await publish(tmp_path / "upstream")
    async with running_machine() as machine:
        await machine.take(upstream, "/srv/upstream")
        await machine.do("git clone --quiet /srv/upstream /opt/mailrelay")
        await configure(machine, CONFIG, "/opt/mailrelay")
        await machine.do(install)
        await wait_healthy(machine)
        await send(machine)
        await wait_captured(machine, 1)
        assert "1 in all" in await machine.do(ask)
        await it_may_do_its_work_and_no_more(machine)
        await it_is_back_after_a_kill(machine)
        await a_changed_configuration_is_taken_over(machine, reload)
        await what_was_backed_up_comes_back(machine, back_up, restore)
        await a_newer_version_goes_on(machine, upstream, upgrade)
        await a_fault_that_starting_again_does_not_mend_is_not_tried_again(machine)


async def configure(machine: Machine, config: dict[str, object], folder: str = FOLDER) -> None:
    await machine.do(f"cat > {folder}/config.json <<'END'\n{json.dumps(config)}\nEND")


async def shown(machine: Machine, name: str) -> str:
    return (await machine.do(f"systemctl show --property {name} --value mailrelay")).strip()


async def wait_healthy(machine: Machine) -> None:
    async def is_healthy() -> bool:
        asked = await machine.run(f"{COMMAND} health {DATA}")
        assert asked.code == 0, asked
        return True

    try:
        await wait_until(is_healthy, READY_SECONDS, "the service is healthy", 0.2)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{await journal(machine)}") from error


async def journal(machine: Machine) -> str:
    return await machine.do("journalctl --unit mailrelay --no-pager --output cat")


async def send(machine: Machine) -> None:
    said = await machine.do(
        f"{COMMAND} send --to you@example.com --config {FOLDER}/config.json {DATA}"
    )
    assert "you@example.com: captured" in said


async def wait_captured(machine: Machine, count: int) -> None:
    async def has() -> bool:
        listed = await machine.do(f"{COMMAND} captured list {DATA} --json")
        assert json.loads(listed)["records"] == count, listed
        return True

    await wait_until(has, READY_SECONDS, f"{count} messages are captured", 0.2)


async def it_may_do_its_work_and_no_more(machine: Machine) -> None:
    """What the kernel says of the processes, not what the unit says."""
    pids = (
        await machine.do("cat /sys/fs/cgroup/system.slice/mailrelay.service/cgroup.procs")
    ).split()
    assert len(pids) >= 5  # supervisor, nats-server, ingress, sender, monitor
    for pid in pids:
        status = dict(
            line.split(":\t", 1)
            for line in (await machine.do(f"cat /proc/{pid}/status")).splitlines()
        )
        assert status["Uid"].split()[0] == (await machine.do("id --user mailrelay")).strip()
        assert (status["CapEff"], status["CapBnd"]) == (BIND_SERVICE, BIND_SERVICE)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    mounts = [
        line.split() for line in (await machine.do(f"cat /proc/{pids[0]}/mountinfo")).splitlines()
    ]
    access = {mount[4]: mount[5].split(",")[0] for mount in mounts}
    assert (access["/"], access["/var/lib/mailrelay"]) == ("ro", "rw")


async def it_is_back_after_a_kill(machine: Machine) -> None:
    before = await shown(machine, "MainPID")
    await machine.do(f"kill -KILL {before}")

    async def is_another() -> bool:
        return await shown(machine, "MainPID") not in {before, "0"}

    await wait_until(is_another, READY_SECONDS, "systemd has started it again", 0.2)
    await wait_healthy(machine)
    assert await shown(machine, "NRestarts") == "1"
    await send(machine)
    await wait_captured(machine, 2)


async def a_changed_configuration_is_taken_over(machine: Machine, reload: str) -> None:
    before = await shown(machine, "MainPID")
    await configure(machine, CONFIG | {"heloName": "relay.example.org"})
    await machine.do(reload)

    async def is_told() -> bool:
        return "relay.example.org" in await machine.do(f"grep config.changed {LOG} || true")

    await wait_until(is_told, READY_SECONDS, "the log says that the change is in force", 0.2)
    assert await shown(machine, "MainPID") == before


async def what_was_backed_up_comes_back(machine: Machine, back_up: str, restore: str) -> None:
    await machine.do(back_up)
    assert await shown(machine, "Result") == "success"  # an orderly stop
    await wait_healthy(machine)
    await send(machine)
    await wait_captured(machine, 3)
    await machine.do(restore)
    await wait_healthy(machine)
    await wait_captured(machine, 2)


async def a_newer_version_goes_on(machine: Machine, upstream: Path, upgrade: str) -> None:
    unit = upstream / "deploy" / "mailrelay.service"
    unit.write_text(
        unit.read_text().replace("Description=MailRelay", "Description=Newer MailRelay")
    )
    await commit(upstream, "A newer version")
    await machine.do("rm -rf /srv/upstream")
    await machine.take(upstream, "/srv/upstream")
    await machine.do(upgrade)
    assert await shown(machine, "Description") == "Newer MailRelay"
    await wait_healthy(machine)
    await wait_captured(machine, 2)


async def a_fault_that_starting_again_does_not_mend_is_not_tried_again(machine: Machine) -> None:
    await configure(machine, {"smtpPort": "25"})
    await machine.run("systemctl restart mailrelay")

    async def has_failed() -> bool:
        return await shown(machine, "ActiveState") == "failed"

    await wait_until(has_failed, READY_SECONDS, "the service has failed", 0.2)
    assert (await shown(machine, "ExecMainStatus"), await shown(machine, "NRestarts")) == ("2", "0")
    assert 'smtpPort: must be a whole number from 1 to 65535, is "25"' in await journal(machine)
