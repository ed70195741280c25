"""The protocol's rules as switches: all on is the protocol, each one off is a mutation of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    # Accept (queue rule 1).
    repeats_the_same_batch: bool = True  # off: job by job after an unknown outcome
    body_before_record: bool = True  # rule 3, for ingress and sender
    # Settle (rule 4).
    ack_comes_last: bool = True
    tombstone_before_ack: bool = True
    works_on_what_comes_again: bool = True  # off: acks a record that another still works on
    # A claim that the server may have given to another (its holder was stopped or cut off, or the
    # server was killed) is let go of when nothing was attempted yet.
    lets_go_of_lost_claims: bool = True
    # A follow-up that names a body is stored only while the job's own record is: otherwise another
    # process settled it, and the body may be gone.
    looks_before_naming_a_body: bool = True
    # Names (rule 5): what tells one follow-up from another.
    names_have_hop: bool = True
    names_have_attempt: bool = True
    names_have_recipients: bool = True
    names_have_release: bool = True
    # Resend (rule 8).
    # A job's failed record leaves one that is there as it is: it may be marked.
    failed_is_stored_once: bool = True
    resend_is_current: bool = True  # the record that it names is looked at before the attempt
    resend_is_marked: bool = True  # and marked by compare-and-set
    marked_is_not_resent: bool = True  # the monitor queues no resend of a marked record
    resend_settles_marked: bool = True  # what it stores replaces the record with its own mark alone
    # Bodies (rule 10).
    asks_before_deletion: bool = True  # off: a final event is enough
    sweep_asks: bool = True  # off: age is enough
    asks_in_order: bool = True  # in, lane, failed, capture
    purge_is_bounded: bool = True  # by a sequence known before the question
    # The subject of a record whose content may move to the body stream (over 64 KB) has the
    # submission from the start, so that the question finds it.
    large_inline_is_found: bool = True
    # A release waits for a question about a body (the model: resends and deletions, too).
    monitor_takes_turns: bool = True
    # A process may be stopped for long, but not between a body and the record that names it.
    stops_spare_bodies: bool = True
    # Loss of the server's data (rule 14).
    acks_know_the_epoch: bool = True
    # A body stored before the loss is not named in the new queue.
    bodies_know_the_epoch: bool = True
    # Several jobs of one submission (rule 11).
    pace_is_advice: bool = True
    pace_waits_are_bounded: bool = True
    # What counts as open at a kill (decision 0004): also a job whose lane move was not acked.
    moves_are_open: bool = True
    # A repeat of a publish that was cut off for longer than the window is excused like a kill.
    window_is_excused: bool = True
    # An upstream that took the mail and whose answer never came is excused like a kill.
    silence_is_excused: bool = True
