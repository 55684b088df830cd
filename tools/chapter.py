"""A page of the manual that several campaigns write, each its own chapter."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def origin() -> str:
    """Say which commit this is, when it is, and what the machine is like."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    load = f"load {os.getloadavg()[0]:.1f}"
    return f"{commit}, {time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} CPUs, {load}"


def write(page: Path, title: str, lines: Sequence[str], more: bool = False) -> None:
    """Write a chapter, in place of an older one of that title or at the end.

    :param more: keeps what is there, and goes on behind it.
    """
    text = page.read_text() if page.exists() else ""
    chapter = "\n".join((f"## {title}", "", *lines)).rstrip() + "\n"
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", text, re.M | re.S)
    if found is None:
        text = f"{text.rstrip()}\n\n{chapter}" if text else chapter
    else:
        rest = text[found.end() :]
        if more:
            chapter = found.group().rstrip() + "\n\n" + chapter.partition("\n\n")[2]
        text = text[: found.start()] + chapter + ("\n" + rest if rest else "")
    page.write_text(text)
