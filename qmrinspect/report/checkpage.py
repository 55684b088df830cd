"""The report of a check
---------------------

A check's findings in the form of a hunt's rows, so that one picture serves both.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..audit.check import Report
from ..audit.finding import Finding
from ..audit.forecast import Forecaster, all_policies
from ..audit.graph import orphan_groups
from ..documents import LeftJson
from ..hunt.rows import forecast_json
from ..ledger.documents import edge_json
from ..text import printable
from .forecasts import Section, forecast_section
from .page import render_page
from .svg import reference_graph

__all__ = ["check_page"]

_FORECASTS_MAX = 50
_LOOKS = {"error": "bad", "warning": "warn"}


def check_page(report: Report) -> str:
    """Return the page of a check."""
    target = report.book.index.snapshot.target
    where = f"QEMU {target.qemu_version}, {target.machine}, policy {report.book.policy.name}"
    return render_page(
        "check.html",
        title=f"qmr check: {printable(where)}",
        where=where,
        report=report,
        findings=[
            (finding, _LOOKS.get(finding.severity, ""), _picture(report, finding))
            for finding in report.findings
        ],
        forecasts=list(_forecasts(report)),
    )


def _picture(report: Report, finding: Finding) -> str:
    index = report.book.index
    obj = index.snapshot.objects.get(finding.address)
    left: LeftJson = {
        "address": hex(finding.address),
        "type": obj.type if obj else "",
        "was": index.path(finding.address) if obj else "",
        "references": [edge_json(index, edge, label=True) for edge in finding.references],
    }
    return reference_graph({"objects_left": [left]})


def _forecasts(report: Report) -> Iterator[tuple[str, Section]]:
    """Yield what each policy would make of what was unplugged and is still there."""
    forecaster = Forecaster(report.book)
    for group in orphan_groups(report.book)[:_FORECASTS_MAX]:
        label = printable(report.book.index.label(group.head))
        found = [forecaster.of(policy, group.head, group.members) for policy in all_policies()]
        yield label, forecast_section([forecast_json(one) for one in found])
