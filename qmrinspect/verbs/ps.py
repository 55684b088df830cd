"""The verb that lists QEMUs
-------------------------
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..monitor.processes import Running, running
from ..report import render
from ..report.render import Row
from ..text import printable
from .verb import Answer, Session

if TYPE_CHECKING:
    from ..monitor.readable import Verdict

__all__ = ["run_ps"]


def run_ps(session: Session, args: argparse.Namespace) -> Answer:
    """List the QEMUs that run here (``qmr-ps/1``)."""
    from ..monitor.readable import judge

    found = judge(running())
    data = {
        "format": "qmr-ps/1",
        "processes": [
            {
                "pid": process.pid,
                "name": process.name,
                "machine": process.machine,
                "version": process.version or "",
                "qmp": list(process.qmp),
                "layout": verdict.layout or "",
                "readable": not verdict.refused,
                "refused": verdict.refused or "",
            }
            for process, verdict in found
        ],
    }
    return Answer(data, _ps_lines(found))


def _ps_lines(found: Sequence[tuple[Running, Verdict]]) -> Iterator[str]:
    if not found:
        yield "no QEMU runs here that qmr can see"
        return
    rows = [
        Row(
            (
                str(process.pid),
                process.name,
                process.machine,
                printable(process.version or "?").split(" ")[0],
                verdict.layout or "?",
                "no" if verdict.refused else "yes",
                ", ".join(map(printable, process.qmp)) or "-",
            ),
            "dim" if verdict.refused else None,
        )
        for process, verdict in found
    ]
    head = ("pid", "name", "machine", "version", "layout", "readable", "monitors")
    yield from render.table(head, rows, right=(0,), indent=0)
    for process, verdict in found:
        if verdict.refused:
            yield f"{process.pid}: {printable(verdict.refused)}"
