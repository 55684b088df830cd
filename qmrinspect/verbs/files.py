"""Verbs about files and instants
------------------------------
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..audit import choose
from ..audit.diff import Difference, diff
from ..errors import TargetError
from ..index import Index
from ..ledger import Book
from ..report import render, words
from ..report.render import Row
from ..snapshot import Snapshot
from .verb import Outcome, Session

__all__ = ["compared", "difference_json", "difference_lines", "run_diff", "run_save"]

_LISTED_MAX = 40


def run_save(session: Session, args: argparse.Namespace) -> Outcome:
    """Write a snapshot file (``qmr-snapshot/1``)."""
    from ..store import save

    # What does not balance is saved with the words that point to it.
    book = choose(Index(session.snapshot()))[1]
    snapshot = book.index.snapshot
    odd = {address for address in snapshot.objects if book.residual(address)}
    snapshot = snapshot._replace(pointers=tuple(session.pointers(snapshot, odd)))
    save(snapshot, args.file)
    size = os.path.getsize(args.file)
    count = render.plural(len(snapshot.objects), "object")
    data = {
        **words.head_json("qmr-save/1", snapshot),
        "file": args.file,
        "size": size,
        "objects": len(snapshot.objects),
    }
    return Outcome(data, [f"{args.file} holds {count} ({size / 1024:.0f} KiB)"])


# diff ------------------------------------------------------------------------------


def run_diff(session: Session, args: argparse.Namespace) -> Outcome:
    """Compare two instants, object by object and reference by reference (``qmr-diff/1``)."""
    return compared(_instant(session, args.before), _instant(session, args.after))


def compared(before: Snapshot, after: Snapshot) -> Outcome:
    """Compare two snapshots.

    :raises TargetError: they are not of the same QEMU process.
    """
    if before.target.build_id != after.target.build_id:
        raise TargetError(
            "the two snapshots are of different QEMU builds, so that they cannot be compared",
            "compare two instants of one VM",
        )
    if before.target.pid != after.target.pid:
        raise TargetError(
            f"the two snapshots are of different processes ({before.target.pid} and "
            f"{after.target.pid}), so that they cannot be compared",
            "compare two instants of one VM",
        )
    old, new = choose(Index(before))[1], choose(Index(after))[1]
    found = diff(old, new)
    return Outcome(difference_json(old, new, found), difference_lines(old, new, found))


def _instant(session: Session, name: str) -> Snapshot:
    from ..store import load

    return session.snapshot() if name == "-" else load(Path(name))


def difference_json(old: Book, new: Book, found: Difference) -> dict[str, object]:
    """Return a difference as ``qmr-diff/1``."""
    return {
        **words.head_json("qmr-diff/1", new.index.snapshot),
        "appeared": [words.object_json(new.index, address) for address in found.appeared],
        "gone": [words.object_json(old.index, address) for address in found.gone],
        "changed": [
            {
                "object": words.object_json(new.index, change.address),
                "was": old.index.path(change.address),
                "before": change.before,
                "after": change.after,
                "gained": words.references(new.index, change.gained),
                "lost": words.references(old.index, change.lost),
                "unparented": change.unparented,
            }
            for change in found.changed
        ],
    }


def difference_lines(old: Book, new: Book, found: Difference) -> Iterator[str]:
    """Yield a difference as text."""
    if not (found.appeared or found.gone or found.changed):
        yield "the two instants are the same, object by object and reference by reference"
        return
    appeared = [a for a in found.appeared if not words.of_view(new.index, a)]
    gone = [a for a in found.gone if not words.of_view(old.index, a)]
    yield (
        f"{render.plural(len(appeared), 'object')} appeared, {len(gone)} gone, "
        f"{len(found.changed)} changed"
    )
    yield from _listed("appeared", new, appeared, "+")
    yield from _listed("gone", old, gone, "-")
    came, went = len(found.appeared) - len(appeared), len(found.gone) - len(gone)
    if came or went:
        text = f"the flat views were made anew: {render.plural(came, 'subpage')} came, {went} went"
        yield render.paint(text, "dim")
    if found.changed:
        yield "changed"
    for change in found.changed[:_LISTED_MAX]:
        name = words.name(new.index, change.address)
        if change.unparented:
            was = old.index.label(change.address)
            name = f"{name}, which was {was} and was unparented"
        yield f"  {name}: {change.before} -> {change.after} references"
        for sign, book, edges in (("+", new, change.gained), ("-", old, change.lost)):
            rows = [
                Row((sign, *row.cells), "good" if sign == "-" else "warning")
                for row in words.edge_rows(book, edges)
            ]
            yield from render.table((), rows, right=(2,), indent=4)
    if len(found.changed) > _LISTED_MAX:
        yield f"  and {len(found.changed) - _LISTED_MAX} more (--json lists all)"


def _listed(title: str, book: Book, addresses: Sequence[int], sign: str) -> Iterator[str]:
    if not addresses:
        return
    yield title
    index = book.index
    rows = [
        Row(
            (
                sign,
                words.name(index, address),
                f"{index.snapshot.objects[address].ref}/{book.expected(address)}",
                words.hex_text(address),
            )
        )
        for address in sorted(addresses, key=index.label)
    ]
    yield from render.table((), rows[:_LISTED_MAX], right=(2,))
    if len(rows) > _LISTED_MAX:
        yield f"  and {len(rows) - _LISTED_MAX} more (--json lists all)"
