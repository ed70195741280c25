"""A relay's pods as processes of this machine: their own commands, environment and files.

What a kubelet does with a manifest is done here by hand: volumes become folders, `$$` becomes `$`,
and names of pods become loopback addresses. Ports are free ones, because all share one machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import smtplib
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from mailrelay_cli.nats_server import find_nats_server
from mailrelay_operator.desired.manifest import Manifest
from mailrelay_operator.desired.pods import literal
from tests.support.ports import free_port
from tests.support.wait import wait_until

SECONDS = 40.0  # for anything to come about on a busy machine
_BIN = Path(sys.executable).parent
_SERVICES = ("ingress", "sender", "monitor")
# What the images set (Dockerfile).
_OF_IMAGES = {"MAILRELAY_CONTAINER": "1"}
Secrets = Mapping[str, Mapping[str, bytes]]


class Pod:
    """One pod of a manifest, with its files below a folder of its own."""

    def __init__(
        self,
        owner: Manifest,
        children: tuple[Manifest, ...],
        secrets: Secrets,
        folder: Path,
        name: str = "",
    ) -> None:
        self.folder = folder
        self._children = children
        self._secrets = secrets
        self._spec = owner["spec"]["template"]["spec"]
        (self.container,) = self._spec["containers"]
        self.component: str = self.container["name"]
        self.name = name or self.component
        self.ports = {port["name"]: free_port() for port in self.container.get("ports", ())}
        self.changes: dict[str, str] = {}  # of the environment
        self.texts: dict[str, str] = {}  # in files and arguments: names of pods, ports
        self.said = folder / "said"
        for mount in self.container["volumeMounts"]:
            self._mount(mount)

    def _mount(self, mount: Manifest) -> None:
        path = self.inside(mount["mountPath"])
        path.mkdir(parents=True)
        for volume in self._spec["volumes"]:
            if volume["name"] == mount["name"]:
                for name, content in self._files(volume).items():
                    file = path / name
                    file.parent.mkdir(exist_ok=True)
                    file.write_bytes(content)
                    file.chmod(0o440)

    def _files(self, volume: Manifest) -> dict[str, bytes]:
        if "configMap" in volume:
            (found,) = (
                each["data"]
                for each in self._children
                if (each["kind"], each["metadata"]["name"])
                == ("ConfigMap", volume["configMap"]["name"])
            )
            return {name: text.encode() for name, text in found.items()}
        if "secret" in volume:
            data = self._secrets[volume["secret"].get("secretName") or volume["secret"]["name"]]
            return {item["path"]: data[item["key"]] for item in volume["secret"]["items"]}
        files: dict[str, bytes] = {}
        for source in volume.get("projected", {}).get("sources", ()):
            files |= self._files(source)
        return files

    def inside(self, path: str) -> Path:
        """Where the pod's path is on this machine."""
        return self.folder / path.lstrip("/")

    def here(self, text: str) -> str:
        """What a text of the pod is on this machine: its folders, and what `texts` says."""
        paths = sorted(
            (mount["mountPath"] for mount in self.container["volumeMounts"]), key=len, reverse=True
        )
        any_path = rf"(?<![\w/])({'|'.join(map(re.escape, paths))})(?![\w-])"
        text = re.sub(any_path, lambda match: str(self.inside(match[0])), text)
        for old, new in self.texts.items():
            text = text.replace(old, new)
        return text

    def rewrite(self, path: str) -> None:
        """Change a file as `here` says."""
        file = self.inside(path)
        text = self.here(file.read_text())
        file.unlink()
        file.write_text(text)
        file.chmod(0o440)

    @property
    def environment(self) -> dict[str, str]:
        """The container's variables, on this machine."""
        found = dict(_OF_IMAGES) if self.component != "nats" else {}
        for variable in self.container.get("env", ()):
            if "value" in variable:
                value = variable["value"].replace("$$", "$")
                assert literal(value) == variable["value"]
                found[variable["name"]] = self.here(value)
        return {**found, **self.changes}

    @property
    def command(self) -> list[str]:
        """The image's entry point with the manifest's arguments."""
        arguments = [
            self.here(each.replace("$(POD_NAME)", self.name))
            for each in self.container.get("args", ())
        ]
        if self.component == "nats":
            return [str(find_nats_server(print)), *arguments]
        if self.component in _SERVICES:
            return [sys.executable, "-P", "-m", f"mailrelay_{self.component}", *arguments]
        return [str(_BIN / "mailrelay"), *arguments]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Let it run for a `with` block, and then tell it to end."""
        with self.said.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                env={"PATH": os.environ["PATH"], **self.environment},
                cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def wait_probed(self, probe: str) -> None:
        """Wait until a probe of the container says yes."""
        question = self.container[probe]["httpGet"]
        port = self.ports[question["port"]]

        async def says_yes() -> bool:
            status, text = await asyncio.to_thread(get, port, question["path"])
            assert status == 200, text
            return True

        await wait_until(says_yes, SECONDS, f"{self.name} answers {probe}", interval=0.1)


def get(
    port: int, path: str, headers: Mapping[str, str] | None = None, host: str = "127.0.0.1"
) -> tuple[int, str]:
    """Ask over HTTP; (0, why) when nobody answers."""
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    finally:
        connection.close()


def owner_of(children: tuple[Manifest, ...], component: str) -> Manifest:
    """What runs a component's pods."""
    (found,) = (
        each
        for each in children
        if "template" in each.get("spec", {})
        and each["metadata"]["labels"]["app.kubernetes.io/component"] == component
    )
    return found


