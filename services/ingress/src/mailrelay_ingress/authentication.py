"""Who a client may say it is.

Each user has an argon2 hash, `defaultUsername` too (made at the start): so no answer tells by its
time whose password lies where. A name that nobody has is checked against a hash that nobody's
password fits. Hashes are computed in threads of their own, `_CHECKS_AT_ONCE` at once; what waits
for one is bounded in number and time, and is told to come again (454), which is no guess.

Credentials that were right are remembered for `REMEMBER_SECONDS` under a keyed hash that means
nothing outside this process, so that a client which connects for each message pays once. `throttle`
slows down who guesses.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import Counter as Counting
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import Enum

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError, VerifyMismatchError
from prometheus_client import Counter

from mailrelay.config.files import users_of_file
from mailrelay.config.model import RelayConfig
from mailrelay.config.users import hash_password
from mailrelay_ingress.throttle import GuessThrottle

REMEMBER_SECONDS = 300.0
MAX_REMEMBERED = 10_000  # some 2 MB
# argon2 releases the interpreter's lock; each takes up to the memory that its hash asks for.
_CHECKS_AT_ONCE = 2
MAX_WAITING = 256  # different credentials; the last waits some 3 s
MAX_PAUSING = 4  # connections of one address that sit a pause out; more are turned away
MAX_WAIT_SECONDS = 20.0  # pauses included; clients give up after minutes
_KEY_BYTES = 32

_logins = Counter(
    "mailrelay_logins_total",
    "AUTH commands with credentials, by what came of them.",
    # `valid`; `invalid`: 535; `throttled`: 421 after too many wrong ones; `unavailable`: 454
    ["outcome"],
)


class Verdict(Enum):
    """What came of credentials."""

    VALID = "valid"
    INVALID = "invalid"
    THROTTLED = "throttled"  # not looked at: too many were wrong before
    UNAVAILABLE = "unavailable"  # could not be looked at: no fault of the client


for _verdict in Verdict:
    _logins.labels(_verdict.value)  # 0: the first one is an increase, too


class Users:
    """Names and hashes of one moment. Making one computes hashes: not in the event loop."""

    def __init__(self, config: RelayConfig) -> None:
        """Read the users. Raises ConfigError when the file cannot be used."""
        hashes: dict[str, str] = users_of_file(config)
        if config.default_username:
            password = config.default_password.get_secret_value()
            hashes[config.default_username] = hash_password(password)
        self.hashes: Mapping[bytes, str] = {name.encode(): each for name, each in hashes.items()}
        # Nobody to hide without users: no time and memory for it.
        self.nobodys = hash_password(secrets.token_urlsafe(_KEY_BYTES)) if hashes else ""

    def __repr__(self) -> str:
        return f"Users({len(self.hashes)})"


class Authenticator:
    """Checks names and passwords."""

    def __init__(self, users: Users, clock: Callable[[], float] | None = None) -> None:
        self._users = users
        self._clock = clock or asyncio.get_running_loop().time
        self._throttle = GuessThrottle()
        self._key = secrets.token_bytes(_KEY_BYTES)
        self._remembered: OrderedDict[bytes, float] = OrderedDict()
        self._threads = ThreadPoolExecutor(_CHECKS_AT_ONCE, "password")
        self._room = asyncio.Semaphore(_CHECKS_AT_ONCE)
        self._waiting: Counting[bytes] = Counting()  # credentials that wait for a thread
        self._pausing: Counting[str] = Counting()  # by address

    @property
    def has_users(self) -> bool:
        """Whether AUTH can succeed at all; otherwise it is not offered."""
        return bool(self._users.hashes)

    def use(self, users: Users) -> None:
        """Go on with other users; sessions that are open stay who they are."""
        self._users = users
        self._remembered.clear()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def known_name(self, name: bytes) -> str:
        """Return a user's name for a log line, empty when nobody has it."""
        return name.decode() if name in self._users.hashes else ""

    async def check(self, address: str, name: bytes, password: bytes) -> Verdict:
        """Judge credentials that came from `address`."""
        verdict = await self._check(address, name, password)
        _logins.labels(verdict.value).inc()
        return verdict

    async def _check(self, address: str, name: bytes, password: bytes) -> Verdict:
        if not self.has_users:
            return Verdict.INVALID
        mark = self._mark(name, password)
        if self._is_remembered(mark):
            return Verdict.VALID
        paused = False
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                while True:
                    now = self._clock()
                    if self._throttle.is_turned_away(address, now):
                        return Verdict.THROTTLED
                    pause = self._throttle.pause(address, name, now)
                    if pause > 0:
                        paused = True
                        if not await self._sat_out(address, pause):
                            return Verdict.THROTTLED
                        continue
                    verdict = await self._in_turn(address, name, password, mark)
                    if verdict is not None:
                        return verdict
        except TimeoutError:
            return Verdict.THROTTLED if paused else Verdict.UNAVAILABLE

    async def _sat_out(self, address: str, seconds: float) -> bool:
        """Sit a pause out; False when enough others of this address do."""
        if self._pausing[address] >= MAX_PAUSING:
            return False
        self._pausing[address] += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._pausing[address] -= 1
            if not self._pausing[address]:
                del self._pausing[address]
        return True

    async def _in_turn(
        self, address: str, name: bytes, password: bytes, mark: bytes
    ) -> Verdict | None:
        """Wait for a thread and judge; None when a failure meanwhile asks for a pause first."""
        if mark not in self._waiting and len(self._waiting) >= MAX_WAITING:
            return Verdict.UNAVAILABLE
        self._waiting[mark] += 1
        try:
            async with self._room:
                # Others were judged while this one waited.
                if self._is_remembered(mark):
                    return Verdict.VALID
                now = self._clock()
                if self._throttle.is_turned_away(address, now):
                    return Verdict.THROTTLED
                if self._throttle.pause(address, name, now) > 0:
                    return None
                return await self._verify(address, name, password, mark)
        finally:
            self._waiting[mark] -= 1
            if not self._waiting[mark]:
                del self._waiting[mark]

    async def _verify(self, address: str, name: bytes, password: bytes, mark: bytes) -> Verdict:
        users = self._users
        if not users.hashes:  # all were taken out while this one waited
            return Verdict.INVALID
        hashed = users.hashes.get(name)
        loop = asyncio.get_running_loop()
        try:
            fits = await loop.run_in_executor(
                self._threads, _fits, hashed or users.nobodys, password
            )
        except asyncio.CancelledError:  # it hung up: a guess all the same, and as dear
            self._throttle.failed(address, name, self._clock())
            raise
        except (Argon2Error, InvalidHashError, RuntimeError):  # no memory, no thread
            return Verdict.UNAVAILABLE
        if not (fits and hashed):
            self._throttle.failed(address, name, self._clock())
            return Verdict.INVALID
        self._throttle.succeeded(name)
        if users is self._users:
            self._remember(mark)
        return Verdict.VALID

    def _mark(self, name: bytes, password: bytes) -> bytes:
        return hmac.digest(self._key, b"%d:" % len(name) + name + password, hashlib.sha256)

    def _is_remembered(self, mark: bytes) -> bool:
        ends_at = self._remembered.get(mark)
        return ends_at is not None and self._clock() < ends_at

    def _remember(self, mark: bytes) -> None:
        self._remembered[mark] = self._clock() + REMEMBER_SECONDS
        self._remembered.move_to_end(mark)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)


def _fits(hashed: str, password: bytes) -> bool:
    try:
        return PasswordHasher().verify(hashed, password)
    except VerifyMismatchError:
        return False
