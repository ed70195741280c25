"""Whether a stream or consumer is still the one that it was: the server may lose its data.

A server that lost its data makes new streams and counts from 1 again. An ack of a record of the old
stream would then remove the *new* record of the same sequence number, and nobody would ever know
(measured; queue rule 14). So each claim carries when its consumer was made, and what it says to the
server is said only while that is known to hold: asked once behind each reconnect, because data can
only be lost while the connection is away. The same holds for a body and the record that names it:
chunks that were stored before the loss are no content for a job that is stored behind it.
"""

from __future__ import annotations

from mailrelay.queue.connection import QueueConnection


class Epoch:
    """When something at the server was made, known for as long as the connection stands."""

    def __init__(self, connection: QueueConnection, verb: str) -> None:
        """`verb` is what the JetStream API tells it by."""
        self._connection = connection
        self._verb = verb
        self._generation = -1
        self._created = ""

    @classmethod
    def of_consumer(cls, connection: QueueConnection, stream: str, consumer: str) -> Epoch:
        """Watch a consumer."""
        return cls(connection, f"CONSUMER.INFO.{stream}.{consumer}")

    @classmethod
    def of_stream(cls, connection: QueueConnection, stream: str) -> Epoch:
        """Watch a stream."""
        return cls(connection, f"STREAM.INFO.{stream}")

    async def current(self) -> str:
        """Return when it was made, in the server's words.

        Nothing is waited for when it is known already, so what is sent right behind it goes to
        the server that was asked. Raises QueueError, also while it is not there yet.
        """
        while self._generation != self._connection.generation:
            generation = self._connection.generation
            created = str((await self._connection.api(self._verb))["created"])
            if generation == self._connection.generation:
                self._created, self._generation = created, generation
        return self._created
