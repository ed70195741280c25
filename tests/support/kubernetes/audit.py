"""What was asked of the API server, as it wrote down itself: who used which right.

A role that grants more than its program uses is found by holding the rules against this.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

# `Metadata`: who asked what, and no content, so no Secret's data come into the log.
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    # A watch is told of when it begins and not when it ends; everything else when it is answered.
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True, slots=True)
class AskedRequest:
    """One request for a resource. `resource` has its subresource: `mailrelays/status`."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    status: int


def requests_of(log: Path, user: str) -> list[AskedRequest]:
    """What a user asked for so far, in order; a request is there once it is answered."""
    found = []
    with log.open() as lines:
        for line in lines:
            # The last line may be half written, or another user's: not worth reading as JSON.
            if user in line and line.endswith("\n"):
                event = json.loads(line)
                target = event.get("objectRef")  # none: /readyz, /api and the like
                if target and event["user"]["username"] == user:
                    parts = [target["resource"], target.get("subresource", "")]
                    found.append(
                        AskedRequest(
                            verb=event["verb"],
                            group=target.get("apiGroup", ""),
                            resource="/".join(filter(None, parts)),
                            namespace=target.get("namespace", ""),
                            name=target.get("name", ""),
                            status=event["responseStatus"]["code"],
                        )
                    )
    return found
