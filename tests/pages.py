"""The commands of a page, and whether they show what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["ROOT", "Block", "blocks", "missing"]

ROOT = Path(__file__).resolve().parent.parent


class Block(NamedTuple):
    """An indented block: its heading, its commands, and the lines that they show."""

    heading: str
    commands: list[str]
    shown: list[str]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page that have commands after ``$``."""
    heading = ""
    commands: list[str] = []
    shown: list[str] = []
    for line in [*page.read_text().splitlines(), ""]:
        if line.startswith("## "):
            heading = line[3:]
        if line.startswith("    $ "):
            commands.append(line[6:])
        elif line.startswith("    ") and commands:
            shown.append(line.strip())
        elif commands:
            yield Block(heading, commands, shown)
            commands, shown = [], []


def missing(block: Block, place: Path) -> str:
    """Run a block in a directory that has the checkout's folders; say what it did not show.

    Spaces do not matter, since tables fit the terminal.

    :return: "" when all was shown.
    """
    for name in ("tools", "tests", "examples", "gdb"):
        (place / name).symlink_to(ROOT / name)
    qmr = place / "qmr"
    qmr.write_text(f'#!/bin/sh\nexec {sys.executable} -m qmrinspect "$@"\n')
    qmr.chmod(0o755)
    # Whatever happens, no QEMU of the page outlives it.
    script = ["trap 'test ! -f pid || kill $(cat pid) 2>/dev/null' EXIT", *block.commands]
    env = {**os.environ, "PATH": f"{place}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    apart = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    done = subprocess.run(
        [*(apart if not os.geteuid() else ()), "bash", "-c", "\n".join(script)],
        cwd=place,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    # In this order; the page leaves out what does not matter, and what differs each time.
    said, at = _plain(done.stdout), 0
    for line in map(_plain, block.shown):
        at = said.find(line, at)
        if at < 0:
            return f"{line!r} is not in:\n{done.stdout}\n{done.stderr}"
        at += len(line)
    return ""


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
