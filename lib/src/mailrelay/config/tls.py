"""TLS to a smart host as the configuration asks for it.

A bad certificate's fault is told in words that name the host, the reason and the option.
"""

from __future__ import annotations

import ssl

from mailrelay.config.load import ConfigError
from mailrelay.config.smart_hosts import ConfiguredHost


def upstream_context(host: ConfiguredHost) -> ssl.SSLContext:
    """Return the context for connections to a smart host; certificates are checked by default.

    Raises ConfigError when the authorities cannot be read.
    """
    path = host.section.ca_file
    try:
        context = ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        fault = (
            f"{host.option('caFile')}: must be a PEM file of certificates that can be read, "
            f'is "{path}": {_why(error)}'
        )
        raise ConfigError([fault]) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not host.section.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def certificate_words(
    error: ssl.SSLCertVerificationError, name: str, options: ConfiguredHost
) -> str:
    """Say why a server's certificate was not taken, and which options have a say in it."""
    words = error.verify_message.rstrip(".")
    return (
        f"the certificate of {name} is not valid: {words} ({options.option('caFile')} names "
        f"authorities of your own, {options.option('verifyTLS')}: false takes any certificate)"
    )


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)
