"""The routes of a configuration with their smart hosts, whichever option they come from.

The guide's `forward…` options are one route with one smart host, for all recipients that no other
route takes; `routes` are the others. What a smart host needs is the same for both: its section, and
the names of its options, for faults to be told in the words that people wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mailrelay.config.load import ConfigError
from mailrelay.config.model import RelayConfig
from mailrelay.config.model.routes import SmartHost
from mailrelay.config.private_file import read_private_file
from mailrelay.mail.next_hop import format_next_hop

FORWARD: Final = "smarthost"  # what the route of the `forward…` options is called

_MAX_BYTES = 4096
_FORWARD_OPTIONS: Final = {
    "host": "forwardHost",
    "port": "forwardPort",
    "tls": "forwardSSL",
    "verifyTLS": "forwardVerifyTLS",
    "caFile": "forwardCAFile",
    "username": "forwardUsername",
    "password": "forwardPassword",
}


@dataclass(frozen=True, slots=True)
class ConfiguredHost:
    """A smart host, and where in the configuration it stands."""

    section: SmartHost
    place: str  # `routes[0].smartHosts[1]`; empty: the `forward…` options

    @property
    def next_hop(self) -> str:
        """The smart host as logs and records name it."""
        return format_next_hop(self.section.host, self.section.port)

    def option(self, key: str) -> str:
        """Return how an option of the smart host is named where people set it."""
        return f"{self.place}.{key}" if self.place else _FORWARD_OPTIONS[key]


@dataclass(frozen=True, slots=True)
class ConfiguredRoute:
    """A route: its name, the domains that it takes (None: all others), and its smart hosts."""

    name: str
    domains: tuple[str, ...] | None
    hosts: tuple[ConfiguredHost, ...]


def configured_routes(config: RelayConfig) -> tuple[ConfiguredRoute, ...]:
    """Return the routes that mail leaves by; none when everything is captured."""
    found = [
        ConfiguredRoute(
            route.name,
            route.recipient_domains,
            tuple(
                ConfiguredHost(section, f"routes[{number}].smartHosts[{place}]")
                for place, section in enumerate(route.smart_hosts)
            ),
        )
        for number, route in enumerate(config.routes)
    ]
    if config.forward_smtp:
        found.append(ConfiguredRoute(FORWARD, None, (forward_host(config),)))
    return tuple(found)


def forward_host(config: RelayConfig) -> ConfiguredHost:
    """Return what the `forward…` options say, whether mail is forwarded or not."""
    section = SmartHost.model_construct(
        host=config.forward_host,
        port=config.forward_port,
        tls="implicit" if config.forward_ssl else "opportunistic",
        verify_tls=config.forward_verify_tls,
        ca_file=config.forward_ca_file,
        username=config.forward_username,
        password=config.forward_password,
    )
    return ConfiguredHost(section, "")


def configured_hosts(config: RelayConfig) -> Iterator[ConfiguredHost]:
    """Yield every smart host that the configuration has a say in.

    That of the `forward…` options is always one: what is released to a next hop named by hand goes
    by its authorities, too.
    """
    for route in configured_routes(config):
        yield from (host for host in route.hosts if host.place)
    yield forward_host(config)


def host_files(config: RelayConfig) -> Iterable[Path | None]:
    """Return the files that the smart hosts are used with: authorities and credentials."""
    for host in configured_hosts(config):
        section = host.section
        yield from (section.ca_file, section.username_file, section.password_file)


def credentials(host: ConfiguredHost) -> tuple[str, str]:
    """Return user name and password, out of their files; empty when AUTH is not wanted.

    Raises ConfigError when a file cannot be used.
    """
    section = host.section
    username, password = section.username, section.password.get_secret_value()
    if section.username_file is not None:
        username = _line(host.option("usernameFile"), section.username_file)
    if section.password_file is not None:
        password = _line(host.option("passwordFile"), section.password_file)
    return username, password


def _line(option: str, path: Path) -> str:
    """Return the one line that a file holds; neither file is shown to others on the machine."""
    try:
        text = read_private_file(path, _MAX_BYTES).decode()
    except ConfigError as error:
        raise ConfigError([f"{option}: {fault}" for fault in error.faults]) from error
    except UnicodeDecodeError:
        # The cause would repeat what the file holds.
        raise ConfigError([f"{option}: {path}: it is not UTF-8 text"]) from None
    line = text.removesuffix("\n").removesuffix("\r")
    if not line or not line.isprintable():
        raise ConfigError([f"{option}: {path}: must hold one line, without control characters"])
    return line
