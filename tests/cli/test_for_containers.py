"""`mailrelay prepare`, and a nats-server that is started with what it made."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

import pytest

from mailrelay.queue.nkey import public_key_of
from mailrelay.queue.rights import Role
from mailrelay_cli.errors import BadInputError
from mailrelay_cli.for_containers import PrepareOptions, prepare
from mailrelay_cli.nats_server import find_nats_server
from tests.support.ports import free_port
from tests.support.wait import wait_until

COMMAND = str(Path(sys.executable).with_name("mailrelay"))
SEEDS = {
    Role.ADMIN: "admin/seed",
    Role.INGRESS: "ingress/seed",
    Role.SENDER: "sender/seed",
    Role.MONITOR: "monitor/seed",
    Role.WATCH: "admin/watch-seed",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that was prepared."""
    monkeypatch.setenv("QUEUE_STORE_BYTES", str(10**9))
    prepare(options(tmp_path))
    return tmp_path / "prepared"


def options(tmp_path: Path) -> PrepareOptions:
    return PrepareOptions(tmp_path / "prepared", tmp_path / "store", None)


def test_each_role_has_a_key_of_its_own_that_the_server_knows(folder: Path) -> None:
    config = json.loads((folder / "nats" / "nats.conf").read_text())
    users = config["authorization"]["users"] + config["accounts"]["$SYS"]["users"]
    keys = [public_key_of((folder / SEEDS[role]).read_text().strip()) for role in Role]
    assert [user["nkey"] for user in users] == keys
    assert len(set(keys)) == len(Role)
    private = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}


def test_the_server_syncs_each_write_and_is_reached_from_other_containers(folder: Path) -> None:
    config = json.loads((folder / "nats" / "nats.conf").read_text())
    assert config["jetstream"]["sync_interval"] == "always"
    assert config["jetstream"]["max_file_store"] == 10**9
    assert config["listen"] == "0.0.0.0:4222"
    assert "log_file" not in config


def test_a_second_time_keeps_all_secrets(folder: Path, tmp_path: Path) -> None:
    def secrets() -> dict[Path, str]:
        return {path: path.read_text() for path in folder.rglob("*") if path.is_file()}

    before = secrets()
    prepare(options(tmp_path))
    assert secrets() == before


def test_a_seed_that_is_none_is_a_fault(folder: Path, tmp_path: Path) -> None:
    (folder / "sender" / "seed").write_text("rubbish\n")
    with pytest.raises(BadInputError, match="sender/seed holds no NKey seed"):
        prepare(options(tmp_path))


def test_the_queues_space_must_be_said(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"queue.storeBytes: .* QUEUE_STORE_BYTES"):
        prepare(options(tmp_path))


async def test_a_server_takes_it_and_the_admin_makes_the_queue(
    folder: Path, tmp_path: Path
) -> None:
    port = free_port()
    file = folder / "nats" / "nats.conf"
    file.write_text(file.read_text().replace("0.0.0.0:4222", f"127.0.0.1:{port}"))
    server = await asyncio.create_subprocess_exec(
        find_nats_server(print), "-c", file, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await wait_until(lambda: listens(port), 10.0, "nats-server listens")
        assert "stream mailrelay-in-0 created" in await ensured(port, folder / "admin" / "seed")
        assert (tmp_path / "store" / "jetstream").exists()
    finally:
        server.kill()
        await server.wait()


async def listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


async def ensured(port: int, seed: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *("queue", "ensure", "--nats", f"nats://127.0.0.1:{port}", "--seed-file", str(seed)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), 40)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said
    return said.decode()
