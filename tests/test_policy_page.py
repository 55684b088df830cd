"""docs/policies.md: every command on it is run, and shows what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import ROOT, blocks, missing

PAGE = ROOT / "docs" / "policies.md"
SESSIONS = list(blocks(PAGE))


def test_every_claim_has_a_command() -> None:
    headings = set(re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE))
    assert {heading for heading, _, _ in SESSIONS} == headings
    assert all(shown for _, _, shown in SESSIONS)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", range(len(SESSIONS)), ids=lambda n: SESSIONS[n].heading[:20])
def test_what_the_page_shows_is_what_comes(number: int, tmp_path: Path) -> None:
    assert missing(SESSIONS[number], tmp_path) == ""
