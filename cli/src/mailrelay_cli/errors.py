"""Bad input: what was asked for cannot be done as it was asked. Exit code 2, one line a fault."""

from __future__ import annotations


class BadInputError(Exception):
    """What the user gave cannot be used; `faults` has one line for each thing wrong."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults
