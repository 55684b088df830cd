"""The verb that lists QEMUs
-------------------------
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from ..index import printable
from ..report import render
from ..report.render import Row
from .processes import Running, running
from .verb import Outcome, Session, Verb

__all__ = ["VERBS"]


def _ps(session: Session, args: argparse.Namespace) -> Outcome:
    found = running()
    data = {
        "format": "qmr-ps/1",
        "processes": [
            {
                "pid": process.pid,
                "name": process.name,
                "machine": process.machine,
                "version": process.version,
                "qmp": list(process.qmp),
                "layout": process.layout,
                "readable": not process.refused,
                "refused": process.refused,
            }
            for process in found
        ],
    }
    return Outcome(data, _ps_lines(found))


def _ps_lines(found: Sequence[Running]) -> Iterator[str]:
    if not found:
        yield "no QEMU runs here that qmr can see"
        return
    rows = [
        Row(
            (
                str(process.pid),
                process.name,
                process.machine,
                printable(process.version).split(" ")[0] or "?",
                process.layout or "?",
                "no" if process.refused else "yes",
                ", ".join(map(printable, process.qmp)) or "-",
            ),
            "dim" if process.refused else "",
        )
        for process in found
    ]
    head = ("pid", "name", "machine", "version", "layout", "readable", "monitors")
    yield from render.table(head, rows, right=(0,), indent=0)
    for process in found:
        if process.refused:
            yield f"{process.pid}: {printable(process.refused)}"


VERBS = (
    Verb(
        "ps",
        "which QEMUs run here: pid, name, machine, version, layout, monitors",
        (),
        _ps,
    ),
)
