"""The check
---------

Every object of a snapshot, observed against expected, and what does not balance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from ..index import Index
from ..ledger import Book
from ..ledger.unseen import NotJudged, Unseen
from ..snapshot import Snapshot
from ..text import plural
from ..tuples import NamedTuple
from .cause import causes, describe, unheld
from .finding import Finding, Severity
from .graph import adjacency, components, forgotten, orphan_groups
from .policy import Verdict, choose
from .stale import stale_findings
from .uses import used_text
from .views import view_findings
from .visible import finalized_subregions, visible_unreferenced

__all__ = ["Finding", "Report", "check", "each_once"]


class Report(NamedTuple):
    """The outcome of a check.

    :param explained: references that a named field was seen to hold.
    :param by_rule: references that a rule grants without a holder in sight.
    :param rules: how often each such rule was used.
    :param not_judged: objects on which kinds of references may be that this QEMU was not
        searched for.
    """

    book: Book
    verdict: Verdict
    objects: int
    exact: int
    observed: int
    explained: int
    by_rule: int
    rules: Mapping[str, int]
    findings: Sequence[Finding]
    not_judged: Sequence[NotJudged] = ()

    @property
    def failed(self) -> bool:
        """Whether anything worse than a note was found."""
        return any(finding.severity != Severity.NOTE for finding in self.findings)


def check(snapshot: Snapshot) -> Report:
    """Audit a snapshot under the policy that its QEMU follows."""
    index = Index(snapshot)
    verdict, book = choose(index)
    objects = snapshot.objects
    live = [edge for edge in book.edges if edge.target in objects]
    rules = Counter(edge.rule for edge in live if edge.rule)
    not_judged = _not_judged(book)
    unknown = {row.address for row in not_judged}
    findings = [
        *_balances(book, unknown),
        *_dangling(book),
        *visible_unreferenced(book),
        *finalized_subregions(book),
        *_orphans(book, unknown),
        *_cycles(book),
        *view_findings(book),
        *stale_findings(book),
        *_unreadable(snapshot),
    ]
    by_rule = sum(1 for edge in live if edge.rule)
    total = sum(obj.ref for obj in objects.values())
    explained = 0
    for address, obj in objects.items():
        named = sum(1 for edge in book.on.get(address, ()) if not edge.rule)
        # More fields than references is an underflow; it explains no more than there is.
        explained += min(named, obj.ref)
    return Report(
        book,
        verdict,
        len(objects),
        sum(not book.residual(address) for address in objects),
        total,
        explained,
        by_rule,
        dict(rules),
        findings,
        not_judged,
    )


def each_once(report: Report) -> list[tuple[Finding, list[Finding]]]:
    """Return the findings for people: each leak once, with what else was found on its objects.

    An orphan has with it the cycle of references that it is in, and what its objects count too
    much, where these are no worse than itself.
    """
    orphans = {f.address: f for f in report.findings if f.kind == "orphan"}
    groups = orphan_groups(report.book) if orphans else ()
    home = {
        member: orphans[group.root]
        for group in groups
        if group.root in orphans
        for member in group.members
    }
    worst = list(Severity).index
    out: dict[int, tuple[Finding, list[Finding]]] = {}
    for finding in (*orphans.values(), *report.findings):
        orphan = home.get(finding.address) if finding.kind in ("cycle", "unexplained") else None
        if orphan is not None and worst(orphan.severity) <= worst(finding.severity):
            out[id(orphan)][1].append(finding)
        else:
            out.setdefault(id(finding), (finding, []))
    order = {id(finding): n for n, finding in enumerate(report.findings)}
    return [out[at] for at in sorted(out, key=order.__getitem__)]


def _not_judged(book: Book) -> list[NotJudged]:
    unseen = Unseen(book.index)
    out = []
    for address, obj in sorted(book.index.snapshot.objects.items()):
        if book.residual(address) > 0:
            kinds = unseen.kinds_on(address)
            if kinds:
                out.append(NotJudged(address, obj.ref, book.expected(address), kinds))
    return out


def _balances(book: Book, unknown: Collection[int]) -> list[Finding]:
    out = []
    for address, obj in sorted(book.index.snapshot.objects.items()):
        expected = book.expected(address)
        left = obj.ref - expected
        if not left or address in unknown:
            continue
        label, edges = book.index.label(address), tuple(book.on.get(address, ()))
        if left > 0:
            text = unheld(book, address)
            out.append(
                Finding("unexplained", Severity.WARNING, address, obj.ref, expected, edges, text)
            )
        else:
            text = (
                f"{label} counts {plural(obj.ref, 'reference')} and has "
                f"{plural(expected, 'holder')}: when they release it it is used after it was freed"
            )
            out.append(
                Finding("underflow", Severity.ERROR, address, obj.ref, expected, edges, text)
            )
    return out


def _dangling(book: Book) -> list[Finding]:
    objects = book.index.snapshot.objects
    out = []
    for target, edges in sorted(book.on.items()):
        if target in objects:
            continue
        text = f"{describe(book, edges[0])} points to {target:#x}, which is no live object"
        out.append(Finding("dangling", Severity.ERROR, target, 0, len(edges), tuple(edges), text))
    return out


def _orphans(book: Book, unknown: Collection[int]) -> list[Finding]:
    out = []
    for group in orphan_groups(book):
        if group.root in unknown or forgotten(book, group.root):
            continue  # it does not balance, which is said once
        label = book.index.label(group.root)
        found = causes(book, group.root, group.members)
        texts = (cause.text.removeprefix(f"{label}: ") for cause in found)
        reasons = "; ".join(texts) or "nothing is known to hold it"
        others = len(group.members) - 1
        with_it = f", {plural(others, 'object')} with it" if others else ""
        text = f"{label} is alive and not in the QOM tree{with_it}: {reasons}"
        severity = Severity.NOTE if group.delayed or group.used else Severity.ERROR
        if group.used:
            text = used_text(book, group.root)
        out.append(
            Finding(
                "orphan",
                severity,
                group.root,
                book.index.snapshot.objects[group.root].ref,
                book.expected(group.root),
                tuple(book.on.get(group.root, ())),
                text,
            )
        )
    return out


def _cycles(book: Book) -> list[Finding]:
    """Cycles that nothing outside holds; those of live devices are for ``qmr cycles``."""
    lost = {member for group in orphan_groups(book) for member in group.members}
    if not lost:
        return []
    graph = {
        node: [edge.target for edge in edges if edge.target in lost]
        for node, edges in adjacency(book).items()
        if node in lost
    }
    out = []
    for group in components(sorted(lost), graph):
        first = group[0]
        inside = [
            edge
            for address in group
            for edge in book.on.get(address, ())
            if edge.owner in group or edge.holder in group
        ]
        names = ", ".join(book.index.label(address) for address in group[:6])
        text = f"{len(group)} object{'s' * (len(group) > 1)} in a cycle of references: {names}"
        ref = book.index.snapshot.objects[first].ref
        out.append(
            Finding("cycle", Severity.ERROR, first, ref, book.expected(first), tuple(inside), text)
        )
    return out


def _unreadable(snapshot: Snapshot) -> list[Finding]:
    return [
        Finding(
            "unreadable",
            Severity.WARNING,
            note.address,
            0,
            0,
            (),
            f"{note.text} ({note.address:#x})",
        )
        for note in snapshot.notes
    ]
