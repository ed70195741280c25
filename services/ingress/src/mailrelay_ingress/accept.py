"""Make a submission of an envelope and its content: queue id, fields on top, jobs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

from mailrelay.mail.header import HeaderSection, Hop, fields_on_top, received_field
from mailrelay.mail.ids import QueueId, new_queue_id
from mailrelay.mail.job import Body, Job, Recipient
from mailrelay_ingress.session import Client, Transaction

_ENTROPY_BITS = 65


@dataclass(frozen=True, slots=True)
class Submission:
    """One DATA with its recipients, named, before its content is complete."""

    queue_id: QueueId
    accepted_at: float
    client: Client
    reverse_path: str
    recipients: tuple[str, ...]
    smtputf8: bool
    body_8bitmime: bool
    by: str

    @classmethod
    def begin(cls, client: Client, transaction: Transaction, by: str) -> Submission:
        """Name a submission as its DATA begins; `by` is the relay's own host name."""
        now = time.time()
        return cls(
            queue_id=new_queue_id(now, secrets.randbits(_ENTROPY_BITS)),
            accepted_at=now,
            client=client,
            reverse_path=transaction.reverse_path,
            recipients=tuple(transaction.recipients),
            smtputf8=transaction.smtputf8,
            body_8bitmime=transaction.body_8bitmime,
            by=by,
        )

    def fields_on_top(self, section: HeaderSection) -> bytes:
        """Return what goes in front of the client's content."""
        hop = Hop(
            helo=self.client.helo,
            peer_address=self.client.address,
            by=self.by,
            esmtp=self.client.esmtp,
            smtputf8=self.smtputf8,
            authenticated=bool(self.client.user),
            tls=self.client.tls,
        )
        received = received_field(hop, self.queue_id, self.recipients, self.accepted_at)
        return fields_on_top(section, received, self.queue_id, self.by, self.accepted_at)

    def batches(self, batch_size: int) -> int:
        """Return into how many jobs the submission is cut."""
        return -(-len(self.recipients) // batch_size)

    def jobs(
        self, batch_size: int, *, content: bytes, body: Body | None, size: int, traceparent: str
    ) -> Iterator[Job]:
        """Cut the submission into jobs, in the envelope's order."""
        batches = self.batches(batch_size)
        numbered = [Recipient(number, to) for number, to in enumerate(self.recipients)]
        for batch in range(batches):
            yield Job(
                submission=self.queue_id,
                batch=batch + 1,
                batches=batches,
                total_recipients=len(self.recipients),
                accepted_at=self.accepted_at,
                reverse_path=self.reverse_path,
                recipients=tuple(numbered[batch * batch_size : (batch + 1) * batch_size]),
                smtputf8=self.smtputf8,
                body_8bitmime=self.body_8bitmime,
                size_bytes=size,
                content=content,
                body=body,
                traceparent=traceparent,
            )
