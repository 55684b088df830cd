"""Verbs of the audit
------------------

The check, and what is lost.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

from ..audit import Orphans, Report, choose, orphan_groups
from ..audit.cause import causes
from ..audit.check import Finding
from ..audit.finding import Severity
from ..index import LEAKED, Index
from ..ledger import RULES, Book
from ..report import render, words
from ..report.policies import policy_json, policy_text
from ..report.render import Row
from ..snapshot import Snapshot
from ..text import printable
from .verb import Outcome, Session

__all__ = ["report_json", "run_check", "run_orphans"]

_SEVERITIES = tuple(Severity)
# So many rows of evidence are shown under a finding; qmr refs shows all.
_EVIDENCE_MAX = 12


# check -----------------------------------------------------------------------------


def run_check(session: Session, args: argparse.Namespace) -> Outcome:
    """Audit the target: observed against expected for every object (``qmr-check/1``).

    The exit code is 1 with a finding that is no note.
    """
    report = session.report()
    return Outcome(report_json(report), _check_lines(report), 1 if report.failed else 0)


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
        "unknown": [row._asdict() for row in book.index.snapshot.unknown],
    }


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


def _check_lines(report: Report) -> Iterator[str]:
    book, snapshot = report.book, report.book.index.snapshot
    wrong = report.objects - report.exact
    verdict = "all balance" if not wrong else f"{wrong} do not balance"
    yield (
        f"{render.plural(report.objects, 'object')} with "
        f"{render.plural(report.observed, 'reference')}: {report.explained} explained, "
        f"{report.by_rule} by rule; {verdict}"
    )
    yield policy_text(report.verdict)
    for severity in _SEVERITIES:
        for finding in report.findings:
            if finding.severity == severity:
                yield from _finding_lines(book, finding)
    if report.rules:
        yield "granted by a rule (QEMU's source says so, the holder is not visible here):"
        rows = [
            Row((str(count), rule, RULES[rule].grants, RULES[rule].source))
            for rule, count in sorted(report.rules.items())
        ]
        yield from render.table((), rows, right=(0,))
    for row in snapshot.unknown:
        yield f"not known: {row.what}: {printable(row.why)}"
    yield from _unseen_lines(report)
    yield render.paint(_cost(snapshot), "dim")
    counts = Counter(finding.severity for finding in report.findings)
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


def _finding_lines(book: Book, finding: Finding) -> Iterator[str]:
    tag = render.paint(f"{finding.severity}: {finding.kind}:", finding.severity)
    yield f"{tag} {printable(finding.text, 2000)}"
    rows = words.edge_rows(book, finding.references)
    yield from words.edge_table(rows[:_EVIDENCE_MAX], 4)
    if len(rows) > _EVIDENCE_MAX:
        handle = book.index.handle(finding.address)
        yield f"    and {len(rows) - _EVIDENCE_MAX} more: qmr refs {handle}"


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


# orphans ---------------------------------------------------------------------------


def run_orphans(session: Session, args: argparse.Namespace) -> Outcome:
    """List objects that are alive and no longer in the QOM tree (``qmr-orphans/1``).

    The exit code is 1 when one of them does not end by itself.
    """
    snapshot = session.snapshot()
    book = choose(Index(snapshot))[1]
    groups = orphan_groups(book)
    data = {
        **words.head_json("qmr-orphans/1", snapshot),
        "orphans": [_orphan_json(book, group) for group in groups],
    }
    leaked = any(not group.delayed for group in groups)
    return Outcome(data, _orphan_lines(book, groups, args.all), 1 if leaked else 0)


def _orphan_json(book: Book, group: Orphans) -> dict[str, object]:
    index = book.index
    return {
        "object": words.object_json(index, group.head),
        "observed": index.snapshot.objects[group.head].ref,
        "expected": book.expected(group.head),
        "delayed": group.delayed,
        "causes": [
            {
                "name": cause.name,
                "object": words.object_json(index, cause.object),
                "references": words.references(book.index, cause.edges),
                "text": cause.text,
            }
            for cause in causes(book, group.head, group.members)
        ],
        "references": words.references(book.index, book.on.get(group.head, ())),
        "members": [words.object_json(index, member) for member in group.members],
    }


def _orphan_lines(book: Book, groups: Sequence[Orphans], every: bool) -> Iterator[str]:
    index = book.index
    if not groups:
        yield "no object is alive outside the QOM tree that should be in it"
        return
    total = sum(len(group.members) for group in groups)
    yield (
        f"{render.plural(total, 'object')} alive that the QOM tree no longer holds, "
        f"under {render.plural(len(groups), 'group root')}:"
    )
    for group in groups:
        look = "note" if group.delayed else "error"
        label = render.paint(words.name(index, group.head), look)
        handle = index.handle(group.head)
        called = f", {handle} in commands" if handle.endswith(LEAKED) else ""
        yield f"{label} has {words.state(book, group.head)}{called}"
        for cause in causes(book, group.head, group.members):
            yield f"    {printable(cause.name)}: {printable(cause.text, 2000)}"
        yield from words.edge_table(words.edge_rows(book, book.on.get(group.head, ())), 4)
        others = [member for member in group.members if member != group.head]
        if others and not every:
            types = Counter(index.snapshot.objects[member].type for member in others)
            listed = ", ".join(
                f"{printable(kind)} x{n}" if n > 1 else printable(kind)
                for kind, n in types.most_common(6)
            )
            more = f" and {len(types) - 6} more types" if len(types) > 6 else ""
            yield f"    with it: {listed}{more}"
        elif others:
            rows = [
                Row(
                    (
                        words.name(index, member),
                        f"{index.snapshot.objects[member].ref}/{book.expected(member)}",
                        words.hex_text(member),
                    )
                )
                for member in others
            ]
            yield from render.table(("with it", "refs", "address"), rows, right=(1,), indent=4)
