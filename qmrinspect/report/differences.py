"""Differences in words
--------------------

What changed between two instants.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..audit.diff import Difference
from ..ledger import Book
from . import render, words
from .render import Row

__all__ = ["difference_json", "difference_lines"]

_LISTED_MAX = 40


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
        yield f"  {name}: {change.before} -> {render.plural(change.after, 'reference')}"
        for sign, book, edges in (("+", new, change.gained), ("-", old, change.lost)):
            rows = [
                Row((sign, *row.cells), "good" if sign == "-" else "warning")
                for row in words.edge_rows(book, edges)
            ]
            yield from words.edge_table(rows, 4)
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
    yield from render.table((), rows[:_LISTED_MAX], right=(2,), drop=(3,))
    if len(rows) > _LISTED_MAX:
        yield f"  and {len(rows) - _LISTED_MAX} more (--json lists all)"
