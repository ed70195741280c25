"""The tests' own reading of SMTP: counterparts on real sockets, never mocks.

Nothing here imports the relay or its SMTP libraries, so that a shared
misreading of an RFC cannot hide. In the order of a message's way:

1. `messages` holds the shapes of mail that must survive the relay unchanged.
2. `smtp_client` speaks one dialogue by hand; `load` speaks many at once and
   writes a `ledger` of what the relay promised.
3. `upstream` is where the relay delivers to; `scripting` and `scripts` say how
   it answers; `upstream_process` runs it in a process of its own.
4. `ledger.compare` holds what was promised against what arrived.

`certificates` and `wait` serve all of them.
"""
