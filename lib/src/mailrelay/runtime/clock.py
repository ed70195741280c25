"""Time as an argument: pieces that need it take a `Clock`, so that tests can turn it."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]  # seconds since the epoch

system_clock: Clock = time.time
