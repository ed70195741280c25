"""Remove records that were acked and came back (admin only).

When the disk is full a removal may not reach it, while the consumer's note of the ack does. After
the next crash the record is in its stream again, and no consumer will ever deliver it. Below a
consumer's ack floor everything was acked or is another consumer's; nats-server itself removes such
records when it is clustered, and leaves them when it is alone (measured, 2.15.1).
"""

from __future__ import annotations

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueRefusedError
from mailrelay.queue.streams import work_queues
from mailrelay.runtime.steps import passed

_NOT_FOUND = 10037


async def remove_orphans(connection: QueueConnection) -> list[str]:
    """Remove them; return what was removed, as `<stream> <sequence>`. Raises QueueError."""
    removed = []
    for stream, consumer, subject in work_queues(connection.names):
        # The floor first: what is found below it afterwards cannot have come under it meanwhile.
        info = await connection.api(f"CONSUMER.INFO.{stream}.{consumer}")
        floor = int(info["ack_floor"]["stream_seq"])
        sequence = 0
        while sequence < floor:
            try:
                answer = await connection.api(
                    f"STREAM.MSG.GET.{stream}", {"seq": sequence + 1, "next_by_subj": subject}
                )
            except QueueRefusedError as error:
                if error.err_code == _NOT_FOUND:
                    break
                raise
            sequence = int(answer["message"]["seq"])
            if sequence <= floor:
                await connection.api(
                    f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True}
                )
                passed("orphan.removed")
                removed.append(f"{stream} {sequence}")
    return removed
