"""The report of a check
---------------------

A check's findings in the form of a hunt's rows, so that one page serves both.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from ..audit.check import Report
from ..audit.forecast import Forecaster, all_policies
from ..audit.graph import orphan_groups
from ..hunt.rows import edge_json, forecast_json
from ..text import printable
from .forecasts import forecast_section
from .page import STYLE
from .svg import reference_graph

__all__ = ["check_page"]

_FORECASTS_MAX = 50


def check_page(report: Report) -> str:
    """Return the page of a check."""
    index = report.book.index
    target = index.snapshot.target
    where = f"QEMU {target.qemu_version}, {target.machine}, policy {report.book.policy.name}"
    title = f"qmr check: {printable(where)}"
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{STYLE}</style></head><body><h1>qmr check</h1><p>{escape(where)}</p>",
        '<p class="chips" id="summary">',
        f"<span>{report.objects} objects</span><span>{report.exact} exact</span>",
        f"<span>{report.observed} references</span><span>{report.explained} explained</span>",
        f"<span>{report.by_rule} by rule</span><span>{len(report.findings)} findings</span></p>",
    ]
    for number, finding in enumerate(report.findings):
        look = {"error": "bad", "warning": "warn"}.get(finding.severity, "")
        edges = [edge_json(index, edge) for edge in finding.references]
        address = hex(finding.address)
        obj = index.snapshot.objects.get(finding.address)
        left = {
            "address": address,
            "type": obj.type if obj else "",
            "was": index.path(finding.address) if obj else "",
            "references": edges,
        }
        parts.append(
            f'<section class="finding" id="finding-{number}"><h3 class="{look}">'
            f"{escape(finding.kind)}</h3><p>{escape(printable(finding.text, 2000))}</p>"
            f"<p>observed {finding.observed}, expected {finding.expected}</p>"
            f'<div class="scroll">{reference_graph({"objects_left": [left]})}</div></section>'
        )
    parts += _forecasts(report)
    parts.append("</body></html>")
    return "\n".join(parts) + "\n"


def _forecasts(report: Report) -> Iterator[str]:
    """Yield what each policy would make of what was unplugged and is still there."""
    groups = orphan_groups(report.book)
    if groups:
        yield "<h2>Under each policy</h2>"
    forecaster = Forecaster(report.book)
    for group in groups[:_FORECASTS_MAX]:
        label = printable(report.book.index.label(group.head))
        found = [forecaster.of(policy, group.head, group.members) for policy in all_policies()]
        yield f'<section class="finding"><h3>{escape(label)}</h3>'
        yield from forecast_section([forecast_json(one) for one in found])
        yield "</section>"
