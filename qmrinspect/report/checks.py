"""A check in words
----------------
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ..audit import Report
from ..audit.check import Finding, each_once
from ..audit.finding import Severity
from ..audit.stale import stale_json
from ..ledger import RULES, Book
from ..snapshot import Snapshot, Stale
from ..text import printable
from . import render, words
from .policies import policy_json, policy_text
from .render import Row

__all__ = ["check_lines", "more_texts", "report_json", "unsearched_json"]

_SEVERITIES = tuple(Severity)
# So many rows of evidence are shown under a finding; qmr refs shows all.
_EVIDENCE_MAX = 12


def report_json(report: Report) -> dict[str, object]:
    """Return a report as ``qmr-check/1``."""
    book = report.book
    return {
        **words.head_json("qmr-check/1", book.index.snapshot),
        "policy": policy_json(report.verdict),
        "objects": report.objects,
        "exact": report.exact,
        "refs_observed": report.observed,
        "refs_explained": report.explained,
        "refs_by_rule": report.by_rule,
        "rules": [
            {
                "name": rule,
                "count": count,
                "grants": RULES[rule].grants,
                "source": RULES[rule].source,
            }
            for rule, count in sorted(report.rules.items())
        ],
        "not_searched": unsearched_json(book.index.snapshot),
        "not_judged": [
            {
                "object": words.object_json(book.index, row.address),
                "observed": row.observed,
                "expected": row.expected,
                "kinds": list(row.kinds),
            }
            for row in report.not_judged
        ],
        "findings": [_finding_json(book, finding) for finding in report.findings],
        "candidates": [stale_json(row, book.index) for row in _candidates(book)],
        "unknown": [row._asdict() for row in book.index.snapshot.unknown],
    }


def _candidates(book: Book) -> list[Stale]:
    """Return what looks like a stale callback, and is in no known structure."""
    return [row for row in book.index.snapshot.stale if not row.certain]


def unsearched_json(snapshot: Snapshot) -> list[dict[str, object]]:
    """Return the holders that a QEMU was not searched for, and why, as JSON."""
    return [
        {
            "kind": row.kind,
            "field": row.field,
            "type": row.start,
            "holds": row.target,
            "why": row.why,
            "absent": row.absent,
        }
        for row in snapshot.unsearched
    ]


def _finding_json(book: Book, finding: Finding) -> dict[str, object]:
    return {
        "kind": finding.kind,
        "severity": str(finding.severity),
        "object": words.object_json(book.index, finding.address),
        "observed": finding.observed,
        "expected": finding.expected,
        "references": words.references(book.index, finding.references),
        "text": finding.text,
    }


def check_lines(report: Report) -> Iterator[str]:
    """Yield a report for people: findings, the worst first, then what was not looked for."""
    book, snapshot = report.book, report.book.index.snapshot
    wrong = report.objects - report.exact
    verdict = "all balance" if not wrong else f"{wrong} do not balance"
    yield (
        f"{render.plural(report.objects, 'object')} with "
        f"{render.plural(report.observed, 'reference')}: {report.explained} explained, "
        f"{report.by_rule} by rule; {verdict}"
    )
    yield policy_text(report.verdict)
    found = each_once(report)
    for severity in _SEVERITIES:
        for finding, with_it in found:
            if finding.severity == severity:
                yield from _finding_lines(book, finding, with_it)
    if report.rules:
        yield "granted by a rule (QEMU's source says so, the holder is not visible here):"
        rows = [
            Row((str(count), rule, RULES[rule].grants, RULES[rule].source))
            for rule, count in sorted(report.rules.items())
        ]
        yield from render.table((), rows, right=(0,))
    for stale in _candidates(book)[:_EVIDENCE_MAX]:
        yield f"not certain: {printable(stale_json(stale, book.index)['text'], 2000)}"
    for row in snapshot.unknown:
        yield f"not known: {row.what}: {printable(row.why)}"
    yield from _unseen_lines(report)
    yield render.paint(_cost(snapshot), "dim")
    counts = Counter(finding.severity for finding, _ in found)
    if not counts:
        yield render.paint("nothing found", "good")
    else:
        yield ", ".join(render.plural(counts[s], s) for s in _SEVERITIES if counts[s])


def _unseen_lines(report: Report) -> Iterator[str]:
    """What was not looked for, and what cannot be judged without it."""
    index = report.book.index
    # What has no structure in the program's own debug information is not there to be found.
    kinds = Counter(row.kind for row in index.snapshot.unsearched if not row.absent)
    if kinds:
        listed = ", ".join(f"{kind} x{n}" if n > 1 else kind for kind, n in sorted(kinds.items()))
        yield f"not searched for in this QEMU: {listed} (qmr layout says why)"
    for row in report.not_judged[:_EVIDENCE_MAX]:
        yield (
            f"not judged: {printable(index.label(row.address))} has "
            f"{render.plural(row.observed, 'reference')}, {row.expected} explained; "
            f"{', '.join(row.kinds)} may hold it"
        )
    if len(report.not_judged) > _EVIDENCE_MAX:
        yield f"not judged: {len(report.not_judged) - _EVIDENCE_MAX} more objects"


def more_texts(finding: Finding, with_it: Iterable[Finding]) -> list[str]:
    """Return what findings on the objects of an orphan say that its own sentence does not."""
    # That it holds itself is said already; a cycle of several is more.
    more = [one.text for one in with_it if one.kind != "cycle" or not one.text.startswith("1 ")]
    return [text for text in more if text not in finding.text]


def _finding_lines(book: Book, finding: Finding, with_it: Iterable[Finding]) -> Iterator[str]:
    tag = render.paint(f"{finding.severity}: {finding.kind}:", finding.severity)
    yield f"{tag} {printable(finding.text, 2000)}"
    rows = words.edge_rows(book, finding.references)
    yield from words.edge_table(rows[:_EVIDENCE_MAX], 4)
    if len(rows) > _EVIDENCE_MAX:
        handle = book.index.handle(finding.address)
        yield f"    and {len(rows) - _EVIDENCE_MAX} more: qmr refs {handle}"
    for text in more_texts(finding, with_it):
        yield f"    {printable(text, 2000)}"


def _cost(snapshot: Snapshot) -> str:
    capture = snapshot.capture
    size = f"{capture.bytes / 1e6:.1f} MB in {render.plural(capture.reads, 'read')}"
    if snapshot.target.kind == "core":
        return f"read {size}"
    stood = f"QEMU stood still for {render.duration(capture.stop_us)}"
    if capture.stops > 1:
        stood += f" at most, in {capture.stops} stops"
    why = {
        "pages": f"for the {render.plural(capture.pages, 'page')} that were wanted",
        "hot": f"for the {render.plural(capture.pages, 'page')} that change",
    }.get(capture.way, "for all its memory")
    return f"{stood}, {why}; read {size}"
