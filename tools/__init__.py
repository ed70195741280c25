"""What helps to build the project and is no part of a relay.

1. `reference` writes the pages below docs/reference from the code (`make docs`).
"""
