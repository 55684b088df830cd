"""The verb of layouts
-------------------
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from ..errors import LayoutError, UsageError
from ..layout import Layout, save
from ..outfile import probe
from ..report import render, words
from ..report.checks import unsearched_json
from ..report.render import Row
from ..text import printable
from .verb import Answer, Session

__all__ = ["run_layout"]


def run_layout(session: Session, args: argparse.Namespace) -> Answer:
    """Say where the layout comes from and how well it fits (``qmr-layout/1``), or save it."""
    from ..fitting import program_layout, shipped_layout

    probe(args.save)
    if not args.program:
        return _of_target(session, args.save)
    where = "its DWARF"
    try:
        layout = program_layout(args.program)
    except LayoutError:
        shipped = None if args.save else shipped_layout(args.program)
        if shipped is None:
            raise
        layout = shipped
        where = f"the {layout.source.replace(':', ' ')} of qmr, which is tested when it runs"
    data = {
        "format": "qmr-layout/1",
        "source": layout.source,
        "program": args.program,
        "build_id": layout.build_id,
        "qemu_version": layout.version,
        "structs": len(layout.structs),
    }
    count = render.plural(len(layout.structs), "structure")
    lines = [f"{printable(args.program)}, QEMU {printable(layout.version)}: {count} from {where}"]
    return Answer(data, [*lines, *_save(layout, args.save)])


def _of_target(session: Session, path: str) -> Answer:
    from ..walk.validate import validate

    snapshot = session.snapshot()
    checks = [row for row in validate(snapshot) if row.total]
    target = snapshot.target
    saved: list[str] = []
    layout = session.layout()
    evidence = sorted(layout.evidence.items()) if layout is not None else []
    if path:
        if layout is None:
            raise UsageError("a saved snapshot has no layout", "name a QEMU that runs")
        saved = list(_save(layout, path))
    data = {
        **words.head_json("qmr-layout/1", snapshot),
        "source": target.layout,
        "checks": [
            {"name": row.name, "ok": row.ok, "held": row.held, "total": row.total} for row in checks
        ],
        "evidence": [{"field": field, "evidence": word} for field, word in evidence],
        "not_searched": unsearched_json(snapshot),
    }

    def lines() -> Iterator[str]:
        fits = all(row.ok for row in checks)
        yield (
            f"layout {printable(target.layout)} {'fits' if fits else 'does not fit'} "
            f"{printable(target.exe)}, QEMU {printable(target.qemu_version)}"
        )
        rows = [
            Row(("ok" if row.ok else "NO", row.detail, row.name), "" if row.ok else "error")
            for row in checks
        ]
        yield from render.table(("", "holds", "relation"), rows, right=(1,))
        if evidence:
            yield "what speaks for each field:"
            yield from render.table(("field", "evidence"), [Row(row) for row in evidence])
        if snapshot.unsearched:
            yield "kinds of references that this QEMU was not searched for:"
            rows = [Row((row.kind, row.start, row.field, row.why)) for row in snapshot.unsearched]
            yield from render.table(("kind", "type", "field", "why"), rows)
        yield f"build id {target.build_id or 'none'}"
        yield from saved

    return Answer(data, lines())


def _save(layout: Layout, path: str) -> Iterator[str]:
    if path:
        try:
            save(layout, Path(path))
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
        yield f"{printable(path)} has it: use it with --layout, here and elsewhere"
