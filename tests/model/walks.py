"""The walks: small worlds, each about a group of rules, that are explored to the end."""

from __future__ import annotations

from dataclasses import replace

from tests.model.state import Budget, Walk

BOTH = ("sent", "deferred")
ALL = ("sent", "deferred", "refused")

WALKS = (
    Walk(
        "accept",
        "one recipient; lost acks, kills of everybody, the client sends again",
        ((0,),),
        ("sent",),
        Budget(client_crash=1, crash=1, ingress_crash=1, restart=1, lost_reply=2, full=1, again=1),
    ),
    Walk(
        "batch",
        "three recipients in two jobs, stored all or none",
        ((0, 1), (2,)),
        ("sent",),
        Budget(crash=1, lost_reply=1, full=1, again=1, ingress_crash=1),
    ),
    Walk(
        "settle",
        "two recipients of one job, each sent, deferred or refused",
        ((0, 1),),
        ALL,
        Budget(crash=1),
    ),
    Walk(
        "three recipients",
        "two jobs: one recipient deferred or sent, one refused, one sent; then what is deferred",
        ((0, 1), (2,)),
        ALL,
        Budget(crash=1, lost_reply=1),
        outcomes_of=(BOTH, ("refused",), ("sent",)),
    ),
    Walk(
        "deferred twice",
        "one recipient deferred up to three times; an ack of a publish is lost",
        ((0,),),
        BOTH,
        Budget(crash=1, lost_reply=1),
        attempts=3,
    ),
    Walk(
        "divided",
        "a job of two recipients with two routes, of which one may be deferred",
        ((0, 1),),
        BOTH,
        Budget(crash=1),
        outcomes_of=(BOTH, ("sent",)),
        routes=(0, 1),
    ),
    Walk(
        "divided, takeover",
        "two routes; a sender is stopped while it divides or delivers, another takes over",
        ((0, 1),),
        ("sent",),
        Budget(stop=1),
        routes=(0, 1),
    ),
    Walk(
        "divided body",
        "two routes; content that moves to the body stream when it is divided",
        ((0, 1),),
        ("sent",),
        Budget(crash=1),
        content="inline",
        routes=(0, 1),
    ),
    Walk(
        "takeover",
        "a sender is stopped, or the server killed, while it works; another takes over",
        ((0,),),
        BOTH,
        Budget(stop=1, restart=1, silence=1),
    ),
    Walk(
        "lanes",
        "a deferred job that may not be due when its lane comes up",
        ((0,),),
        BOTH,
        Budget(stop=1),
        moves=2,
    ),
    Walk(
        "resend",
        "a failed record resent by hand, asked for twice",
        ((0,),),
        ("sent", "refused"),
        Budget(crash=1, lost_reply=1, resend=2, delete=1),
        attempts=1,
    ),
    Walk(
        "stored body",
        "two jobs whose body is stored",
        ((0,), (1,)),
        BOTH,
        Budget(crash=1),
        content="stored",
    ),
    Walk(
        "stored body, takeover",
        "one recipient whose body is stored; a sender is stopped, or the server killed",
        ((0,),),
        BOTH,
        Budget(stop=1),
        content="stored",
    ),
    Walk(
        "moved body",
        "content that moves to the body stream when it is deferred or fails",
        ((0,),),
        BOTH,
        Budget(crash=1),
        content="inline",
    ),
    Walk(
        "moved body, takeover",
        "content that moves to the body stream when it is deferred or fails",
        ((0,),),
        BOTH,
        Budget(stop=1),
        content="inline",
    ),
    Walk(
        "resent body",
        "two failed recipients of one body, resent",
        ((0, 1),),
        ("sent", "refused"),
        Budget(resend=1),
        attempts=1,
        content="stored",
    ),
    Walk(
        "capture",
        "captured, released twice, deleted",
        ((0,),),
        ("sent", "deferred"),
        Budget(release=2),
        content="stored",
        captures=True,
    ),
    Walk(
        "loss",
        "the server comes back empty; new mail gets the old sequence numbers",
        ((0,),),
        BOTH,
        Budget(loss=1, lost_reply=1, crash=1),
    ),
    Walk(
        "loss of a body",
        "the server comes back empty while a body is being stored",
        ((0,),),
        ("sent",),
        Budget(loss=1, lost_reply=1, crash=1),
        content="stored",
    ),
    Walk(
        "pace",
        "two jobs one after the other; what says whose turn it is may be lost",
        ((0,), (1,)),
        ("sent",),
        Budget(crash=1, restart=1),
        paces=True,
    ),
)

# What comes on top of each walk's own faults in the long form.
_MORE = {
    "accept": {"crash": 2},
    "batch": {"crash": 2, "restart": 1, "client_crash": 1},
    "settle": {"crash": 2},
    "three recipients": {"crash": 2},
    "deferred twice": {"crash": 2},
    "divided": {"lost_reply": 1},
    "divided, takeover": {"restart": 1},
    "divided body": {"lost_reply": 1},
    "takeover": {"crash": 1},
    "lanes": {"crash": 1, "lost_reply": 1},
    "resend": {"crash": 2},
    "stored body": {"monitor_crash": 1},
    "stored body, takeover": {"restart": 1, "monitor_crash": 1},
    "moved body": {"monitor_crash": 1, "lost_reply": 1},
    "moved body, takeover": {"restart": 1, "monitor_crash": 1},
    "resent body": {"resend": 2, "crash": 1, "monitor_crash": 1, "lost_reply": 1},
    "capture": {"monitor_crash": 1},
    "loss": {"restart": 1},
    "loss of a body": {"crash": 2, "restart": 1},
    "pace": {"lost_reply": 1, "ingress_crash": 1},
}
LONG_WALKS = tuple(replace(walk, budget=walk.budget._replace(**_MORE[walk.name])) for walk in WALKS)


def walk_named(name: str) -> Walk:
    """Raises KeyError."""
    return {walk.name: walk for walk in WALKS}[name]
