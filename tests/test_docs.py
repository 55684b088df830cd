"""What the pages for contributors say is so."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from qmrinspect import __version__
from qmrinspect.audit.outcome import Outcome
from qmrinspect.verbs import table

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
)
#: What a path in backquotes looks like.
_PATH = re.compile(r"`((?:qmrinspect|tests|tools|docs|gdb|examples)/[\w./-]+)`")
_LINK = re.compile(r"\]\(([\w./-]+\.md)(?:#[\w-]+)?\)")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_no_dead_path(page: str) -> None:
    text = (ROOT / page).read_text()
    # docs/devel is QEMU's.
    named = [path for path in _PATH.findall(text) if not path.startswith("docs/devel/")]
    dead = [path for path in named if not (ROOT / path).exists()]
    links = [
        link for link in _LINK.findall(text) if not (ROOT / page).parent.joinpath(link).exists()
    ]
    assert dead == [] and links == []


def test_architecture_names_no_dead_path() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:[a-z]+/)+\w+\.py)`", text)
    roots = (ROOT, ROOT / "qmrinspect")
    assert [path for path in named if not any((root / path).exists() for root in roots)] == []
    assert len(named) > 25


def test_ten_tasks_have_their_place() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "where.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| task")
    ]
    assert len(rows) == 10
    assert all(_PATH.search(row) for row in rows)


def test_every_proof_is_a_test() -> None:
    text = (ROOT / "docs" / "extending.md").read_text()
    sections = re.findall(r"^## (.*)$", text, re.M)
    assert {s.split()[-1] for s in sections} >= {"reference", "layout", "recipe", "verb", "peer"}
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) >= len(sections) - 1
    assert [name for name in named if f"def {name}(" not in tests] == []


def test_the_glossary_has_the_words_of_the_contract() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text()
    assert [word for word in Outcome if f"`{word}`" not in text] == []


def test_the_version_has_its_entry() -> None:
    assert re.search(rf"^## {re.escape(__version__)}$", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_every_entry_of_the_table_has_its_function() -> None:
    text = Path(table.__file__).read_text()
    entries = re.findall(r'_run\("(\w+)", "(\w+)"\)', text)
    assert len(entries) == len(table.VERBS)
    for family, function in entries:
        assert callable(getattr(importlib.import_module(f"qmrinspect.verbs.{family}"), function))
