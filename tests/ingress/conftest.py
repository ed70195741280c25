from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from typing import cast

import pytest
import structlog

from mailrelay.runtime.logging import Logger
from mailrelay_cli.nats_server import find_nats_server
from tests.ingress.dialogue import MAX_MESSAGE_BYTES, assert_still_serves
from tests.ingress.ingress_process import PASSWORD, USER, Ingress, running_ingress
from tests.support.certificates import Certificates, make_certificates
from tests.support.nats import NatsServer


def silent_log() -> Logger:
    return cast(
        "Logger",
        structlog.wrap_logger(
            None,
            processors=[structlog.testing.LogCapture()],
            wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        ),
    )


@pytest.fixture(scope="session")
def log() -> Logger:
    return silent_log()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, log: Logger) -> Iterator[NatsServer]:
    server = NatsServer(find_nats_server(print), tmp_path_factory.mktemp("nats") / "server")
    server.start()
    server.reset(log)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def ingress(tmp_path_factory: pytest.TempPathFactory, server: NatsServer) -> Iterator[Ingress]:
    """An ingress without users, that takes up to 1 MB."""
    folder = tmp_path_factory.mktemp("ingress") / "plain"
    with running_ingress(folder, server, maxMessageBytes=MAX_MESSAGE_BYTES) as running:
        yield running


@pytest.fixture(scope="module")
def secure_ingress(
    tmp_path_factory: pytest.TempPathFactory, server: NatsServer, certificates: Certificates
) -> Iterator[Ingress]:
    """An ingress that offers TLS and asks for AUTH, with the default size limit."""
    with running_ingress(
        tmp_path_factory.mktemp("ingress") / "secure",
        server,
        defaultUsername=USER,
        defaultPassword=PASSWORD,
        security={"requireAuth": True, "logAllEmails": False},
        tls={
            "certFile": str(certificates.server.certificate),
            "keyFile": str(certificates.server.key),
        },
    ) as running:
        yield running


@pytest.fixture
async def unharmed(ingress: Ingress) -> AsyncIterator[Ingress]:
    """The ingress; after whatever the test did, the next client is served as ever."""
    yield ingress
    await assert_still_serves(ingress)
