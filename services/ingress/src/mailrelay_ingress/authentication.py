"""Who a client may say it is.

One user from the configuration for now. Both comparisons take the same time whatever the input,
and both are always made, so that neither name nor password can be found by timing.
"""

from __future__ import annotations

import hmac
from typing import ClassVar

from mailrelay.config.model import RelayConfig


class Authenticator:
    """Checks name and password."""

    FOLLOWS: ClassVar = ("defaultUsername", "defaultPassword")

    def __init__(self, config: RelayConfig) -> None:
        self.use(config)

    def use(self, config: RelayConfig) -> None:
        """Take a configuration's user."""
        self._username = config.default_username.encode()
        self._password = config.default_password.get_secret_value().encode()

    @property
    def has_users(self) -> bool:
        """Whether AUTH can succeed at all; otherwise it is not offered."""
        return bool(self._username)

    def is_valid(self, username: bytes, password: bytes) -> bool:
        """Tell whether name and password are a user's."""
        same_name = hmac.compare_digest(username, self._username)
        same_password = hmac.compare_digest(password, self._password)
        return self.has_users and same_name and same_password
