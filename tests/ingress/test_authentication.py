"""Who a client may say it is: real hashes, a clock that the test turns where time matters."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from mailrelay.config.load import ConfigError
from mailrelay.config.model import RelayConfig
from mailrelay.config.users import Line, hash_password, write_lines
from mailrelay_ingress import authentication
from mailrelay_ingress.authentication import Authenticator, Users, Verdict
from mailrelay_ingress.throttle import (
    FORGET_SECONDS,
    FREE_GUESSES_AT_NAME,
    FREE_GUESSES_OF_ADDRESS,
    MAX_ENTRIES,
    MAX_GUESSES_OF_ADDRESS,
    MAX_PAUSE_AT_NAME_SECONDS,
    GuessThrottle,
)
from tests.support.wait import wait_until

HERE = "192.0.2.1"
SECRET = "correct horse"  # noqa: S105 — of a test


def config(**changes: Any) -> RelayConfig:  # noqa: ANN401
    return RelayConfig.model_validate({"security": {"requireAuth": False}} | changes)


def users_file(folder: Path, **passwords: str) -> Path:
    path = folder / "users"
    write_lines(
        path, [Line(f"{name}:{hash_password(each)}", name) for name, each in passwords.items()]
    )
    return path


def authenticator(folder: Path, **changes: Any) -> Authenticator:  # noqa: ANN401
    path = users_file(folder, grace=SECRET)
    security = {"requireAuth": True, "usersFile": str(path)}
    found = config(defaultUsername="ada", defaultPassword="pässword", security=security, **changes)
    return Authenticator(Users(found))


@pytest.fixture
async def checks(tmp_path: Path) -> Authenticator:
    return authenticator(tmp_path)


@pytest.mark.parametrize(
    ("name", "password", "verdict"),
    [
        ("ada", "pässword", Verdict.VALID),
        ("grace", SECRET, Verdict.VALID),
        ("ada", SECRET, Verdict.INVALID),
        ("grace", "", Verdict.INVALID),
        ("Grace", SECRET, Verdict.INVALID),
        ("", "", Verdict.INVALID),
        ("nobody", SECRET, Verdict.INVALID),
    ],
)
async def test_a_name_and_its_password_go_together(
    name: str, password: str, verdict: Verdict, checks: Authenticator
) -> None:
    assert await checks.check(HERE, name.encode(), password.encode()) is verdict
    assert checks.has_users


async def test_octets_that_are_no_text_fit_nobody(checks: Authenticator) -> None:
    assert await checks.check(HERE, b"\xff\xfe", b"\xff") is Verdict.INVALID


async def test_without_a_user_nobody_can_authenticate() -> None:
    nobody = Authenticator(Users(config()))
    assert not nobody.has_users
    assert await nobody.check(HERE, b"", b"") is Verdict.INVALID


async def test_a_name_that_nobody_has_takes_as_long_as_a_wrong_password(
    checks: Authenticator,
) -> None:
    took: dict[str, list[float]] = {"grace": [], "ada": [], "nobody": []}
    for round_ in range(3):
        for number, name in enumerate(took):
            started = time.process_time()  # whatever else the machine does
            address = f"192.0.2.{10 * round_ + number}"
            assert await checks.check(address, name.encode(), b"wrong") is Verdict.INVALID
            took[name].append(time.process_time() - started)
    least = {name: min(each) for name, each in took.items()}
    assert min(least.values()) > 0.005, least  # a hash was computed for each
    assert max(least.values()) < 3 * min(least.values()), least


async def test_right_credentials_are_remembered_and_wrong_ones_are_not(
    checks: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = 0

    def count(hashed: str, password: bytes) -> bool:
        nonlocal computed
        computed += 1
        return fits(hashed, password)

    fits = authentication._fits
    monkeypatch.setattr(authentication, "_fits", count)
    for _ in range(20):
        assert await checks.check(HERE, b"grace", SECRET.encode()) is Verdict.VALID
    assert computed == 1
    for _ in range(3):
        assert await checks.check(HERE, b"grace", b"wrong") is Verdict.INVALID
    assert computed == 4


async def test_what_is_remembered_ends(tmp_path: Path) -> None:
    now = 1000.0
    users = Users(config(security={"usersFile": str(users_file(tmp_path, grace=SECRET))}))
    checks = Authenticator(users, lambda: now)
    assert await checks.check(HERE, b"grace", SECRET.encode()) is Verdict.VALID
    assert len(checks._remembered) == 1
    now += authentication.REMEMBER_SECONDS
    assert not checks._is_remembered(next(iter(checks._remembered)))


async def test_a_changed_password_is_asked_for_at_once(tmp_path: Path) -> None:
    path = users_file(tmp_path, grace=SECRET)
    relay = config(security={"usersFile": str(path)})
    checks = Authenticator(Users(relay))
    assert await checks.check(HERE, b"grace", SECRET.encode()) is Verdict.VALID
    users_file(tmp_path, grace="another")
    checks.use(Users(relay))
    assert await checks.check(HERE, b"grace", SECRET.encode()) is Verdict.INVALID
    assert await checks.check(HERE, b"grace", b"another") is Verdict.VALID


async def test_many_clients_at_once_with_one_password_are_all_let_in(
    checks: Authenticator,
) -> None:
    verdicts = await asyncio.gather(
        *(checks.check(HERE, b"grace", SECRET.encode()) for _ in range(500))
    )
    assert set(verdicts) == {Verdict.VALID}


async def test_more_different_checks_than_may_wait_are_told_to_come_again(
    checks: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "MAX_WAITING", 4)
    verdicts = await asyncio.gather(
        *(checks.check(f"192.0.2.{n}", b"grace", b"%d" % n) for n in range(20))
    )
    assert verdicts.count(Verdict.UNAVAILABLE) == 16
    assert verdicts.count(Verdict.INVALID) == 4


async def test_the_event_loop_goes_on_while_hashes_are_computed(checks: Authenticator) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)  # a tick: how often it comes is what is looked at

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*(checks.check(f"192.0.2.{n}", b"grace", b"%d" % n) for n in range(8)))
    ticking.cancel()
    assert ticks > 20


async def test_an_address_that_guesses_on_is_turned_away(
    checks: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailrelay_ingress.throttle.FREE_GUESSES_OF_ADDRESS", 99)
    for guess in range(MAX_GUESSES_OF_ADDRESS):
        assert await checks.check(HERE, b"user %d" % guess, b"x") is Verdict.INVALID
    assert await checks.check(HERE, b"grace", SECRET.encode()) is Verdict.THROTTLED
    elsewhere = "192.0.2.99"
    assert await checks.check(elsewhere, b"grace", SECRET.encode()) is Verdict.VALID
    # What was right lately is no guess, wherever it comes from.
    assert await checks.check(HERE, b"grace", SECRET.encode()) is Verdict.VALID


async def test_guesses_made_at_once_are_throttled_too(checks: Authenticator) -> None:
    verdicts = await asyncio.gather(*(checks.check(HERE, b"grace", b"%d" % n) for n in range(60)))
    # One may be under way in the other thread when a failure is noted.
    assert verdicts.count(Verdict.INVALID) <= FREE_GUESSES_OF_ADDRESS + 1 + 4
    assert verdicts.count(Verdict.THROTTLED) >= 50


async def test_a_client_that_hangs_up_has_guessed_all_the_same(checks: Authenticator) -> None:
    for _ in range(FREE_GUESSES_OF_ADDRESS):
        guess = asyncio.create_task(checks.check(HERE, b"grace", b"wrong"))
        await wait_until(lambda: checks._room._value < 2, 10, "a thread has it", interval=0)
        guess.cancel()
        await asyncio.gather(guess, return_exceptions=True)
        assert guess.cancelled()
    assert checks._throttle.pause(HERE, b"other", asyncio.get_running_loop().time()) > 0


async def test_nothing_shows_a_password(checks: Authenticator) -> None:
    await checks.check(HERE, b"grace", SECRET.encode())
    shown = repr(checks) + repr(vars(checks)) + repr(checks._users)
    assert SECRET not in shown
    assert "pässword" not in shown
    assert "$argon2" not in shown


def test_a_user_in_both_places_is_refused(tmp_path: Path) -> None:
    path = users_file(tmp_path, ada="x")
    both = config(defaultUsername="ada", defaultPassword="y", security={"usersFile": str(path)})
    with pytest.raises(ConfigError, match="user 'ada' is defaultUsername too") as caught:
        Users(both)
    assert caught.value.faults[0].startswith(f"security.usersFile: {path}: ")


# --- The throttle -------------------------------------------------------------------------------


def test_pauses_of_an_address_grow_until_it_is_turned_away_and_forgiven() -> None:
    throttle = GuessThrottle()
    now = 0.0
    pauses = []
    for number in range(MAX_GUESSES_OF_ADDRESS):
        assert not throttle.is_turned_away(HERE, now)
        throttle.failed(HERE, b"user %d" % number, now)
        pauses.append(throttle.pause(HERE, b"other", now))
    assert pauses == [0, 0, 0, 0, 1, 2, 4, 8, 16, 16]
    assert throttle.is_turned_away(HERE, now)
    assert throttle.is_turned_away(HERE, now + FORGET_SECONDS)
    assert not throttle.is_turned_away(HERE, now + FORGET_SECONDS + 1)
    assert throttle.pause(HERE, b"other", now + FORGET_SECONDS + 1) == 0


def test_a_name_is_slowed_down_and_never_locked() -> None:
    throttle = GuessThrottle()
    for number in range(1000):
        throttle.failed(f"198.51.{number // 250}.{number % 250}", b"ada", 0.0)
    assert throttle.pause("192.0.2.50", b"ada", 0.0) == MAX_PAUSE_AT_NAME_SECONDS
    assert not throttle.is_turned_away("192.0.2.50", 0.0)
    assert throttle.pause("192.0.2.50", b"grace", 0.0) == 0
    throttle.succeeded(b"ada")
    assert throttle.pause("192.0.2.50", b"ada", 0.0) == 0
    assert FREE_GUESSES_AT_NAME > FREE_GUESSES_OF_ADDRESS


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_an_ipv6_network_counts_as_one_address(one: str, other: str, same: bool) -> None:
    throttle = GuessThrottle()
    for number in range(MAX_GUESSES_OF_ADDRESS):
        throttle.failed(one, b"user %d" % number, 0.0)
    assert throttle.is_turned_away(other, 0.0) is same


def test_the_throttle_is_bounded_and_forgets_the_oldest_first() -> None:
    throttle = GuessThrottle()
    for number in range(3 * MAX_ENTRIES):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        throttle.failed(address, b"name %d" % number, 0.0)
    assert throttle.entries == 2 * MAX_ENTRIES
