"""TLS to the upstream as the configuration asks for it.

A bad certificate's fault is told in words that name the host, the reason and the option.
"""

from __future__ import annotations

import ssl

from mailrelay.config.load import ConfigError
from mailrelay.config.model import RelayConfig


def upstream_context(config: RelayConfig) -> ssl.SSLContext:
    """Return the context for connections to the upstream; certificates are checked by default.

    Raises ConfigError when the authorities cannot be read.
    """
    path = config.forward_ca_file
    try:
        context = ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        fault = (
            "forwardCAFile: must be a PEM file of certificates that can be read, "
            f'is "{path}": {_why(error)}'
        )
        raise ConfigError([fault]) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not config.forward_verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def certificate_words(error: ssl.SSLCertVerificationError, host: str) -> str:
    """Say why an upstream's certificate was not taken, and which option has a say in it."""
    words = error.verify_message.rstrip(".")
    return (
        f"the certificate of {host} is not valid: {words} (forwardCAFile names authorities of "
        "your own, forwardVerifyTLS: false takes any certificate)"
    )


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)
