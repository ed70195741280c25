from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mailrelay.emails import emails_folder
from mailrelay_cli.data_folder import (
    lock_as_supervisor,
    lock_for_children,
    make_data_folder,
    write_private,
)
from mailrelay_cli.errors import BadInputError


def test_a_missing_folder_is_made_for_this_user_only(tmp_path: Path) -> None:
    folder = make_data_folder(tmp_path / "deep" / "data")
    parts = ("nats", "run", "run/credentials", "log", "monitor")
    for path in (folder.path, *(folder.path / part for part in parts)):
        assert path.stat().st_mode & 0o777 == 0o700, path
    assert make_data_folder(folder.path) == folder


def test_a_file_in_the_folders_place_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("")
    with pytest.raises(BadInputError, match=f"data folder {path}: {path} is not a folder"):
        make_data_folder(path)


def test_a_file_in_a_parts_place_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "nats").write_text("")
    with pytest.raises(BadInputError, match="nats is not a folder"):
        make_data_folder(tmp_path)


def test_a_file_above_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="Not a directory"):
        make_data_folder(tmp_path / "file" / "data")


def test_a_folder_that_may_not_be_written_is_a_fault(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    # Root may write anywhere but into the kernel's own file systems; in a container those are
    # mounted read-only.
    folder = tmp_path if os.geteuid() else Path("/sys/kernel/mailrelay-test")
    with pytest.raises(BadInputError, match=r"Permission denied|not permitted|Read-only"):
        make_data_folder(folder)


def test_a_second_supervisor_is_refused_with_the_first_ones_id(tmp_path: Path) -> None:
    folder = make_data_folder(tmp_path)
    fd = lock_as_supervisor(folder)
    with pytest.raises(BadInputError, match=rf"in use by another relay \(pid {os.getpid()}\)$"):
        lock_as_supervisor(folder)
    os.close(fd)
    os.close(lock_as_supervisor(folder))


def test_the_supervisors_lock_is_not_inherited(tmp_path: Path) -> None:
    folder = make_data_folder(tmp_path)
    fd = lock_as_supervisor(folder)
    pipe = subprocess.PIPE
    program = [sys.executable, "-S", "-c", "print(flush=True); input()"]
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, close_fds=False) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        os.close(fd)
        os.close(lock_as_supervisor(folder))
        child.stdin.write(b"\n")


def test_a_new_run_waits_for_the_children_of_the_last(tmp_path: Path) -> None:
    folder = make_data_folder(tmp_path)
    fd = lock_for_children(folder)
    program = "import time; time.sleep(0.7)"
    with subprocess.Popen([sys.executable, "-S", "-c", program], pass_fds=[fd]) as child:
        os.close(fd)
        started = time.monotonic()
        os.close(lock_for_children(folder, 10))
        assert time.monotonic() - started > 0.3
        assert child.wait(5) == 0


def test_children_that_do_not_end_are_a_fault(tmp_path: Path) -> None:
    folder = make_data_folder(tmp_path)
    fd = lock_for_children(folder)
    with pytest.raises(BadInputError, match="processes of an earlier relay"):
        lock_for_children(folder, 0.1)
    os.close(fd)


def test_what_is_private_is_for_this_user_only_even_if_it_was_not(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_kept_content_lies_where_an_image_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILRELAY_EMAILS_DIR", str(tmp_path / "emails"))
    make_data_folder(tmp_path / "data")
    assert (tmp_path / "emails").stat().st_mode & 0o777 == 0o700
    assert emails_folder(tmp_path / "data") == tmp_path / "emails"


def test_kept_content_that_cannot_be_written_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "emails").write_text("")
    monkeypatch.setenv("MAILRELAY_EMAILS_DIR", str(tmp_path / "emails"))
    with pytest.raises(BadInputError, match="emails is not a folder"):
        make_data_folder(tmp_path / "data")
