"""The namespaces of the tests: nothing else in a cluster is theirs."""

from __future__ import annotations

from typing import Final

PREFIX: Final = "mailrelay-test-"
SYSTEM: Final = f"{PREFIX}system"  # the operator's
CLIENTS: Final = f"{PREFIX}clients"  # who sends and who takes
RELAY: Final = f"{PREFIX}relay"  # of the relay that everything happens to
