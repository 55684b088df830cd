"""Forecast beside fact, in words
------------------------------
"""

from __future__ import annotations

from collections.abc import Iterator

from ..audit.agreement import Agreement, Cell
from ..text import printable
from . import render
from .render import Row

__all__ = ["agreement_json", "agreement_lines"]

_WRONG_SHOWN = 20


def agreement_json(found: Agreement) -> dict[str, object]:
    """Return a comparison for ``--json``."""
    return {
        "builds": [
            {
                "name": build,
                "policies": list(found.policies[build]),
                "sure": _cell_json(found.sure[build]),
            }
            for build in found.builds
        ],
        "cells": [
            {"source": source, "foretold_on": here, "done_on": there, **_cell_json(cell)}
            for (source, here, there), cell in found.cells.items()
        ],
    }


def _cell_json(cell: Cell) -> dict[str, object]:
    return {"right": cell.right, "total": cell.total, "wrong": list(cell.wrong)}


def agreement_lines(found: Agreement) -> Iterator[str]:
    """Yield the tables: what was foretold on each build, beside what each did."""
    for build in found.builds:
        sure = found.sure[build]
        yield (
            f"{build}: policy {' or '.join(found.policies[build])}; {sure.right} of {sure.total} "
            "right that were sure while plugged"
        )
    wrong = []
    for source in ("pinned", "after"):
        rows = []
        for here in found.builds:
            cells = [found.cells.get((source, here, there)) for there in found.builds]
            if any(cells):
                rows.append(Row((here, *(f"{c.right}/{c.total}" if c else "" for c in cells))))
            wrong += [f"{source} on {here}: {w}" for c in cells if c for w in c.wrong]
        if rows:
            yield f"foretold from {source}, right of all:"
            yield from render.table(("foretold on, of", *found.builds), rows)
    wrong += [f"plugged: {w}" for cell in found.sure.values() for w in cell.wrong]
    for text in wrong[:_WRONG_SHOWN]:
        yield f"  {printable(text, 4000)}"
    if len(wrong) > _WRONG_SHOWN:
        yield f"  and {len(wrong) - _WRONG_SHOWN} more"
