"""What of the configuration a process takes only at its start, and which process that is.

An option with the mark LIVE (docs/decisions/0020) is taken over while a process runs: it stands in
the ConfigMap alone. Any other stands in the environment of the pods that read it, which goes before
the file. So a change of it rolls those pods and no others, and a new pod cannot read an older
file's value, which a node may still have for a moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mailrelay.config.load import Option, options
from mailrelay_operator.desired.names import Component

_INGRESS: Final = frozenset({Component.INGRESS})
_SENDER: Final = frozenset({Component.SENDER})
_MONITOR: Final = frozenset({Component.MONITOR})
_STREAMS: Final = frozenset({Component.STREAMS})
_SERVICES: Final = _INGRESS | _SENDER | _MONITOR

# Every option without the mark, and who reads it.
READ_BY: Final[Mapping[str, frozenset[Component]]] = {
    "smtpHost": _INGRESS,
    "smtpPort": _INGRESS,
    "hostName": _INGRESS | _SENDER,
    "maxMessageBytes": _INGRESS,
    "maxConnections": _INGRESS,
    "workerCount": _SENDER,
    "queueSize": _STREAMS,
    "enableHealthCheck": _MONITOR,
    "healthCheckPort": _MONITOR,
    "security.trustLoopback": _INGRESS | _MONITOR,
    "capture.maxMessages": _STREAMS,
    "capture.whenFull": _STREAMS,
    "failed.resendIntervalSeconds": _MONITOR,
    "failed.resendBounced": _MONITOR,
    "failed.maxRecords": _MONITOR,
    "failed.maxBytes": _MONITOR,
    "failed.maxAgeSeconds": _MONITOR,
    "tls.certFile": _INGRESS,
    "tls.keyFile": _INGRESS,
    "tls.selfSigned": _INGRESS,
    "tls.smtpsPort": _INGRESS,
    "http.listen": _MONITOR,
    "emails.keepSeconds": _MONITOR,
    "emails.maxBytes": _MONITOR,
    "queue.prefix": _SERVICES | _STREAMS,
    "queue.storeBytes": _STREAMS,
    "queue.replicas": _STREAMS,
    "queue.ackWaitSeconds": _SENDER | _STREAMS,
}

_OPTIONS: Final = tuple(option for option in options() if not option.is_reloadable)


def environment(config: Mapping[str, Any], component: Component) -> dict[str, str]:
    """Return the variables of what a component's processes take at their start."""
    found = {}
    for option in _OPTIONS:
        if component in READ_BY[option.key] and (value := _value(config, option)) is not None:
            found[option.variable] = _text(value)
    return found


def _value(config: Mapping[str, Any], option: Option) -> Any:  # noqa: ANN401 — any option's
    node: Any = config
    for key in option.path:
        if not isinstance(node, Mapping) or key not in node:
            return None
        node = node[key]
    return node


def _text(value: object) -> str:
    """Return a value as the relay reads it from its environment."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)
