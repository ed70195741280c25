"""The two key slots of each role at NATS, and how a key is replaced without losing mail.

A role's Secret has a seed in slot `a`, in slot `b`, or in both, and says which slot is in use. NATS
knows the keys of both, so a replacement is three steps, each taken once the last one holds:

1. `BEGIN`: a new seed goes into the free slot. NATS takes it over by rolling, one server at a time.
2. `SWITCH`: the free slot becomes the one in use. The role's pods roll, and connect with the new
   key; those that still end go on with the old one.
3. `END`: no pod is left that was started with the old key; it is forgotten, and NATS rolls again.

Somebody asks for a replacement by a word of theirs (a date, say) that is another than the last one.
Nothing here is random or knows the time: what was observed goes in, the next step comes out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final

from mailrelay.queue.nkey import public_key_of

# Keys of the Secret beside the seeds.
IN_USE: Final = "slot"  # which slot it is
ASKED: Final = "asked"  # the word that the last replacement was asked for by
NEW_SPARE: Final = "new-spare"  # there while the seed of the free slot is the new one
_SEED: Final = "seed-"


class Slot(Enum):
    """One of the two places of a role's key."""

    A = "a"
    B = "b"

    @property
    def other(self) -> Slot:
        """The other one."""
        return Slot.B if self is Slot.A else Slot.A

    @property
    def seed_key(self) -> str:
        """The key of the seed in the role's Secret."""
        return f"{_SEED}{self.value}"


class Step(Enum):
    """What a replacement does next."""

    BEGIN = "begin"
    SWITCH = "switch"
    END = "end"


@dataclass(frozen=True, slots=True)
class KeySlots:
    """What a role's Secret holds, without the seeds."""

    in_use: Slot
    public_keys: Mapping[Slot, str] = field(default_factory=dict)
    asked: str = ""
    spare_is_new: bool = False

    @property
    def current(self) -> str:
        """The public key of the slot that pods are started with."""
        return self.public_keys[self.in_use]

    @property
    def known(self) -> tuple[str, ...]:
        """The public keys that NATS lets in, in the slots' order."""
        return tuple(self.public_keys[slot] for slot in Slot if slot in self.public_keys)

    @property
    def spare(self) -> str | None:
        """The public key of the other slot, when it has one."""
        return self.public_keys.get(self.in_use.other)


def key_slots(data: Mapping[str, bytes]) -> KeySlots | None:
    """Read a role's Secret; None when the slot in use has no seed that can be read.

    A damaged seed in the other slot counts as none.
    """
    try:
        in_use = Slot(data.get(IN_USE, b"").decode("ascii", "replace").strip())
    except ValueError:
        return None
    keys = {
        slot: public_key
        for slot in Slot
        if (public_key := _public_key(data.get(slot.seed_key, b"")))
    }
    if in_use not in keys:
        return None
    asked = data.get(ASKED, b"").decode("utf-8", "replace")
    return KeySlots(in_use, keys, asked, NEW_SPARE in data)


def next_step(
    slots: KeySlots,
    *,
    asked: str,
    nats_lets_in: Collection[str],
    keys_of_pods: Collection[str],
) -> Step | None:
    """Return the next step of a role's replacement; None: there is none, or it is to be waited.

    `asked`: the word that people ask by, empty when they never did. `nats_lets_in`: the public keys
    that every NATS server has taken over. `keys_of_pods`: those that the role's pods were started
    with, pods that end included.
    """
    spare = slots.spare
    if spare is None:
        is_lost = slots.spare_is_new  # somebody took the new seed away
        return Step.BEGIN if is_lost or asked not in {"", slots.asked} else None
    if slots.spare_is_new:
        return Step.SWITCH if spare in nats_lets_in else None
    return Step.END if spare not in keys_of_pods else None


@lru_cache(maxsize=16_384)  # a few thousand relays; 0.25 ms each otherwise, at every pass
def _public_key(seed: bytes) -> str:
    try:
        return public_key_of(seed.decode("ascii").strip())
    except ValueError:
        return ""
