"""Every option of a relay: the guide's (same keys, same defaults) and the project's own.

Keys in files are camelCase; the environment overrides each by the SCREAMING_SNAKE of its path
(`rateLimits.maxPerHour` is `RATE_LIMITS_MAX_PER_HOUR`). docs/decisions/0005 says why the file
of the original guide works unchanged.

1. `section` is what the sections have in common: how keys are spelled, what marks a live option.
2. `limits`, `security`, `routes`, `retry`, `stores`, `tls`, `http` and `queue`: one concern each.
3. `relay` is the whole, with the options of the top level.

Here are the names that other packages use.
"""

from mailrelay.config.model.limits import RateLimits
from mailrelay.config.model.relay import RelayConfig
from mailrelay.config.model.retry import Retry
from mailrelay.config.model.security import Security
from mailrelay.config.model.stores import Emails, Failed

__all__ = ["Emails", "Failed", "RateLimits", "RelayConfig", "Retry", "Security"]
