"""NKeys: the key pairs by which NATS knows a role. The seed is the secret half."""

from __future__ import annotations

import os

import nkeys

_SEED_OCTETS = 32  # of an Ed25519 seed


def new_seed() -> str:
    """Return the seed of a new key pair of a user."""
    seed: bytes = nkeys.encode_seed(os.urandom(_SEED_OCTETS), nkeys.PREFIX_BYTE_USER)
    return seed.decode()


def public_key_of(seed: str) -> str:
    """Return the public key that belongs to a seed. Raises ValueError when it is none."""
    try:
        pair = nkeys.from_seed(bytearray(seed.encode()))
        public_key: bytes = pair.public_key
    except Exception as error:  # the library has several
        raise ValueError("no NKey seed") from error
    pair.wipe()
    return public_key.decode()
