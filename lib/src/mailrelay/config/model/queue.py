"""The queue underneath."""

from __future__ import annotations

from pydantic import Field, field_validator

from mailrelay.config.model.section import Section


class Queue(Section):
    """The queue underneath."""

    prefix: str = Field(
        default="mailrelay",
        pattern=r"^[a-z][a-z0-9-]{0,39}$",
        description="First part of every name at NATS.",
    )
    store_bytes: int = Field(
        default=0,
        ge=0,
        description="What the queue may use on disk; 0: most of what is free at the first start.",
    )
    replicas: int = Field(
        default=1,
        ge=1,
        le=5,
        description="Copies of each record, each on a server of its own: 1, 3 or 5. More than 1 "
        "needs a NATS cluster of as many servers; `mailrelay run` starts one.",
    )
    ack_wait_seconds: float = Field(
        default=30,
        ge=1,
        le=600,
        description="After a sender's crash its open mail is taken up by another this soon.",
    )

    @field_validator("replicas")
    @classmethod
    def _odd(cls, replicas: int) -> int:
        """Refuse even numbers: they cost a copy more and bear no more failures."""
        if replicas % 2 == 0:
            msg = f"must be 1, 3 or 5, is {replicas}"
            raise ValueError(msg)
        return replicas
