"""How this process reaches the API server: its pod's account, or a kubeconfig file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from mailrelay_operator.cluster.errors import ClusterError

KUBECONFIG = "KUBECONFIG"
IN_POD = "KUBERNETES_SERVICE_HOST"
_CONNECTIONS = 64  # watches keep one each; the rest is for what relays need


@dataclass(frozen=True, slots=True)
class Access:
    """The same for another library."""

    server: str
    ca_file: str | None
    verifies: bool
    token: str | None = field(repr=False)
    certificate_file: str | None = None
    key_file: str | None = None


async def log_in(environ: Mapping[str, str]) -> ApiClient:
    """Return a client. Raises ClusterError when nothing says where the API server is."""
    client = ApiClient(await _settings(environ))
    client.user_agent = "mailrelay-operator"
    return client


async def access(environ: Mapping[str, str]) -> Access:
    """Return the same as values, with the token that holds now. Raises ClusterError."""
    settings = await _settings(environ)
    shown = await settings.get_api_key_with_prefix("BearerToken")
    return Access(
        server=settings.host,
        ca_file=settings.ssl_ca_cert,
        verifies=settings.verify_ssl,
        token=_without_scheme(shown) if shown else None,
        certificate_file=settings.cert_file,
        key_file=settings.key_file,
    )


def _without_scheme(shown: str) -> str:
    """Return the token alone. The client writes `Bearer` before some and `bearer` before others."""
    scheme, _, token = shown.partition(" ")
    return token if scheme.lower() == "bearer" else shown


async def _settings(environ: Mapping[str, str]) -> Configuration:
    settings = Configuration()
    try:
        if IN_POD in environ and not environ.get(KUBECONFIG):
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call] # its own
        else:
            await config.load_kube_config(  # type: ignore[no-untyped-call] # its own
                config_file=environ.get(KUBECONFIG) or None,
                client_configuration=settings,
                persist_config=False,
            )
    except (config.ConfigException, OSError) as error:
        raise ClusterError(
            f"no API server: this is no pod with an account, and {KUBECONFIG} names no usable file "
            f"({error})"
        ) from error
    settings.connection_pool_maxsize = _CONNECTIONS
    return settings
