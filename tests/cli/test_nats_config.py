from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from mailrelay.queue.names import Names
from mailrelay.queue.rights import Role, rights_of
from mailrelay.queue.server_config import MINIMUM_STORE_BYTES
from mailrelay_cli.data_folder import DataFolder, make_data_folder
from mailrelay_cli.errors import BadInputError
from mailrelay_cli.nats_config import (
    NatsServerPlan,
    make_credentials,
    note_reserved,
    reserved_bytes,
    store_bytes,
    write_nats_config,
)
from mailrelay_cli.nats_server import find_nats_server

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return make_data_folder(tmp_path / 'data "quoted" ünd mehr')


def written(folder: DataFolder) -> Path:
    return write_nats_config(
        NatsServerPlan(
            port=24_000,
            prefix="mailrelay",
            store_bytes=100_000_000,
            reserved_bytes=reserved_bytes(folder),
            public_keys=make_credentials(folder),
        ),
        folder,
    )


def test_every_write_is_synced_before_it_is_acked_and_nobody_else_is_let_in(
    folder: DataFolder,
) -> None:
    path = written(folder)
    config = json.loads(path.read_text())
    assert config["jetstream"]["sync_interval"] == "always"
    assert config["jetstream"]["max_file_store"] == 100_000_000
    assert config["max_payload"] == 8 * 1024 * 1024
    assert config["listen"] == "127.0.0.1:24000"
    assert not {"http", "http_port", "https_port", "monitor_port", "cluster", "leafnodes"} & set(
        config
    )
    assert path.stat().st_mode & 0o777 == 0o600


def test_each_role_has_exactly_its_rights(folder: DataFolder) -> None:
    config = json.loads(written(folder).read_text())
    users = config["authorization"]["users"] + config["accounts"]["$SYS"]["users"]
    assert len(users) == len(Role)
    assert len(config["accounts"]["$SYS"]["users"]) == 1
    for role, user in zip(Role, users, strict=True):
        rights = rights_of(role, Names("mailrelay"))
        assert user["permissions"]["publish"] == {"allow": list(rights.publish)}
        assert user["permissions"]["subscribe"] == {"allow": list(rights.subscribe)}
        assert user["nkey"].startswith("U")


def test_no_seed_stands_in_the_configuration_and_seeds_are_new_each_time(
    folder: DataFolder,
) -> None:
    seeds = set()
    for _ in range(2):
        text = written(folder).read_text()
        for role in Role:
            seed_file = folder.seed_file(role.value)
            seed = seed_file.read_text().strip()
            assert seed.startswith("SU")
            assert seed not in text
            assert seed_file.stat().st_mode & 0o777 == 0o600
            seeds.add(seed)
    assert len(seeds) == 2 * len(Role)


def test_nats_server_takes_the_configuration(folder: DataFolder) -> None:
    server = find_nats_server(lambda _: None)
    checked = subprocess.run(
        [server, "-t", "-c", written(folder)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_the_stores_size_is_decided_once_and_kept(folder: DataFolder) -> None:
    (folder.nats / "jetstream" / "deep").mkdir(parents=True)
    (folder.nats / "jetstream" / "deep" / "1.blk").write_bytes(b"x" * 10_000_000)
    free = shutil.disk_usage(folder.nats).free
    decided = store_bytes(folder, 0)
    assert decided == pytest.approx((free + 10_000_000) * 0.9, rel=0.05)
    (folder.nats / "store.json").write_text(json.dumps({"max_file_store": 123_456_789}))
    assert store_bytes(folder, 0) == 123_456_789


def test_a_configured_size_goes_before_the_kept_one(folder: DataFolder) -> None:
    store_bytes(folder, 0)
    assert store_bytes(folder, MINIMUM_STORE_BYTES) == MINIMUM_STORE_BYTES


def test_the_server_may_hold_what_its_streams_have_reserved_even_when_that_shrinks(
    folder: DataFolder,
) -> None:
    decided = store_bytes(folder, 0)
    note_reserved(folder, 200_000_000)
    assert json.loads(written(folder).read_text())["jetstream"]["max_file_store"] == 200_000_000
    note_reserved(folder, 50_000_000)
    assert json.loads(written(folder).read_text())["jetstream"]["max_file_store"] == 100_000_000
    assert store_bytes(folder, 0) == decided


def test_a_size_that_holds_nothing_is_a_fault(folder: DataFolder) -> None:
    with pytest.raises(BadInputError, match=r"^queue\.storeBytes: must be 0 or at least"):
        store_bytes(folder, MINIMUM_STORE_BYTES - 1)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"max_file_store": "1"}'])
def test_a_broken_note_of_the_size_is_written_anew(folder: DataFolder, text: str) -> None:
    (folder.nats / "store.json").write_text(text)
    decided = store_bytes(folder, 0)
    assert json.loads((folder.nats / "store.json").read_text())["max_file_store"] == decided
