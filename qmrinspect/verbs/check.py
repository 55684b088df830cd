"""Verbs of the audit
------------------

The check, and what is lost.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

from ..audit import Orphans, book_of, orphan_groups
from ..audit.cause import causes
from ..audit.uses import used_text
from ..index import LEAKED
from ..ledger import Book
from ..report import render, words
from ..report.checks import check_lines, report_json
from ..report.render import Row
from ..text import printable
from .verb import CLEAN, FINDINGS, Answer, Session

__all__ = ["run_check", "run_orphans"]


# check -----------------------------------------------------------------------------


def run_check(session: Session, args: argparse.Namespace) -> Answer:
    """Audit the target: observed against expected for every object (``qmr-check/1``).

    The exit code is 1 with a finding that is no note.
    """
    report = session.report()
    return Answer(report_json(report), check_lines(report), FINDINGS if report.failed else CLEAN)


# orphans ---------------------------------------------------------------------------


def run_orphans(session: Session, args: argparse.Namespace) -> Answer:
    """List objects that are alive and no longer in the QOM tree (``qmr-orphans/1``).

    The exit code is 1 when one of them is not transient.
    """
    snapshot = session.snapshot()
    book = book_of(snapshot)
    groups = orphan_groups(book)
    data = {
        **words.head_json("qmr-orphans/1", snapshot),
        "orphans": [_orphan_json(book, group) for group in groups],
    }
    leaked = any(not group.delayed and not group.used for group in groups)
    return Answer(data, _orphan_lines(book, groups, args.all), FINDINGS if leaked else CLEAN)


def _orphan_json(book: Book, group: Orphans) -> dict[str, object]:
    index = book.index
    return {
        "object": words.object_json(index, group.root),
        "observed": index.snapshot.objects[group.root].ref,
        "expected": book.expected(group.root),
        "delayed": group.delayed,
        "used": group.used,
        "causes": [
            {
                "name": cause.name,
                "object": words.object_json(index, cause.object),
                "references": words.references(book.index, cause.edges),
                "text": cause.text,
            }
            for cause in causes(book, group.root, group.members)
        ],
        "references": words.references(book.index, book.on.get(group.root, ())),
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
        look = "note" if group.delayed or group.used else "error"
        label = render.paint(words.name(index, group.root), look)
        handle = index.handle(group.root)
        called = f", {handle} in commands" if handle.endswith(LEAKED) else ""
        yield f"{label} has {words.state(book, group.root)}{called}"
        if group.used:
            yield f"    {printable(used_text(book, group.root), 2000)}"
            continue
        for cause in causes(book, group.root, group.members):
            yield f"    {printable(cause.name)}: {printable(cause.text, 2000)}"
        yield from words.edge_table(words.edge_rows(book, book.on.get(group.root, ())), 4)
        others = [member for member in group.members if member != group.root]
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
