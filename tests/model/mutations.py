"""Each rule broken once, and the walk that shows what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.model.rules import Rules
from tests.model.state import Walk
from tests.model.walks import walk_named

SOUND = Rules()


@dataclass(frozen=True, slots=True)
class Mutation:
    rule: str  # the switch that is off
    walk: str
    wrong: str  # part of what the checker says
    because: str = ""  # what the walk has to allow beyond its usual faults

    @property
    def rules(self) -> Rules:
        return replace(SOUND, **{self.rule: False})

    def on(self) -> Walk:
        walk = walk_named(self.walk)
        if not self.because:
            return walk
        return replace(walk, budget=walk.budget._replace(**{self.because: 1}))


LOST = "is lost"
REPEATED = "more often than promised"
BODILESS = "has no body any more"

MUTATIONS = (
    Mutation("ack_comes_last", "settle", LOST),
    Mutation("works_on_what_comes_again", "takeover", LOST, "crash"),
    Mutation("names_have_hop", "lanes", LOST),
    Mutation("names_have_attempt", "deferred twice", LOST),
    Mutation("names_have_recipients", "divided", LOST),
    Mutation("divisions_are_open", "divided", REPEATED),
    Mutation("repeats_the_same_batch", "batch", "452"),
    Mutation("body_before_record", "stored body", BODILESS),
    Mutation("sweep_asks", "stored body", LOST),
    Mutation("asks_before_deletion", "stored body", LOST),
    Mutation("asks_in_order", "stored body", LOST),
    Mutation("resend_is_current", "resend", "two resends"),
    Mutation("resend_is_marked", "resend", "two resends"),
    Mutation("marked_is_not_resent", "resend", "two resends"),
    Mutation("failed_is_stored_once", "resend", "two resends"),
    Mutation("tombstone_before_ack", "resend", REPEATED),
    Mutation("acks_know_the_epoch", "loss", LOST),
    Mutation("bodies_know_the_epoch", "loss of a body", LOST),
    Mutation("pace_is_advice", "pace", LOST),
    Mutation("pace_waits_are_bounded", "pace", "never becomes empty"),
    Mutation("lets_go_of_lost_claims", "takeover", REPEATED),
    Mutation("looks_when_sure", "stored body, takeover", BODILESS),
    Mutation("lost_claims_stay_lost", "takeover", REPEATED),
    Mutation("looks_before_each_store", "stored body, takeover", BODILESS),
    Mutation("resend_settles_marked", "resend", "came back"),
    Mutation("names_have_release", "capture", "swallowed"),
    Mutation("release_looks_again", "capture", BODILESS),
    Mutation("large_inline_is_found", "moved body", BODILESS),
    Mutation("monitor_takes_turns", "capture", BODILESS),
    Mutation("stops_spare_bodies", "stored body", LOST),
    Mutation("moves_are_open", "lanes", REPEATED),
    Mutation("window_is_excused", "deferred twice", REPEATED),
    Mutation("silence_is_excused", "takeover", REPEATED),
)