def nats_pods(children: tuple[Manifest, ...], secrets: Secrets, folder: Path) -> list[Pod]:
    """The servers of a relay's own NATS, which find each other on loopback."""
    owner = owner_of(children, "nats")
    name = owner["metadata"]["name"]
    pods = [
        Pod(owner, children, secrets, folder / f"nats-{number}", f"{name}-{number}")
        for number in range(owner["spec"]["replicas"])
    ]
    for pod in pods:
        own = {"client": 4222, "probe": 8222, "route": 6222}
        pod.texts = {
            f"0.0.0.0:{own[port]}": f"127.0.0.1:{number}" for port, number in pod.ports.items()
        }
        for other in pods:
            for port, number in other.ports.items():
                pod.texts[f"{other.name}.{name}:{own[port]}"] = f"127.0.0.1:{number}"
        pod.rewrite("/etc/nats/nats.conf")
        if len(pods) > 1:
            pod.rewrite("/etc/nats/routes.conf")
    return pods


def url_of(pods: list[Pod]) -> str:
    """Where services find these servers."""
    return ",".join(f"nats://127.0.0.1:{pod.ports['client']}" for pod in pods)


def let_talk(
    pods: Mapping[str, Pod], nats_url: str, *, listen: str = "127.0.0.1"
) -> tuple[int, int]:
    """Give ingress, sender and monitor free ports on loopback; SMTP's and HTTP's."""
    for pod in pods.values():
        pod.changes = {
            "MAILRELAY_NATS_URL": nats_url,
            "MAILRELAY_PROBE_ADDRESS": f"{listen}:{pod.ports['probe']}",
            "MAILRELAY_DATA_DIR": str(pod.inside("/app/data")),
        }
    smtp, http = pods["ingress"].ports["submission"], pods["monitor"].ports["http"]
    pods["ingress"].changes |= {"SMTP_HOST": listen, "SMTP_PORT": str(smtp)}
    pods["monitor"].changes |= {
        "HEALTH_CHECK_PORT": str(http),
        "HTTP_LISTEN": listen,
        "MAILRELAY_SMTP_ADDRESS": f"127.0.0.1:{smtp}",
        "MAILRELAY_EMAILS_DIR": str(pods["monitor"].inside("/app/data/emails")),
    }
    return smtp, http


def send(port: int, secrets: Secrets, relay: str, namespace: str, host: str = "127.0.0.1") -> None:
    """Send one mail as a client in the cluster does: by the Service's name, with STARTTLS."""
    context = ssl.create_default_context(cadata=secrets[f"{relay}-ca"]["ca.crt"].decode())
    user = secrets[f"{relay}-smtp"]
    with smtplib.SMTP(host, port, timeout=SECONDS) as client:
        client._host = f"{relay}-ingress.{namespace}.svc"  # type: ignore[attr-defined]  # what TLS checks for
        client.starttls(context=context)
        client.login(user["username"].decode(), user["password"].decode())
        client.sendmail("a@example.org", ["b@example.net"], "Subject: one\r\n\r\nHello\r\n")
