"""Scenarios in which passwords change, or the queue has no more room."""

from __future__ import annotations

import secrets
from typing import Final

from argon2 import PasswordHasher

from tests.cluster.mail import secret
from tests.cluster.relays import LOGIN, NAME, NAMESPACE, put_secret, wait_ready
from tests.cluster.scene import SECONDS, Scene, patch, wait_replicas
from tests.cluster.sinks import PASSWORD, USER
from tests.support.wait import wait_until

# What a client may be told and try again, beside what all scenarios allow: a client whose user
# is removed, or whose mail finds no room.
TOLD: Final = {
    "users are changed": {535},
    "no senders, and no more room": {452},
}
_USERS: Final = "relay-users"
_ROOM: Final = 300  # jobs
# More messages than all connections of a client send (`mail.load`): each is another one then.
_NEW_CONNECTIONS: Final = 600


async def users_changed(scene: Scene) -> None:
    """A user is added, the client takes over its password, and then the first one is removed."""
    generated = await secret(scene.client, f"{NAME}-smtp", NAMESPACE)
    first = (generated["username"], generated["password"])
    second = ("second", secrets.token_urlsafe())
    line = f"{second[0]}:{PasswordHasher().hash(second[1])}\n"
    both = generated["users"].rstrip("\n") + "\n" + line
    await put_secret(scene.client, NAMESPACE, _USERS, {"users": both})
    await patch(scene, {"security": {"usersSecretName": _USERS}})
    await wait_ready(scene.client, NAMESPACE)
    await wait_replicas(scene, "mail-ingress", 2)  # none is left that knows the first one alone
    await scene.load.log_in_as(*second)
    await scene.load.wait_accepted(_NEW_CONNECTIONS, SECONDS)
    assert not scene.load.ledger().told[535], "both are users"
    await put_secret(scene.client, NAMESPACE, _USERS, {"users": line})
    await scene.load.log_in_as(*first)  # who has not heard of it
    await scene.load.wait_told(535, 1, SECONDS)
    await scene.load.log_in_as(*second)
    await scene.load.wait_accepted(100)
    # Back to the generated user, whom the client hears of when it is refused.
    before = scene.load.ledger().told[535]
    await patch(scene, {"security": {"usersSecretName": None}})
    await scene.load.wait_told(535, before + 1, SECONDS)
    await scene.load.log_in_as(*first)
    await wait_ready(scene.client, NAMESPACE)
    await wait_replicas(scene, "mail-ingress", 2)  # none is left that knows the second one alone


async def smart_host_password_changed(scene: Scene) -> None:
    """The upstream takes another password from now on, and some time later the relay learns it."""
    other = secrets.token_urlsafe()
    for old, new in ((PASSWORD, other), (other, PASSWORD)):
        before = scene.sink.refused_logins()
        await scene.sink.let_in(**{USER: new})

        def is_refused(before: int = before) -> bool:
            return scene.sink.refused_logins() > before

        await wait_until(is_refused, SECONDS, "a sender is refused", 0.2)
        await scene.load.wait_accepted(50)
        await put_secret(scene.client, NAMESPACE, LOGIN, {"username": USER, "password": new})
        taken = len(scene.sink.deliveries(scene.load.run))

        def is_taken(taken: int = taken) -> bool:
            return len(scene.sink.deliveries(scene.load.run)) > taken + 50

        await wait_until(is_taken, SECONDS, f"mail is delivered by {new!r}, not {old!r}", 0.5)


async def without_room(scene: Scene) -> None:
    """No sender, and a queue that is full: clients are told 452 until senders are there again."""
    queue_size = {"queue": {"queueSize": _ROOM}}
    await patch(scene, {"sender": {"replicas": 0}, **queue_size})
    await wait_replicas(scene, "mail-sender", 0)
    await scene.load.wait_told(452, 20, SECONDS)
    waiting = len(scene.load.ledger().accepted) - len(scene.sink.deliveries(scene.load.run))
    assert waiting > 0
    await patch(scene, {"sender": {"replicas": 2}})
    await wait_replicas(scene, "mail-sender", 2)
    await scene.load.wait_accepted(200)
    await patch(scene, {"queue": {"queueSize": None}})
    await wait_ready(scene.client, NAMESPACE)
