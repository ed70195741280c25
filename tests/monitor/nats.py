"""The real nats-server of the tests; its home is `tests.support.nats`."""

from tests.support.nats import NatsServer

__all__ = ["NatsServer"]
