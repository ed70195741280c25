"""TLS as the configuration asks for it, and what to say when it does not work.

The listener's certificate, the authorities that an upstream is checked against, and a bad
certificate's fault in words that name the host, the reason and the option.
"""

from __future__ import annotations

import ssl

from mailrelay.config.load import ConfigError
from mailrelay.config.model import RelayConfig


def upstream_context(config: RelayConfig, *, source: str = "") -> ssl.SSLContext:
    """Return the context for connections to the upstream; certificates are checked by default.

    `source` says where the option's value came from. Raises ConfigError when the authorities
    cannot be read.
    """
    path = config.forward_ca_file
    try:
        context = ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        fault = (
            f"{_prefix(source)}forwardCAFile: must be a PEM file of certificates that can be read, "
            f'is "{path}": {_why(error)}'
        )
        raise ConfigError([fault]) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not config.forward_verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def listener_context(config: RelayConfig, *, source: str = "") -> ssl.SSLContext | None:
    """Return the context for the listener, or None without a certificate. Raises ConfigError."""
    tls = config.tls
    if tls.cert_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        fault = (
            f"{_prefix(source)}tls.certFile, tls.keyFile: must be PEM files of a certificate and "
            f'its key that can be read, are "{tls.cert_file}" and "{tls.key_file}": {_why(error)}'
        )
        raise ConfigError([fault]) from error
    return context


def certificate_words(error: ssl.SSLCertVerificationError, host: str) -> str:
    """Say why an upstream's certificate was not taken, and which option has a say in it."""
    words = error.verify_message.rstrip(".")
    return (
        f"the certificate of {host} is not valid: {words} (forwardCAFile names authorities of "
        "your own, forwardVerifyTLS: false takes any certificate)"
    )


def _prefix(source: str) -> str:
    return f"{source}: " if source else ""


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)
