"""One MailRelay resource, as the API server shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from mailrelay_operator.resource.spec import Spec

GROUP: Final = "mailrelay.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "MailRelay"
PLURAL: Final = "mailrelays"
SHORT_NAME: Final = "mrelay"
CATEGORY: Final = "mailrelay"
MAX_NAME: Final = 40  # children's names and label values (63 characters) are made of it


class ResourceError(ValueError):
    """A resource that cannot be used; `faults` has a line for each thing wrong."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Relay:
    """A relay as somebody wants it."""

    name: str
    namespace: str
    uid: str
    generation: int
    spec: Spec

    @property
    def users_secret(self) -> str | None:
        """The Secret with the file of users; None when nobody needs a password."""
        security = self.spec.security
        if security.users_secret_name is not None:
            return security.users_secret_name
        return f"{self.name}-smtp" if security.require_auth else None

    @property
    def tls_secret(self) -> str:
        """The Secret with the listener's certificate, whoever makes it."""
        tls = self.spec.ingress.tls
        made = f"{self.name}-tls-issued" if tls.issuer_ref is not None else f"{self.name}-tls"
        return tls.secret_name or made

    @property
    def token_secret(self) -> str:
        """The Secret with the token for the monitor's HTTP."""
        return self.spec.monitor.token_secret_name or f"{self.name}-http-token"


def read_relay(body: Mapping[str, Any]) -> Relay:
    """Read a resource. Raises ResourceError.

    The API server has checked it by the definition that was in force when it was written; an older
    one may have let through what this operator does not know.
    """
    metadata = body["metadata"]
    try:
        spec = Spec.model_validate(body.get("spec") or {})
    except ValidationError as error:
        raise ResourceError([_words(details) for details in error.errors()]) from None
    return Relay(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        generation=metadata["generation"],
        spec=spec,
    )


def _words(details: Mapping[str, Any]) -> str:
    path = "spec"
    for part in details["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return f"{path}: {details['msg']}"
