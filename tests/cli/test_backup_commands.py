"""`mailrelay queue backup` and `restore`: what is wrong is said before NATS is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailrelay.queue.nkey import new_seed
from tests.cli.relay_process import run_command
from tests.support.ports import free_port


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    file = tmp_path / "seed"
    file.write_text(new_seed() + "\n")
    return file


def said(verb: str, *words: str | Path) -> tuple[int, str]:
    nats = f"nats://127.0.0.1:{free_port()}"
    done = run_command("queue", verb, "--nats", nats, *map(str, words))
    return done.returncode, done.stderr


def test_a_folder_that_is_none_is_named(seed: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    answer = said("backup", "--seed-file", seed, "--folder", missing)
    assert answer == (2, f"--folder: {missing} is not a folder\n")


def test_a_seed_that_is_not_there_is_named(tmp_path: Path) -> None:
    answer = said("backup", "--seed-file", tmp_path, "--folder", tmp_path)
    assert answer == (2, f"--seed-file: {tmp_path}/seed is not a file\n")


def test_in_the_folder_of_an_operators_secret_the_slot_says_which_seed(tmp_path: Path) -> None:
    (tmp_path / "slot").write_text("b")
    answer = said("restore", "--seed-file", tmp_path, tmp_path)
    assert answer == (2, f"--seed-file: {tmp_path}/seed-b is not a file\n")


def test_a_folder_without_a_back_up_and_a_file_that_is_none_are_named(
    seed: Path, tmp_path: Path
) -> None:
    code, words = said("restore", "--seed-file", seed, tmp_path)
    assert (code, "has no file that ends with .mailrelay" in words) == (2, True)
    code, words = said("restore", "--seed-file", seed, seed)
    assert (code, words.startswith(f"{seed} is damaged or no back-up")) == (2, True)


def test_without_a_queue_nothing_is_backed_up(seed: Path, tmp_path: Path) -> None:
    code, words = said("backup", "--seed-file", seed, "--folder", tmp_path, "--timeout", "1")
    assert code == 1
    assert words.startswith("nothing was backed up: the queue at nats://127.0.0.1:")
    assert words.endswith(" did not answer within 1 s\n")
    assert list(tmp_path.glob("*.mailrelay")) == []


def test_a_prefix_that_is_none_is_named(seed: Path, tmp_path: Path) -> None:
    words = ("--seed-file", seed, "--folder", tmp_path, "--prefix", "Uh!")
    code, answer = said("backup", *words)
    assert (code, "--prefix: queue prefix 'Uh!' must match" in answer) == (2, True)
