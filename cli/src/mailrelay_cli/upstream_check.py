"""`mailrelay upstream check`: what keeps mail from each upstream, one step after the other.

DNS, connection, greeting, TLS, EHLO, AUTH, as a sender does them and by the same options; then
QUIT. No MAIL is said, so nothing is sent. By the standard library's client, not the sender's: a
second opinion on the same server.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import smtplib
import socket
import ssl
from collections.abc import Callable
from typing import Any

from mailrelay.config.model import RelayConfig
from mailrelay.config.smart_hosts import (
    ConfiguredHost,
    configured_routes,
    credentials,
    forward_host,
)
from mailrelay.config.tls import certificate_words, upstream_context
from mailrelay.runtime.lifecycle import EXIT_FAILED, EXIT_OK
from mailrelay_cli.errors import BadInputError

STEP_SECONDS = 15.0
_SOON_DAYS = 14
_TELLS_TIME = "%b %d %H:%M:%S %Y %Z"  # as the ssl module writes it

Say = Callable[[str], None]


class _FailedError(Exception):
    """A step failed; its line is the text."""


class _Smtp(smtplib.SMTP):
    """A client on a socket that is connected already."""

    def __init__(self, connected: socket.socket, ehlo_name: str) -> None:
        super().__init__(local_hostname=ehlo_name, timeout=STEP_SECONDS)
        self._connected = connected

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:  # noqa: ARG002 — the base's signature
        return self._connected


def check_upstream(config: RelayConfig, say: Say) -> int:
    """Try each step at each smart host and tell it; the exit code. Raises BadInputError."""
    routes = configured_routes(config)
    if not routes and not config.forward_host:
        raise BadInputError("there is no upstream to check: set forwardHost, or routes")
    if not routes:
        say("note   forwardSMTP is false: the relay captures mail and does not use this upstream")
        return _checked(config, forward_host(config), say)
    has_names = len(routes) > 1 or len(routes[0].hosts) > 1 or bool(config.routes)
    codes = []
    for route in routes:
        for host in route.hosts:
            if has_names:
                say(f"route  {route.name}: {host.next_hop}")
            codes.append(_checked(config, host, say))
    return max(codes)


def _checked(config: RelayConfig, host: ConfiguredHost, say: Say) -> int:
    try:
        _Check(config, host, say).run()
    except _FailedError as error:
        say(str(error))
        return EXIT_FAILED
    return EXIT_OK


class _Check:
    def __init__(self, config: RelayConfig, host: ConfiguredHost, say: Say) -> None:
        self._options = host
        self._say = say
        self._host, self._port = host.section.host, host.section.port
        self._is_implicit = host.section.tls == "implicit"
        self._name = config.helo_name or config.host_name or socket.getfqdn()
        self._context = upstream_context(host)
        self._username, self._password = credentials(host)
        self._is_tls = False
        self._address = ""

    def run(self) -> None:
        """Go through the steps. Raises _FailedError."""
        addresses = self._resolve()
        plain = self._connect(addresses)
        client = self._greeting(plain)
        try:
            self._ehlo(client)
            if not self._is_implicit:
                self._starttls(client)
            self._auth(client)
        finally:
            try:
                client.quit()
            except (smtplib.SMTPException, OSError):
                client.close()

    def _ok(self, step: str, words: str) -> None:
        self._say(f"ok     {step}: {words}")

    def _fail(self, step: str, words: str) -> _FailedError:
        return _FailedError(f"FAILED {step}: {words}")

    def _resolve(self) -> list[tuple[Any, ...]]:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            words = f"{self._host} has no address: {error} ({self._options.option('host')})"
            raise self._fail("DNS", words) from error
        self._ok("DNS", f"{self._host} is {', '.join(dict.fromkeys(str(a[4][0]) for a in found))}")
        return list(found)

    def _connect(self, addresses: list[tuple[Any, ...]]) -> socket.socket:
        faults = []
        for family, kind, protocol, _, address in addresses:
            made = socket.socket(family, kind, protocol)
            made.settimeout(STEP_SECONDS)
            try:
                made.connect(address)
            except OSError as error:
                made.close()
                faults.append(f"{address[0]} port {address[1]}: {error.strerror or error}")
                continue
            self._address = str(address[0])
            self._ok("connection", f"{address[0]} port {address[1]}")
            return made
        options = f"{self._options.option('host')}, {self._options.option('port')}"
        raise self._fail("connection", f"{'; '.join(faults)} ({options})")

    def _greeting(self, plain: socket.socket) -> _Smtp:
        if self._is_implicit:
            plain = self._wrapped(plain)
        client = _Smtp(plain, self._name)
        try:
            code, text = client.connect(self._host, self._port)
        except (smtplib.SMTPException, OSError) as error:
            plain.close()
            option = self._options.option("tls")
            hint = "" if self._is_implicit else f"; is this a port for TLS ({option})?"
            words = f"no SMTP greeting: {_why(error)}{hint}"
            raise self._fail("greeting", words) from error
        if code != 220:  # noqa: PLR2004 — RFC 5321 section 4.3.2
            client.close()
            raise self._fail("greeting", f"{code} {_text(text)}")
        self._ok("greeting", f"{code} {_text(text)}")
        return client

    def _ehlo(self, client: _Smtp) -> None:
        try:
            code, text = client.ehlo()
        except (smtplib.SMTPException, OSError) as error:
            raise self._fail("EHLO", f"{_why(error)}") from error
        if code != 250:  # noqa: PLR2004 — RFC 5321 section 4.3.2
            raise self._fail("EHLO", f"{code} {_text(text)} (heloName is {self._name})")
        offered = ", ".join(name.upper() for name in client.esmtp_features) or "nothing"
        self._ok("EHLO", f"as {self._name}; offers {offered}")

    def _starttls(self, client: _Smtp) -> None:
        if not client.has_extn("starttls") and self._options.section.tls == "starttls":
            words = "the server does not offer STARTTLS"
            option = self._options.option("tls")
            raise self._fail("TLS", f"{words} ({option}: opportunistic goes on without)")
        if not client.has_extn("starttls"):
            self._say("none   TLS: the server does not offer STARTTLS; mail goes in the clear")
            return
        code, text = client.docmd("STARTTLS")
        if code != 220:  # noqa: PLR2004 — RFC 3207 section 4
            raise self._fail("TLS", f"STARTTLS is answered {code} {_text(text)}")
        plain = client.sock
        assert plain is not None  # noqa: S101 — connected
        client.sock = self._wrapped(plain)
        client.file = None
        client.ehlo_resp = client.helo_resp = None  # RFC 3207 section 4.2: begin anew
        client.esmtp_features, client.does_esmtp = {}, False
        self._ehlo(client)

    def _wrapped(self, plain: socket.socket) -> ssl.SSLSocket:
        try:
            secure = self._context.wrap_socket(plain, server_hostname=self._host)
        except ssl.SSLCertVerificationError as error:
            plain.close()
            words = certificate_words(error, self._host, self._options)
            raise self._fail("TLS", words) from error
        except (ssl.SSLError, OSError) as error:
            plain.close()
            words = f"{getattr(error, 'reason', None) or error}"
            if self._is_implicit:
                words += f"; is this a port for STARTTLS ({self._options.option('tls')})?"
            raise self._fail("TLS", words) from error
        self._is_tls = True
        cipher = secure.cipher()
        kind = f"{cipher[1]} with {cipher[0]}" if cipher else "TLS"
        if not self._options.section.verify_tls:
            option = self._options.option("verifyTLS")
            self._say(f"ok     TLS: {kind}; certificate NOT verified ({option} is false)")
            return secure
        certificate = secure.getpeercert() or {}
        self._ok("TLS", f"{kind}; {_told(certificate)}")
        ends = dt.datetime.strptime(str(certificate["notAfter"]), _TELLS_TIME).replace(
            tzinfo=dt.UTC
        )
        if (days := (ends - dt.datetime.now(dt.UTC)).days) < _SOON_DAYS:
            self._say(f"note   TLS: the certificate ends in {days} days")
        return secure

    def _auth(self, client: _Smtp) -> None:
        user, option = self._username, self._options.option("username")
        if not user:
            self._say(f"none   AUTH: {option} is not set")
            return
        if (
            not self._is_tls
            and not ipaddress.ip_address(self._address.partition("%")[0]).is_loopback
        ):
            words = "the server offers no TLS, and a password is never sent in the clear"
            raise self._fail("AUTH", words)
        try:
            code, text = client.login(user, self._password)
        except smtplib.SMTPAuthenticationError as error:
            words = f"{error.smtp_code} {_text(error.smtp_error)}"
            raise self._fail("AUTH", f"{words} ({option} is {user}; or the password)") from error
        except (smtplib.SMTPException, OSError) as error:
            raise self._fail("AUTH", f"{_why(error)}") from error
        self._ok("AUTH", f"as {user}: {code} {_text(text)}")


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def _text(reply: bytes | str) -> str:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _told(certificate: dict[str, Any]) -> str:
    """Say for whom a certificate is, by whom, and until when."""
    names = ", ".join(value for _, value in certificate.get("subjectAltName", ())) or "no name"
    issuer = {key: value for part in certificate.get("issuer", ()) for key, value in part}
    signed = issuer.get("commonName") or issuer.get("organizationName") or "unknown"
    return f"certificate for {names}, signed by {signed}, valid until {certificate.get('notAfter')}"
