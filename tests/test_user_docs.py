"""The pages for users: their commands do what the pages say."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import ROOT, Block, blocks, missing

#: Pages all of whose commands are run here, on snapshots that the repository has.
PAGES = ("finding.md", "python.md")
BLOCKS = [(page, block) for page in PAGES for block in blocks(ROOT / "docs" / page)]


@pytest.mark.parametrize(
    ("page", "block"), BLOCKS, ids=[f"{page}-{block.heading}" for page, block in BLOCKS]
)
def test_a_command_shows_what_the_page_says(page: str, block: Block, tmp_path: Path) -> None:
    assert block.shown
    assert missing(block, tmp_path) == ""
