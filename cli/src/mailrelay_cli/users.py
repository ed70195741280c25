"""`mailrelay users`: the file of users and their argon2 hashes (`security.usersFile`).

A password comes from the terminal, from standard input, or from `MAILRELAY_USER_PASSWORD`, never
from the command line, which others on the machine can read. The relay notices the new file.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mailrelay.config.load import ConfigError
from mailrelay.config.users import (
    MAX_PASSWORD_OCTETS,
    Line,
    hash_password,
    name_fault,
    password_fault,
    read_lines,
    write_lines,
)
from mailrelay.runtime.lifecycle import EXIT_FAILED, EXIT_OK
from mailrelay_cli.console import complain, say
from mailrelay_cli.errors import BadInputError

PASSWORD_VARIABLE = "MAILRELAY_USER_PASSWORD"  # noqa: S105 — a variable's name

users_app = typer.Typer(help="Users who may authenticate, in the file of security.usersFile.")

FileOption = Annotated[Path, typer.Option("--file", help="The file of users.")]
NameArgument = Annotated[str, typer.Argument(help="The user's name.", show_default=False)]


@users_app.command("add")
def add_command(name: NameArgument, file: FileOption) -> int:
    """Add a user, or give one a new password: asked for, or one line on standard input."""
    fault = name_fault(name)
    if fault:
        raise BadInputError(f"name {name!r}: {fault}")
    if file.exists():
        _read(file)  # before anybody types a password
    hashed = hash_password(_password())
    with _locked(file):
        lines = _read(file) if file.exists() else []
        new = Line(f"{name}:{hashed}", name)
        is_known = any(line.name == name for line in lines)
        kept = [new if line.name == name else line for line in lines]
        _write(file, kept if is_known else [*lines, new])
    say(f"{name}: {'new password' if is_known else 'added'}")
    return EXIT_OK


@users_app.command("remove")
def remove_command(name: NameArgument, file: FileOption) -> int:
    """Remove a user; open sessions of theirs go on until they end."""
    with _locked(file):
        lines = _read(file)
        kept = [line for line in lines if line.name != name]
        if len(kept) == len(lines):
            complain(f"{name}: no such user in {file}")
            return EXIT_FAILED
        _write(file, kept)
    say(f"{name}: removed")
    return EXIT_OK


@users_app.command("list")
def list_command(file: FileOption) -> int:
    """List the users' names, one a line."""
    for line in _read(file):
        if line.name:
            say(line.name)
    return EXIT_OK


def _password() -> str:
    """Return the password of whoever asks. Raises BadInputError."""
    password = os.environ.get(PASSWORD_VARIABLE)
    if password is None and sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            raise BadInputError("the two passwords differ")
    if password is None:
        line = sys.stdin.buffer.readline(MAX_PASSWORD_OCTETS + 3).rstrip(b"\r\n")
        try:
            password = line.decode("utf-8")
        except UnicodeDecodeError:
            raise BadInputError("the password is not UTF-8 text") from None
    fault = password_fault(password)
    if fault:
        raise BadInputError(fault)
    return password


def _read(file: Path) -> list[Line]:
    try:
        return read_lines(file)
    except ConfigError as error:
        raise BadInputError(*(f"--file: {fault}" for fault in error.faults)) from error


def _write(file: Path, lines: list[Line]) -> None:
    try:
        write_lines(file, lines)
    except OSError as error:
        raise BadInputError(f"--file: cannot write {file}: {error.strerror}") from error


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Keep two of these commands from losing each other's change. Raises BadInputError."""
    try:
        folder = os.open(file.parent, os.O_RDONLY)  # the file itself is replaced
    except OSError as error:
        raise BadInputError(f"--file: {file.parent}: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
