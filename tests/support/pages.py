"""What a page of the documentation shows: the commands that its reader runs, its files, its tables.

Only blocks marked `sh` are commands to be run; a block without a word is for the reader's eyes.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.command import ROOT

GUIDES = ROOT / "docs" / "guide"


def blocks(page: Path, language: str = "sh") -> dict[str, str]:
    """Return what is fenced as of that language, by the `##` heading above it, joined."""
    return {title: "".join(found) for title, found in separate_blocks(page, language).items()}


def separate_blocks(page: Path, language: str = "sh") -> dict[str, list[str]]:
    """Return what is fenced as of that language, by the `##` heading above it, each by itself."""
    parts = re.split(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)
    found = {}
    for title, text in zip(["", *parts[1::2]], [parts[0], *parts[2::2]], strict=True):
        if fenced := re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            found[title] = fenced
    return found


def commands(page: Path) -> list[str]:
    """Return the commands of a page in their order, each of which is one line."""
    return [line for block in blocks(page).values() for line in block.splitlines()]


def table(page: Path, heading: str) -> list[list[str]]:
    """Return the rows of the first table below a `##` heading, without its head."""
    _, _, text = page.read_text().partition(f"\n## {heading}\n")
    rows = re.findall(r"^\|(.*)\|$", text.partition("\n## ")[0], re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in rows[2:]]


def quoted(cell: str) -> list[str]:
    """Return what stands between back-quotes."""
    return re.findall(r"`([^`]+)`", cell)
