"""The configuration that a relay's pods read, as it follows from the resource.

A value of the resource stays a value: this is data, written as JSON by whoever makes the ConfigMap,
and no text is put together from it. No secret is in it; files are named, which the pods mount.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from mailrelay.config.model import RelayConfig
from mailrelay.runtime.addresses import EVERY
from mailrelay_operator.resource import paths
from mailrelay_operator.resource.option import option_values
from mailrelay_operator.resource.quantity import amount
from mailrelay_operator.resource.queue import Queue
from mailrelay_operator.resource.relay import Relay, ResourceError
from mailrelay_operator.resource.routes import Route, SmartHost

# Of a volume's size in percent. ext4 takes 2.5 % and keeps 5 % for root; the rest is for
# nats-server's own files (docs/decisions/0027).
STORE_PERCENT: Final = 80


def relay_config(relay: Relay) -> dict[str, Any]:
    """Return the content of config.json, with every option that the resource says anything about.

    Raises ResourceError, in the relay's own words, when the relay would not take it: not all that
    it asks for is checked by the API server (one domain in two routes, say).
    """
    config = _translated(relay)
    try:
        RelayConfig.model_validate(config)
    except ValidationError as error:
        raise ResourceError([_words(details) for details in error.errors()]) from None
    return config


def _translated(relay: Relay) -> dict[str, Any]:
    spec = relay.spec
    config: dict[str, Any] = {}
    for found, value in option_values(spec):
        _put(config, found.path, value)
    config["hostName"] = spec.host_name or f"{relay.name}-ingress.{relay.namespace}.svc"
    config |= {
        "smtpHost": EVERY,
        "smtpPort": paths.SMTP_PORT,
        "enableHealthCheck": True,
        "healthCheckPort": paths.HTTP_PORT,
    }
    config["security"] |= {
        "allowLocalOnly": bool(spec.security.allowed_networks),
        "trustLoopback": False,
    }
    if relay.users_secret is not None:
        config["security"]["usersFile"] = str(paths.USERS_FOLDER / paths.USERS_KEY)
    config["tls"] = {
        "certFile": str(paths.TLS_FOLDER / paths.CERTIFICATE_KEY),
        "keyFile": str(paths.TLS_FOLDER / paths.PRIVATE_KEY_KEY),
        "selfSigned": False,
        "smtpsPort": paths.SMTPS_PORT if spec.ingress.smtps_port else 0,
    }
    config["http"] |= {
        "listen": [EVERY],
        "tokenFile": str(paths.HTTP_FOLDER / paths.TOKEN_KEY),
    }
    config["queue"]["storeBytes"] = store_bytes(spec.queue)
    if spec.routes:
        config["routes"] = [_route(route) for route in spec.routes]
    return config


def store_bytes(queue: Queue) -> int:
    """Return what the queue may use on each server's disk, in bytes.

    Raises ValueError when the volume's size is no amount; the API server takes none such.
    """
    if queue.store_bytes is not None:
        return queue.store_bytes
    return int(amount(queue.storage.size) * STORE_PERCENT / 100)


def _route(route: Route) -> dict[str, Any]:
    config: dict[str, Any] = {
        "name": route.name,
        "smartHosts": [_smart_host(host) for host in route.smart_hosts],
    }
    if not route.is_default:
        config["recipientDomains"] = list(route.recipient_domains)
    return config


def _smart_host(host: SmartHost) -> dict[str, Any]:
    config: dict[str, Any] = {
        "host": host.host,
        "port": host.port_or_default,
        "tls": host.tls.lower(),
        "verifyTLS": host.verify_tls,
    }
    if host.ca_secret_name is not None:
        folder = paths.upstream_folder(host.ca_secret_name)
        config["caFile"] = str(folder / paths.AUTHORITIES_KEY)
    if host.credentials_secret_name is not None:
        folder = paths.upstream_folder(host.credentials_secret_name)
        config["usernameFile"] = str(folder / paths.USERNAME_KEY)
        config["passwordFile"] = str(folder / paths.PASSWORD_KEY)
    return config


def _words(details: Mapping[str, Any]) -> str:
    """Say what the relay says, at the option that it says it of; at the field, for routes."""
    text = str(details["msg"]).removeprefix("Value error, ")
    place = details["loc"]
    path = "spec" if place[:1] == ("routes",) else ""
    for part in place:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return f"{path.removeprefix('.')}: {text}" if path else text


def _put(config: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for key in path[:-1]:
        config = config.setdefault(key, {})
    config[path[-1]] = list(value) if isinstance(value, tuple) else value
