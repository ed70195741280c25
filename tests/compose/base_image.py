"""The base image that the Dockerfile names, when no registry has it for us: Debian's own Python.

`debootstrap` makes the same Debian release with the same Python, and `docker import` gives it the
image's name, so the Dockerfile is built as it is. Needs root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NAME = re.compile(
    r"^ARG PYTHON_IMAGE=(?P<image>python:(?P<python>[\d.]+)-slim-(?P<release>\w+))$", re.MULTILINE
)
_PLUGINS = ("buildx", "compose")
_PLUGIN_FOLDER = Path("/usr/local/lib/docker/cli-plugins")
_PULL_SECONDS = 300
_MAKE_SECONDS = 600  # measured 55 s
_AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"
_UNNEEDED = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
)


def ensure_base_image(dockerfile: Path) -> str:
    """Make sure that the engine has the Dockerfile's base image; return how it was had.

    Raises RuntimeError, subprocess.SubprocessError.
    """
    named = _named(dockerfile)
    image = named["image"]
    if _docker("image", "inspect", image, limit=20) == "":
        return "was there"
    refused = _docker("pull", "--quiet", image, limit=_PULL_SECONDS)
    if refused == "":
        return "pulled"
    if os.geteuid() != 0:
        raise RuntimeError(f"cannot pull {image}, and only root can make it: {refused}")
    _import(_packed(named["release"]), image, named["python"])
    return f"made by debootstrap, because: {refused}"


def _docker(*arguments: str, limit: float) -> str:
    """Run a docker command; what it complains of, empty when it succeeded."""
    done = subprocess.run(
        ["docker", *arguments],  # noqa: S607 — the one that the tests use
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


def prepare(dockerfile: Path) -> None:
    """Make what a machine without a registry needs, before there is an engine; as root.

    The base image's files go to the cache folder, and buildx and compose, where the docker command
    has none, to where it looks for plugins. Raises RuntimeError, subprocess.SubprocessError.
    """
    _packed(_named(dockerfile)["release"])


def _named(dockerfile: Path) -> re.Match[str]:
    named = NAME.search(dockerfile.read_text())
    if named is None:
        raise RuntimeError(f"{dockerfile} does not say PYTHON_IMAGE=python:X.Y-slim-RELEASE")
    return named


def _packed(release: str) -> Path:
    """Return the root file system as a tar file, made once and kept in the cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mailrelay"
    packed = cache / f"base-{release}.tar"
    missing = [name for name in _PLUGINS if _docker(name, "version", limit=20) != ""]
    if packed.exists() and not missing:
        return packed
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mailrelay-base-", dir="/var/tmp") as scratch:
        root = Path(scratch) / "root"
        _do(
            *("debootstrap", "--variant=minbase"),
            "--include=python3,python3-venv,ca-certificates",
            *(release, str(root)),
        )
        _add_plugins(root, missing)
        for folder in _UNNEEDED:
            shutil.rmtree(root / folder, ignore_errors=True)
        authorities = Path("/") / _AUTHORITIES
        if authorities.exists():  # a machine's own authority signs what its proxy opens
            shutil.copyfile(authorities, root / _AUTHORITIES)
        made = cache / f".{packed.name}.{os.getpid()}"
        _do(
            "tar", "--create", "--numeric-owner", "--file", str(made), "--directory", str(root), "."
        )
        made.replace(packed)
    return packed


def _add_plugins(root: Path, names: list[str]) -> None:
    """Give the docker command the plugins of the release that `root` is."""
    if not names:
        return
    shutil.copyfile("/etc/resolv.conf", root / "etc" / "resolv.conf")
    download = root / "plugins"
    download.mkdir()
    packages = " ".join(f"docker-{name}" for name in names)
    script = f"apt-get update -qq && cd /plugins && apt-get download -qq {packages}"
    _do("chroot", str(root), "sh", "-c", script)
    _PLUGIN_FOLDER.mkdir(parents=True, exist_ok=True)
    for package in download.glob("*.deb"):
        _do("dpkg", "-x", str(package), str(download))
    for name in names:
        found = download / "usr" / "libexec" / "docker" / "cli-plugins" / f"docker-{name}"
        shutil.copy2(found, _PLUGIN_FOLDER / found.name)
    shutil.rmtree(download)


def _import(packed: Path, image: str, python: str) -> None:
    _do(
        *("docker", "import"),
        *("--change", f"ENV SSL_CERT_FILE=/{_AUTHORITIES}"),
        *("--change", 'CMD ["python3"]'),
        *(str(packed), image),
    )
    asked = ("docker", "run", "--rm", "--network", "none", image, "python3", "--version")
    said = _do(*asked)
    if f"Python {python}." not in said:
        raise RuntimeError(f"{image} is to have Python {python}, and has {said.strip()}")


def _do(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_MAKE_SECONDS, check=False
    )
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).splitlines()[-15:])
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{last}")
    return done.stdout


if __name__ == "__main__":
    try:
        prepare(Path("Dockerfile"))
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        sys.exit(str(error))
