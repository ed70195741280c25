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
    # Whoever may have lost a claim for a while has lost it for good: a hold does not bring it back.
    lost_claims_stay_lost: bool = True
    # What remains of a job is stored only while the job's own record is there: otherwise another
    # process settled it, and the body may be gone. Off: looked at once, when the attempt has ended.
    looks_before_each_store: bool = True
    # Also when the claim is surely ours: somebody who held it before may ack it all the same.
    looks_when_sure: bool = True
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
    marked_is_not_resent: bool = True  # nor while the mark is that of a resend that is alive
    resend_settles_marked: bool = True  # what it stores replaces the record with its own mark alone
    # Bodies (rule 10).
    asks_before_deletion: bool = True  # off: a final event is enough
    sweep_asks: bool = True  # off: age is enough
    asks_in_order: bool = True  # in, lane, failed, capture
    # The subject of a record whose content may move to the body stream (over 64 KB) has the
    # submission from the start, so that the question finds it.
    large_inline_is_found: bool = True
    # A release waits for a question about a body.
    monitor_takes_turns: bool = True
    # And looks then whether its captured record is still there.
    release_looks_again: bool = True
    # An assumption: a process may be stopped for long, but not between a body, or a look at its own
    # record, and the record that it stores next; and within these milliseconds no other sender acks
    # the record and the monitor asks for the body.
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
    # And one of which a part is stored in a lane, while it is divided by route.
    divisions_are_open: bool = True
    # A repeat of a publish that was cut off for longer than the window is excused like a kill.
    window_is_excused: bool = True
    # An upstream that took the mail and whose answer never came is excused like a kill.
    silence_is_excused: bool = True
