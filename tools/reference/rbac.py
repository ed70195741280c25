"""operator/rbac.yaml: the operator's rights, cluster-wide."""

from __future__ import annotations

import yaml

from mailrelay_operator.rights import OWN, RELAYS, cluster_wide

_ACCOUNT = "mailrelay-operator"
_NAMESPACE = "mailrelay-system"
_NOTICE = """\
# Written by `make docs` from mailrelay_operator.rights; change the table, not this file.
#
# For an operator that keeps the relays of all namespaces. One that keeps some (their names in
# MAILRELAY_OPERATOR_WATCHED) needs the first role's rules as a Role in each of them, and no
# ClusterRole.
#
"""


def rbac_text() -> str:
    """Return the file."""
    reasons = "".join(f"#   {grant.resource}: {grant.why}\n" for grant in (*RELAYS, *OWN))
    manifests = cluster_wide(_ACCOUNT, _NAMESPACE)
    # Without aliases: people read it.
    return _NOTICE + reasons + yaml.dump_all(manifests, Dumper=_Plain, sort_keys=False)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 — yaml's
        return True
