"""What is in an image and what is not, how large it is, and what it needs to run."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import zlib

import pytest

from tests.compose.conftest import table
from tests.compose.docker import docker, inspect, logs_of, run
from tests.compose.images import TARGETS
from tests.support.wait import wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(180)]

MAX_COMPRESSED_BYTES = 130 * 1000 * 1000
SERVICES = ("ingress", "sender", "monitor")
_CHUNK_BYTES = 1024 * 1024
_TOOLS = ("cc", "gcc", "c++", "go", "uv", "make", "curl", "wget")


def compressed_bytes(image: str) -> int:
    """The size of an image in a registry, at most: gzip, quicker and worse than `docker push`."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    size = 0
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:  # noqa: S607
        assert saving.stdout is not None
        while chunk := saving.stdout.read(_CHUNK_BYTES):
            size += len(packer.compress(chunk))
    assert saving.returncode == 0
    return size + len(packer.flush())


@pytest.mark.parametrize("target", ["all-in-one", "nats", "operator"])
async def test_it_is_small(target: str) -> None:
    size = await asyncio.to_thread(compressed_bytes, TARGETS[target])
    table.append(f"{target}: {size / 1e6:.1f} MB compressed (gzip -1)")
    assert size < MAX_COMPRESSED_BYTES


async def test_the_services_share_all_their_layers_and_the_whole_relay_has_them_too() -> None:
    layers = [(await inspect(TARGETS[each]))["RootFS"]["Layers"] for each in (*SERVICES, "tools")]
    assert all(each == layers[0] for each in layers)
    whole = (await inspect(TARGETS["all-in-one"]))["RootFS"]["Layers"]
    assert whole[: len(layers[0])] == layers[0]  # so each service is smaller than that


@pytest.mark.parametrize("target", TARGETS)
async def test_its_user_is_a_number_and_it_says_what_it_is(target: str) -> None:
    config = (await inspect(TARGETS[target]))["Config"]
    assert config["User"] == "10001:10001"
    wanted = {"title", "licenses", "version"}
    assert {f"org.opencontainers.image.{each}" for each in wanted} <= set(config["Labels"])
    assert isinstance(config["Entrypoint"], list)  # no shell in between


async def python(image: str, program: str) -> str:
    return await docker("run", "--rm", "--entrypoint", "python", image, "-c", program)


async def packages_of(image: str) -> set[str]:
    listing = "import importlib.metadata as m; print(sorted(d.name for d in m.distributions()))"
    return set(json.loads((await python(image, listing)).replace("'", '"')))


@pytest.mark.parametrize("image", ["mailrelay", "mailrelay-operator"])
async def test_no_compiler_and_nothing_that_builds_is_in_it(image: str) -> None:
    asking = f"import shutil; print([each for each in {_TOOLS!r} if shutil.which(each)])"
    assert (await python(image, asking)).strip() == "[]"
    assert not {"setuptools", "uv", "uv_build", "pytest"} & await packages_of(image)


async def test_a_relay_cannot_talk_to_kubernetes_and_the_operator_is_no_relay() -> None:
    relay, operator = await packages_of("mailrelay"), await packages_of("mailrelay-operator")
    assert not {"kubernetes", "kopf", "mailrelay-operator"} & relay
    assert {"kubernetes", "kopf", "mailrelay-operator"} <= operator
    services = {f"mailrelay-{each}" for each in (*SERVICES, "cli")}
    assert services <= relay
    assert not services & operator


async def test_an_operator_that_is_told_too_little_says_what_and_ends() -> None:
    ended = await run(
        *("docker", "run", "--rm", "--read-only", "--cap-drop", "ALL", "--network", "none"),
        "mailrelay-operator",
    )
    assert ended.code == 2
    assert "MAILRELAY_OPERATOR_NAMESPACE must be set" in ended.stdout + ended.stderr


async def test_it_runs_python_3_13() -> None:
    found = await docker("run", "--rm", "--entrypoint", "python", "mailrelay", "--version")
    assert found.startswith("Python 3.13.")


async def test_a_relay_runs_without_a_shell_a_right_or_a_disk_of_its_own() -> None:
    name = f"mailrelay-bare-{secrets.token_hex(4)}"
    shells = [("--volume", f"/dev/null:/usr/bin/{each}:ro") for each in ("sh", "bash", "dash")]
    await docker(
        *("run", "--detach", "--name", name, "--read-only", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges", "--network", "none", "--health-interval", "1s"),
        *("--mount", "type=volume,destination=/app/data"),
        *("--mount", "type=volume,destination=/app/emails"),
        *(part for shell in shells for part in shell),
        "mailrelay",
    )
    try:
        asked = await run("docker", "exec", name, "/bin/sh", "-c", "true")
        assert asked.code != 0  # there is none

        async def is_healthy() -> bool:
            return bool((await inspect(name))["State"]["Health"]["Status"] == "healthy")

        await wait_until(is_healthy, 90.0, "the relay is healthy", 0.2)
        await docker("stop", "--time", "60", name)
        assert (await inspect(name))["State"]["ExitCode"] == 0
        lines = [
            json.loads(line) for line in (await logs_of(name)).splitlines()
        ]  # JSON and nothing else
        assert lines[-1]["event"] == "relay.stopped"
    finally:
        await docker("rm", "--force", "--volumes", name)
