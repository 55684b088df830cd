"""The verbs that work on a hunt that was
--------------------------------------

``report`` makes a page of it, ``replay`` does one finding again on another QEMU.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..errors import QmrError
from ..outfile import probe, write
from ..report import render
from .verb import CLEAN, FINDINGS, Answer, Session

__all__ = ["run_replay", "run_report"]

# What git bisect run takes an exit code for: see git-bisect(1).
_GOOD, _BAD, _SKIP = 0, 1, 125


def run_report(session: Session, args: argparse.Namespace) -> Answer:
    """Write one HTML page of a campaign, or of a check of the target."""
    probe(args.output)
    if args.campaign:
        return _report_hunt(args)
    from ..pages.checkpage import check_findings, check_page

    checked = session.report()
    write(args.output, check_page(checked))
    shown = sum(len(group.findings) for group in check_findings(checked))
    code = FINDINGS if checked.failed else CLEAN
    data = {"format": "qmr-report/1", "page": args.output, "findings": len(checked.findings)}
    return Answer(data, [f"{render.plural(shown, 'finding')}: {args.output}"], code)


def _report_hunt(args: argparse.Namespace) -> Answer:
    from ..campaign.store import baseline_rows, compare
    from ..hunt.rows import is_bad
    from ..pages.page import page

    rows = baseline_rows(args.campaign)
    compared = compare(rows, baseline_rows(args.baseline)) if args.baseline else None
    title = args.title or f"qmr hunt: {Path(args.campaign).name}"
    write(args.output, page(title, rows, compared, os.path.dirname(args.output)))
    findings = [row for row in rows if is_bad(row)]
    counted = compared["new"] if compared is not None else findings
    data: dict[str, object] = {
        "format": "qmr-report/1",
        "page": args.output,
        "rows": len(rows),
        "findings": len(findings),
    }
    counts = f"{render.plural(len(rows), 'row')}, {render.plural(len(findings), 'finding')}"
    lines = [f"{counts}: {args.output}"]
    if compared is not None:
        lines.append(", ".join(f"{len(found)} {name}" for name, found in compared.items()))
        data["compared"] = {name: len(found) for name, found in compared.items()}
    return Answer(data, lines, FINDINGS if counted else CLEAN)


def run_replay(session: Session, args: argparse.Namespace) -> Answer:
    """Do one finding again, on another QEMU."""
    from ..hunt.bundle import read_bundle
    from ..hunt.pool import VmPool
    from ..hunt.rows import key
    from ..report.rows import verdict_lines

    settings, job, before = read_bundle(args.bundle)
    if args.qemu:
        settings = settings._replace(qemu=args.qemu)
    try:
        with VmPool(settings) as pool:
            rows = list(pool.do(job))
    except QmrError as error:
        data = {"format": "qmr-replay/1", "verdict": "skip", "error": str(error)}
        return Answer(data, [f"cannot be tested here: {error}"], _SKIP)
    # Of the error paths of a driver there is more than one.
    row = next((row for row in rows if key(row) == key(before)), rows[-1])
    if key(row) == key(before):
        verdict, code, text = "bad", _BAD, "the same finding as in the bundle"
    elif row["outcome"] in ("clean", "delayed"):
        verdict, code, text = "good", _GOOD, f"not found here; the bundle has {before['outcome']}"
    else:
        verdict, code = "skip", _SKIP
        was = " ".join(part for part in key(before)[1:] if part)
        text = f"something else than in the bundle, which has {was}"
    found = {"format": "qmr-replay/1", "verdict": verdict, "row": row}
    return Answer(found, [*verdict_lines(row), f"{verdict}: {text}"], code)
