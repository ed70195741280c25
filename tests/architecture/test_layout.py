from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.architecture.repository import ROOT, packages, tracked_files

# Put together here, so that this file is no finding itself.
MACHINE_PATHS = re.compile("/" + "work/|/" + "root/|/" + "home/[a-z]|/" + r"tmp/\w*bin\b")
REGISTRIES = (
    "pypi" + ".org",
    "python" + "hosted.org",
    "proxy" + ".golang.org",
    "registry" + ".npmjs.org",
    "registry-1" + ".docker.io",
)
INDEX_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX")


@pytest.mark.parametrize("package", packages(), ids=lambda path: path.name)
def test_a_package_names_each_of_its_modules(package: Path) -> None:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    named = set(re.findall(r"`(\w+)`", docstring))
    modules = {path.stem for path in package.glob("*.py")}
    modules |= {path.parent.name for path in package.glob("*/__init__.py")}
    missing = modules - {"__init__", "__main__"} - named
    assert not missing, f"{package.name}'s docstring does not name {sorted(missing)}"


def index_hosts() -> set[str]:
    """The hosts that this machine gets packages from: whatever they are, they stay out."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    configured = subprocess.run(command, capture_output=True, check=False, text=True).stdout
    texts = [configured, *(os.environ.get(name, "") for name in INDEX_VARIABLES)]
    urls = (url for text in texts for url in re.findall(r"https?://[^\s'\"]+", text))
    return {host for host in (urlsplit(url).hostname for url in urls) if host}


def test_no_file_names_a_package_registry_or_a_folder_of_some_machine() -> None:
    # A host may be a plain word such as `localhost`: only real names and addresses count.
    hosts = {*REGISTRIES, *(host for host in index_hosts() if "." in host)} - {"127.0.0.1"}
    findings = []
    for path in tracked_files():
        text = path.read_bytes().decode("utf-8", "replace")
        findings += [f"{path.relative_to(ROOT)}: {host}" for host in hosts if host in text]
        findings += [f"{path.relative_to(ROOT)}: {found}" for found in MACHINE_PATHS.findall(text)]
    assert findings == []
