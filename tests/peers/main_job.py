"""The main job on real input: many messages of all shapes through the relay to another mail server.

`python -m tests.peers.main_job --messages 1200` starts a mail server and a relay of its own,
hands the messages over in several sessions at once, compares what the mail server stored with
what was sent, octet for octet, prints a table and ends with 1 on any difference.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.exim import running_exim
from tests.support.messages import CorpusMessage, corpus, of_size
from tests.support.peer import Peer, StartPeer, mail_params, wait_mails
from tests.support.postfix import running_postfix
from tests.support.relay import forwarding_to, running_relay
from tests.support.smtp_client import SmtpDialogue
from tests.support.stored import compare

PEERS: dict[str, StartPeer] = {"exim": running_exim, "postfix": running_postfix}
DOMAIN = "corpus.test"
SESSIONS = 8
# One message in so many has so many recipients; 45 are three jobs at the default batchSize.
RECIPIENTS = ((100, 45), (10, 3))
LARGE_EVERY, LARGE_BYTES = 50, 2_000_000
REPLY_SECONDS = 60.0
FULL_PAUSE_SECONDS = 0.2
SHOWN_DIFFERENCES = 10


@dataclass(frozen=True, slots=True)
class Sent:
    """One message and to whom it went."""

    message: CorpusMessage
    recipients: tuple[str, ...]

    @property
    def shape(self) -> str:
        """What the table calls it."""
        return self.message.name.rpartition("-")[0]


@dataclass(slots=True)
class Outcome:
    """What a run came to; counters are by shape."""

    sent: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    identical: Counter[str] = field(default_factory=Counter)
    added_date: Counter[str] = field(default_factory=Counter)
    added_message_id: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    octets: int = 0
    accepted_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether everything arrived once and unchanged."""
        return not self.faults and self.identical == self.copies


def messages(seed: int, count: int) -> Iterator[Sent]:
    """Make the messages, each with recipients of its own."""
    for number, message in enumerate(corpus(seed, count)):
        if number % LARGE_EVERY == LARGE_EVERY // 2:
            message = CorpusMessage(  # noqa: PLW2901
                f"large_attachment-{number}",
                of_size(LARGE_BYTES, number),
                needs_8bit=False,
                needs_smtputf8=False,
            )
        many = next((n for every, n in RECIPIENTS if number % every == every - 1), 1)
        yield Sent(message, tuple(f"m{number}.{n}@{DOMAIN}" for n in range(many)))


async def hand_over(port: int, todo: Iterator[Sent], *, pipelined: bool) -> None:
    """One session: submit until nothing is left."""
    async with SmtpDialogue.greeted("127.0.0.1", port) as dialogue:
        dialogue.limit_seconds = REPLY_SECONDS
        for sent in todo:
            while True:
                submitted = await dialogue.submit(
                    "ada@sender.test",
                    sent.recipients,
                    sent.message.content,
                    mail_params=mail_params(sent.message),
                    pipelined=pipelined,
                )
                if submitted.accepted:
                    break
                if submitted.final is None or submitted.final.code != 452:
                    raise AssertionError(f"{sent.message.name} was not taken: {submitted}")
                await asyncio.sleep(FULL_PAUSE_SECONDS)  # queue full: a client comes again
        await dialogue.quit()


async def run(peer_name: str, count: int, seed: int = 0, sessions: int = SESSIONS) -> Outcome:
    """Run the whole job."""
    everything = list(messages(seed, count))
    by_recipient = {recipient: sent for sent in everything for recipient in sent.recipients}
    outcome = Outcome(octets=sum(len(sent.message.content) for sent in everything))
    outcome.sent.update(sent.shape for sent in everything)
    with tempfile.TemporaryDirectory(prefix="mailrelay-main-job-") as folder:
        async with (
            PEERS[peer_name]() as peer,
            running_relay(Path(folder), **forwarding_to(peer.port), workerCount=8) as relay,
        ):
            started = time.monotonic()
            todo = iter(everything)
            async with asyncio.TaskGroup() as group:
                for number in range(sessions):
                    pipelined = number % 2 == 1
                    group.create_task(hand_over(relay.smtp_port, todo, pipelined=pipelined))
            outcome.accepted_seconds = time.monotonic() - started
            await wait_mails(peer, len(by_recipient), 60 + count / 20)
            outcome.seconds = time.monotonic() - started
            await relay.wait_health(
                30, total_emails_processed=count, queued_emails=0, failed_emails=0
            )
            judge(peer, by_recipient, outcome)
    return outcome


def judge(peer: Peer, by_recipient: dict[str, Sent], outcome: Outcome) -> None:
    """Hold each stored copy against what was sent to that recipient."""
    outcome.copies.update(sent.shape for sent in by_recipient.values())
    seen: Counter[str] = Counter()
    for mail in peer.mails():
        seen[mail.recipient] += 1
        sent = by_recipient[mail.recipient]
        found = compare(peer.tidied(sent.message.content), mail.content)
        outcome.added_date[sent.shape] += found.added_date
        outcome.added_message_id[sent.shape] += found.added_message_id
        if found.identical and mail.reverse_path == "ada@sender.test":
            outcome.identical[sent.shape] += 1
        else:
            outcome.different[sent.shape] += 1
            outcome.faults.append(f"{sent.message.name}: {found.difference or mail.reverse_path}")
    for recipient in by_recipient:
        if seen[recipient] != 1:
            outcome.faults.append(f"{recipient} has {seen[recipient]} copies")


def report(peer_name: str, outcome: Outcome) -> str:
    """Write the table."""
    columns = ("shape", "messages", "copies", "identical", "+Date", "+Message-ID", "different")
    lines = ["{:34}{:>9}{:>8}{:>11}{:>7}{:>13}{:>11}".format(*columns)]
    for shape in [*sorted(outcome.sent), "all"]:
        counts = [
            counter.total() if shape == "all" else counter[shape]
            for counter in (
                outcome.sent,
                outcome.copies,
                outcome.identical,
                outcome.added_date,
                outcome.added_message_id,
                outcome.different,
            )
        ]
        lines.append("{:34}{:>9}{:>8}{:>11}{:>7}{:>13}{:>11}".format(shape, *counts))
    lines.append(
        f"\n{outcome.sent.total()} messages ({outcome.octets / 1e6:.1f} MB) of "
        f"{len(outcome.sent)} shapes, {outcome.copies.total()} copies, through the relay to "
        f"{peer_name}: accepted after {outcome.accepted_seconds:.1f} s, "
        f"all delivered after {outcome.seconds:.1f} s"
    )
    lines += outcome.faults[:SHOWN_DIFFERENCES]
    good = "every copy is what was sent, octet for octet, and arrived once"
    lines.append(good if outcome.is_good else f"{len(outcome.faults)} FAULTS")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run it as a command."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers.main_job")
    parser.add_argument("--messages", type=int, default=1200, help="how many (default 1200)")
    parser.add_argument("--peer", choices=sorted(PEERS), default="postfix")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    options = parser.parse_args(arguments)
    outcome = asyncio.run(run(options.peer, options.messages, options.seed, options.sessions))
    sys.stdout.write(report(options.peer, outcome) + "\n")
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
