"""The file of users: one `name:hash` a line, the hash by argon2; `#` begins a comment line.

A password never stands in it, and a file that others on the machine can read is not used: hashes
can be guessed at leisure. Read whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from argon2 import PasswordHasher, Type

from mailrelay.config.load import ConfigError
from mailrelay.config.private_file import read_private_file

# Of one check. OWASP's least for argon2id: 19 MiB, two passes, one lane; 20 to 30 ms.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)
# What a hash made elsewhere may ask for: more would let one AUTH stop the relay.
MAX_MEMORY_KIB = 128 * 1024
MAX_PASSES = 16
MAX_LANES = 8
MAX_NAME_OCTETS = 255
MAX_PASSWORD_OCTETS = 512  # name, password and base64 fit in one command line
MAX_FILE_BYTES = 16 * 1024 * 1024

_HASH = re.compile(
    r"\$argon2(?:id|i|d)\$v=19\$m=(\d{1,9}),t=(\d{1,9}),p=(\d{1,9})"
    r"\$[A-Za-z0-9+/]{11,128}\$[A-Za-z0-9+/]{16,172}"
)
_PRIVATE_FILE = 0o600


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the file: what is kept when another one changes."""

    text: str
    name: str  # empty for a comment


def hash_password(password: str) -> str:
    """Return a new hash of a password; takes some 25 ms and 19 MiB."""
    return _HASHER.hash(password)


def read_users(path: Path) -> dict[str, str]:
    """Return each user's hash. Raises ConfigError, a line a fault, without what stood there."""
    return {line.name: line.text.partition(":")[2] for line in read_lines(path) if line.name}


def read_lines(path: Path) -> list[Line]:
    """Read the file, comments and all. Raises ConfigError."""
    faults: list[str] = []
    lines: list[Line] = []
    first: dict[str, int] = {}
    for number, text in enumerate(_text(path).splitlines(), 1):
        stripped = text.strip()
        if not stripped or stripped.startswith("#"):
            lines.append(Line(text, ""))
            continue
        name, _, hashed = stripped.partition(":")
        fault = name_fault(name) or _hash_fault(hashed)
        if not fault and name in first:
            fault = f"the user of line {first[name]} stands here again"
        if fault:
            faults.append(f"{path}, line {number}: {fault}")
            continue
        first[name] = number
        lines.append(Line(stripped, name))
    if faults:
        raise ConfigError(faults)
    return lines


def write_lines(path: Path, lines: list[Line]) -> None:
    """Write the file, readable by its owner alone; a reader sees the old one or the new one.

    Raises OSError.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.new")
    with contextlib.suppress(FileNotFoundError):
        scratch.unlink()
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(f"{line.text}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def name_fault(name: str) -> str:
    """Say why `name` can be no user's, or nothing."""
    if not name:
        return "a line is name:hash; the name is empty"
    if len(name.encode("utf-8", "replace")) > MAX_NAME_OCTETS:
        return f"a name has at most {MAX_NAME_OCTETS} octets"
    if name != name.strip() or name.startswith("#") or ":" in name or not name.isprintable():
        return "a name has no colon, control character, space around it or # in front"
    return ""


def password_fault(password: str) -> str:
    """Say why `password` cannot be used, or nothing; without repeating it."""
    if not password:
        return "the password is empty"
    if "\0" in password:
        return "a password has no NUL octet"  # RFC 4616: it parts the fields of PLAIN
    if len(password.encode("utf-8", "replace")) > MAX_PASSWORD_OCTETS:
        return f"a password has at most {MAX_PASSWORD_OCTETS} octets"
    return ""


def common_names(users: Mapping[str, str], default_username: str) -> list[str]:
    """Say that a user has two passwords, one in each place."""
    if default_username and default_username in users:
        return [f"user {default_username!r} is defaultUsername too: take it out of one of them"]
    return []


def _text(path: Path) -> str:
    octets = read_private_file(path, MAX_FILE_BYTES)
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        line = octets[: error.start].count(b"\n") + 1
        raise ConfigError([f"{path}, line {line}: is not UTF-8 text"]) from error


def _hash_fault(hashed: str) -> str:
    if not hashed.startswith("$argon2"):
        return (
            "a line is name:hash, the hash by argon2 (`mailrelay users add` writes it); "
            "what stands here is none, so it may be a password"
        )
    match = _HASH.fullmatch(hashed)
    if match is None:
        return "the argon2 hash is damaged, or of a version other than 19"
    memory, passes, lanes = map(int, match.groups())
    if not (1 <= lanes <= MAX_LANES and 1 <= passes <= MAX_PASSES and memory >= 8 * lanes):
        return f"the hash needs t from 1 to {MAX_PASSES}, p from 1 to {MAX_LANES}, m at least 8 p"
    if memory > MAX_MEMORY_KIB:
        return f"the hash asks for {memory} KiB of memory, allowed are {MAX_MEMORY_KIB}"
    return ""
