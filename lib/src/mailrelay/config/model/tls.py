"""TLS of the listener."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from mailrelay.config.model.section import Section


class Tls(Section):
    """The listener's certificate; STARTTLS is offered when there is one.

    Files are read again when they change; sessions that are open go on.
    """

    cert_file: Path | None = Field(default=None, description="PEM file: certificate and chain.")
    key_file: Path | None = Field(default=None, description="PEM file: private key.")
    self_signed: bool = Field(
        default=False,
        description="Whether the relay makes a certificate of its own, kept in the data folder and "
        "renewed 30 days before its end.",
    )
    smtps_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port with TLS from the first octet (465 by custom), on `smtpHost`; 0: none.",
    )

    @model_validator(mode="after")
    def _both(self) -> Tls:
        if (self.cert_file is None) != (self.key_file is None):
            msg = "certFile and keyFile must be set together"
            raise ValueError(msg)
        if self.self_signed and self.cert_file is not None:
            msg = "selfSigned is true and certFile is set: leave one of them out"
            raise ValueError(msg)
        if self.smtps_port and not self.is_on:
            msg = "smtpsPort needs a certificate: set certFile and keyFile, or selfSigned to true"
            raise ValueError(msg)
        return self

    @property
    def is_on(self) -> bool:
        """Whether there is a certificate at all."""
        return self.self_signed or self.cert_file is not None
