"""The API server: the only part that speaks to it.

1. `login` finds out where it is and who we are.
2. `api` makes requests; what it cannot do ends in one of `errors`.
3. `watch` follows all objects of a kind.
"""
