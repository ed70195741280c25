from __future__ import annotations

from pathlib import Path

import pytest

from tools.reference.pages import ROOT, pages

PAGES = pages()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_reference_page_says_what_the_code_says(path: Path) -> None:
    assert path.exists(), f"{path.name} is missing: make docs"
    assert path.read_text() == PAGES[path], f"{path.name} differs from the code: make docs"


def test_no_reference_page_is_left_over() -> None:
    folder = ROOT / "docs" / "reference"
    assert set(folder.iterdir()) == {path for path in PAGES if path.parent == folder}
