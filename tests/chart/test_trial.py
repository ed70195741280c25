"""What `helm test` runs, run against a real relay of the chart's own test resource."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.chart.helm import Helm, named
from tests.operator.pods_as_processes import Secrets
from tests.operator.test_pods_as_processes import running_relay
from tests.support import command
from tests.support.kubernetes.client import Manifest
from tests.support.ports import free_port

pytestmark = pytest.mark.operator

NAMESPACE = "apps"
# The pod's names become loopback: what a name server in the cluster does.
RUN = """
import runpy, socket, sys
ask = socket.getaddrinfo
def answer(host, *rest, **more):
    return ask("127.0.0.1" if str(host).endswith(".svc") else host, *rest, **more)
socket.getaddrinfo = answer
runpy.run_path(sys.argv[1], run_name="__main__")
"""


async def trial(helm: Helm) -> tuple[Manifest, Manifest, str]:
    """The test's relay, its pod, and the script that the pod runs."""
    manifests = await helm.rendered(NAMESPACE, {"fullnameOverride": "mail"})
    relay = named(manifests, "MailRelay", "mail-test")
    pod = named(manifests, "Pod", "mail-test")
    return relay, pod, named(manifests, "ConfigMap", "mail-test")["data"]["try_relay.py"]


@pytest.mark.timeout(300)
async def test_its_message_is_submitted_and_seen_at_the_sink(
    renderer: Helm, tmp_path: Path
) -> None:
    relay, pod, script = await trial(renderer)
    port = free_port()
    (host,) = relay["spec"]["routes"][0]["smartHosts"]
    assert host["host"] == "mail-test-sink.apps.svc"
    host |= {"host": "127.0.0.1", "port": port}
    async with running_relay(relay["spec"], tmp_path / "relay", {}) as running:
        code, said = await ran(pod, script, tmp_path, running.smtp, port, running.secrets)
    assert code == 0, said
    assert "the sink has the message" in said


@pytest.mark.timeout(300)
async def test_it_fails_and_says_where_when_the_relay_delivers_nothing(
    renderer: Helm, tmp_path: Path
) -> None:
    relay, pod, script = await trial(renderer)
    (host,) = relay["spec"]["routes"][0]["smartHosts"]
    host |= {"host": "127.0.0.1", "port": free_port()}  # nobody is there
    async with running_relay(relay["spec"], tmp_path / "relay", {}) as running:
        code, said = await ran(
            pod, script, tmp_path, running.smtp, free_port(), running.secrets, limit=10
        )
    assert code == 1
    assert "the relay took the message, and did not deliver it within 10 s" in said


async def test_it_fails_and_says_where_when_the_relay_takes_nothing(
    renderer: Helm, tmp_path: Path
) -> None:
    _, pod, script = await trial(renderer)
    secrets = {"mail-smtp": {"username": b"u", "password": b"p"}, "mail-ca": {"ca.crt": b""}}
    code, said = await ran(pod, script, tmp_path, free_port(), free_port(), secrets, limit=2)
    assert code == 1
    assert "the relay took no message within 2 s" in said


async def ran(
    pod: Manifest,
    script: str,
    folder: Path,
    relay_port: int,
    sink_port: int,
    secrets: Secrets,
    *,
    limit: int = 120,
) -> tuple[int, str]:
    """Run the pod's container on this machine."""
    (container,) = pod["spec"]["containers"]
    environment = {each["name"]: each.get("value", "") for each in container["env"]}
    volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
    for name, secret in (("user", "mail-smtp"), ("ca", "mail-ca")):
        # The relay runs as `mail` here, in the cluster as `mail-test`.
        assert volumes[name]["secret"]["secretName"] == secret.replace("mail-", "mail-test-")
        (folder / name).mkdir()
        for item in volumes[name]["secret"]["items"]:
            (folder / name / item["path"]).write_bytes(secrets[secret][item["key"]])
    assert environment["RELAY_HOST"] == "mail-test-ingress.apps.svc"
    environment |= {
        "LIMIT_SECONDS": str(limit),
        "SINK_ADDRESS": "127.0.0.1",
        "SINK_PORT": str(sink_port),
        "RELAY_HOST": "mail-ingress.apps.svc",
        "RELAY_PORT": str(relay_port),
        "USER_FOLDER": str(folder / "user"),
        "CA_FILE": str(folder / "ca" / "ca.crt"),
    }
    file = folder / "try_relay.py"
    file.write_text(script)
    done = await command.run(
        sys.executable,
        "-c",
        RUN,
        str(file),
        environ={"PATH": os.environ["PATH"], **environment},
        limit=200,
    )
    return done.code, done.stdout + done.stderr
