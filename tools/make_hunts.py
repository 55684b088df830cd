#!/usr/bin/env python3
"""Write docs/hunts.md from whole hunts of several QEMUs.

    tools/make_hunts.py FILE...

Each file is what ``qmr hunt --json`` printed, for one QEMU and one machine.  Findings that several
have in common are told once, with the line of QEMU's source that explains them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from make_deep import cell, explained, version_of  # noqa: E402

from qmrinspect.documents import HuntRow  # noqa: E402
from qmrinspect.hunt.rows import is_bad  # noqa: E402

PAGE = ROOT / "docs" / "hunts.md"
#: What differs from one run to the next: addresses, ids, and where programs and sockets are.
_OWN = re.compile(r" ?<0x[0-9a-f]+>| dut\d+|from pid \d+ \S+|(?<=monitor) \S+")
OUTCOMES = ("clean", "crash", "leak", "partial-leak", "stale", "delayed", "hang", "not-acked")


class Hunt(NamedTuple):
    """A whole hunt.

    :param undone: how many of its jobs could not be done.
    """

    name: str
    machine: str
    rows: Sequence[HuntRow]
    undone: int


def read(path: str) -> Hunt:
    """Read what a hunt printed."""
    lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    summary = lines.pop()
    rows: list[HuntRow] = [row for row in lines if row.get("hotpluggable", True)]
    assert "summary" in summary, f"{path} is not whole"
    first = next(row for row in rows if version_of(row))
    machine = first["machine"].removeprefix("pc-").split("-")[0]
    name = "q35" if machine == "q35" else "pc"
    return Hunt(version_of(first), name, rows, len(summary.get("not_done", ())))


def lines(hunts: Sequence[Hunt], commit: str) -> Iterator[str]:
    """Yield the page."""
    yield "# Whole hunts of the newest QEMUs"
    yield ""
    day = time.strftime("%Y-%m-%d")
    yield f"Made by `tools/make_hunts.py`, at {commit}, {day}, of what `qmr hunt --json` said"
    yield "of all that each QEMU can hotplug. Refused is what this machine lacks (a kernel module,"
    yield "a host device), or QEMU itself keeps; not done would be what qmr could not judge."
    yield ""
    yield f"| QEMU | machine | candidates | {' | '.join(OUTCOMES)} | refused | not done |"
    yield "|---" * (len(OUTCOMES) + 5) + "|"
    for hunt in hunts:
        count = Counter(row["outcome"] for row in hunt.rows)
        numbers = [len(hunt.rows), *(count[name] for name in OUTCOMES), count["refused"]]
        yield f"| {hunt.name} | {hunt.machine} | {' | '.join(map(str, numbers))} | {hunt.undone} |"
    yield ""
    found: dict[tuple[str, str, str], dict[str, set[str]]] = {}
    for hunt in hunts:
        for row in hunt.rows:
            if is_bad(row):
                cpu = row["device"].endswith("-cpu")
                device = "CPU models" if cpu else row["device"]
                why = explained(row) or cell(_OWN.sub("", row.get("text", "")))
                where = found.setdefault((device, row["outcome"], why), {})
                where.setdefault(hunt.name, set()).add(hunt.machine)
    yield "| device | outcome | QEMU | explained by |"
    yield "|---|---|---|---|"
    for (device, outcome, why), places in sorted(found.items()):
        there = ", ".join(f"{name} ({', '.join(sorted(m))})" for name, m in sorted(places.items()))
        yield f"| `{device}` | {outcome} | {there} | {why} |"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    at = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    PAGE.write_text("\n".join(lines([read(path) for path in sys.argv[1:]], at)) + "\n")
    print(PAGE)
