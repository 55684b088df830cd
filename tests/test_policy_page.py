"""docs/policies.md: every command on it is run, and shows what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "policies.md"


def sessions() -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each indented block: its heading, its commands and the lines that they show."""
    heading, commands, shown = "", [], []
    for line in [*PAGE.read_text().splitlines(), ""]:
        if line.startswith("## "):
            heading = line[3:]
        if line.startswith("    $ "):
            commands.append(line[6:])
        elif line.startswith("    ") and commands:
            shown.append(line.strip())
        elif commands:
            yield heading, commands, shown
            commands, shown = [], []


SESSIONS = list(sessions())


def plain(text: str) -> str:
    """Return text with single spaces: tables fit the terminal."""
    return re.sub(r"\s+", " ", text).strip()


def test_every_claim_has_a_command() -> None:
    headings = set(re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE))
    assert {heading for heading, _, _ in SESSIONS} == headings
    assert all(shown for _, _, shown in SESSIONS)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", range(len(SESSIONS)), ids=lambda n: SESSIONS[n][0][:20])
def test_what_the_page_shows_is_what_comes(number: int, tmp_path: Path) -> None:
    _, commands, shown = SESSIONS[number]
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    qmr = tmp_path / "qmr"
    qmr.write_text(f'#!/bin/sh\nexec {sys.executable} -m qmrinspect "$@"\n')
    qmr.chmod(0o755)
    # Whatever happens, no QEMU of the page outlives it.
    script = "\n".join(["trap 'test ! -f pid || kill $(cat pid) 2>/dev/null' EXIT", *commands])
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    apart = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    done = subprocess.run(
        [*(apart if not os.geteuid() else ()), "bash", "-c", script],
        cwd=tmp_path,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    lines = iter([plain(line) for line in done.stdout.splitlines()])
    for wanted in shown:
        # In this order; the page leaves out what does not matter, and what differs each time.
        assert any(plain(wanted) in line for line in lines), (wanted, done.stdout, done.stderr)
