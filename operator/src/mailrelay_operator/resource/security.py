"""Who may use the relay."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mailrelay_operator.resource.option import option
from mailrelay_operator.resource.schema import Cidr, ListType, ObjectName, Rule, Section


class Security(Section):
    """Who may use the relay. An address gives no rights: AUTH does, or a network that is named."""

    RULES = (
        Rule(
            "self.requireAuth || size(self.allowedNetworks) > 0",
            "requireAuth is false and allowedNetworks is empty, so whoever reaches the port could "
            "send: set allowedNetworks to those that may, or requireAuth to true",
            field=".allowedNetworks",
            reason="FieldValueRequired",
        ),
    )

    require_auth: bool = option("security.requireAuth")
    users_secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with the key `users`: a `name:hash` a line, the hash by argon2 "
        "(`mailrelay users add` writes such a file); read again when it changes. Not set, while "
        "requireAuth is true: the operator makes one user, in the Secret `<name>-smtp` with "
        "`username`, `password` and `users`.",
    )
    allowed_networks: Annotated[tuple[Cidr, ...], ListType("set")] = option(
        "security.allowedNetworks",
        description="Networks whose clients are served, and no others; empty: all. The address is "
        "the one that the pod sees: behind a load balancer or a node's port it is the client's own "
        "only with service.externalTrafficPolicy Local.",
        max_length=256,
    )
    allow_plaintext_auth: bool = option(
        "security.allowPlaintextAuth",
        description="Whether a client may send its password without TLS. Whoever is on the way can "
        "read it.",
    )
    log_all_emails: bool = option(
        "security.logAllEmails",
        default=False,
        description="Whether the content of all mail is kept beside the queue; needs "
        "emails.claimName.",
    )
