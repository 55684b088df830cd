"""The report of a check
---------------------

A check's findings in the form of a hunt's, so that one template shows both.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from .. import __version__
from ..audit.cause import causes, way_back
from ..audit.check import Report, each_once
from ..audit.finding import Finding
from ..audit.forecast import Forecaster, all_policies
from ..audit.graph import Orphans, orphan_groups
from ..documents import CaseJson, LeftJson
from ..hunt.rows import forecast_json
from ..ledger.documents import edge_json
from ..masking import masked
from ..report import render
from ..report.checks import more_texts
from ..text import printable
from .forecasts import Section, forecast_section
from .groups import Group, Shown, grouped, shape_of
from .page import moment, render_page

__all__ = ["check_findings", "check_page"]

_FORECASTS_MAX = 50
_LOOKS = {"error": "bad", "warning": "warn"}
# Of what was not searched for, so much is listed.
_LISTED_MAX = 40


def check_page(report: Report) -> str:
    """Return the page of a check."""
    target = report.book.index.snapshot.target
    where = f"QEMU {target.qemu_version}, {target.machine}, policy {report.book.policy.name}"
    return render_page(
        "check.html",
        title=f"qmr check: {printable(where)}",
        where=where,
        read=list(_read(report)),
        report=report,
        groups=check_findings(report),
        unsearched=_unsearched(report),
        forecasts=list(_forecasts(report)),
    )


def check_findings(report: Report) -> list[Group]:
    """Return the findings by cause: each leak once, not as orphan and as cycle."""
    by_root = {group.root: group for group in orphan_groups(report.book)}
    return grouped(
        _shown(report, one, by_root.get(one.address), with_it) for one, with_it in each_once(report)
    )


def _shown(
    report: Report, finding: Finding, group: Orphans | None, with_it: Iterable[Finding]
) -> Shown:
    book = report.book
    index = book.index
    orphan = group if finding.kind == "orphan" else None
    found = causes(book, orphan.root, orphan.members) if orphan is not None else []
    obj = index.snapshot.objects.get(finding.address)
    name = printable(index.label(finding.address)) if obj else f"<{finding.address:#x}>"
    sentences = [finding.text, *more_texts(finding, with_it)]
    sentences.append(f"observed {finding.observed}, expected {finding.expected}")
    back = way_back(book, finding.address, finding.references)
    left: LeftJson = {
        "address": hex(finding.address),
        "type": obj.type if obj else "",
        "was": index.path(finding.address) or name if obj else name,
        "references": [edge_json(index, edge, label=True) for edge in finding.references],
        "way_back": [edge_json(index, edge, label=True) for edge in back],
    }
    case: list[CaseJson] = [
        {
            "object": hex(one.object),
            "references": [edge_json(index, edge, label=True) for edge in one.edges],
            "way_back": [edge_json(index, edge, label=True) for edge in one.way_back],
        }
        for one in found
    ]
    return Shown(
        finding.kind,
        tuple(dict.fromkeys(one.name for one in found)),
        [name],
        [printable(text, 2000) for text in sentences],
        shape_of(sentences, name, obj.type if obj else name),
        _LOOKS.get(finding.severity, ""),
        {"objects_left": [left], "case": [one for one in case if one["references"]]},
    )


def _read(report: Report) -> Iterator[tuple[str, list[str]]]:
    """Yield what was read, as a table of names and values."""
    snapshot = report.book.index.snapshot
    target, capture = snapshot.target, snapshot.capture
    cost = f"{capture.bytes / 1e6:.1f} MB in {render.plural(capture.reads, 'read')}"
    if target.kind != "core" and capture.stop_us:
        cost += f"; QEMU stood still for {render.duration(capture.stop_us)}"
    found = {
        "host": target.host,
        "pid": str(target.pid or ""),
        "command line": masked(target.command),
        "when": moment(capture.at_us) if capture.at_us else "",
        "program": target.exe,
        "QEMU": target.qemu_version,
        "build id": target.build_id,
        "machine": target.machine,
        "policy": report.book.policy.name,
        "layout": os.path.basename(target.layout),
        "cost": cost,
        "read by": f"qmr {__version__}",
    }
    yield from ((name, [printable(text, 2000)]) for name, text in found.items() if text)


def _unsearched(report: Report) -> list[str]:
    """Return what was not looked for, and what is not judged without it."""
    snapshot = report.book.index.snapshot
    kinds = dict.fromkeys(row.kind for row in snapshot.unsearched if not row.absent)
    out = [f"not searched for in this QEMU: {', '.join(sorted(kinds))}"] if kinds else []
    out += [f"not known: {row.what}: {printable(row.why)}" for row in snapshot.unknown]
    for row in report.not_judged[:_LISTED_MAX]:
        label = printable(report.book.index.label(row.address))
        out.append(f"not judged: {label}; {', '.join(row.kinds)} may hold it")
    more = len(report.not_judged) - _LISTED_MAX
    return [*out, f"not judged: {more} more"] if more > 0 else out


def _forecasts(report: Report) -> Iterator[tuple[str, Section]]:
    """Yield what each policy would make of what was unplugged and is still there."""
    forecaster = Forecaster(report.book)
    for group in orphan_groups(report.book)[:_FORECASTS_MAX]:
        label = printable(report.book.index.label(group.root))
        found = [forecaster.of(policy, group.root, group.members) for policy in all_policies()]
        yield label, forecast_section([forecast_json(one) for one in found])
