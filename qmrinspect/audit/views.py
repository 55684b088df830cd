"""Flat views
----------

A flat view counts who uses it, apart from QOM.  One that counts more users than there are is
never freed, and keeps the owner of every region that it shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..ledger import Book
from ..snapshot import View
from ..text import printable
from .finding import Finding, Severity

__all__ = ["view_findings"]

_NAMES_MAX = 4


def view_findings(book: Book) -> Iterator[Finding]:
    """Yield the views that count more references than they have holders.

    An address space holds its current view, the table of views each in it, a cache of a
    virtqueue the one that it was made from; the empty view is held by a variable as well
    (system/memory.c address_space_set_flatview, flatviews_init).
    """
    snapshot = book.index.snapshot
    if not any(view.tabled for view in snapshot.views.values()):
        return  # the table was not found, or not looked for
    spaces = Counter(space.view for space in snapshot.spaces.values())
    caches = Counter(field.target for field in snapshot.fields if field.kind == "flatview-user")
    ending = {pending.target for pending in snapshot.pending}
    for view in snapshot.views.values():
        if view.address in ending or view.found == "rcu":
            continue
        empty = not view.root and view.found != "lost"
        held = spaces[view.address] + view.tabled + caches[view.address] + empty
        if view.ref > held:
            text = _text(book, view, held)
            yield Finding("unexplained", Severity.WARNING, view.address, view.ref, held, (), text)


def _text(book: Book, view: View, held: int) -> str:
    root = book.index.snapshot.regions.get(view.root)
    name = f" of {printable(root.name)}" if root is not None and root.name else ""
    have = f"{view.ref} reference{'s' * (view.ref > 1)}"
    holders = f"{held} of them held by address spaces, the table of views and caches"
    if not held:
        holders = "none of them held by anything known"
    owners: dict[int, None] = {}
    for row in view.ranges:
        region = book.index.snapshot.regions.get(row.mr)
        if region is not None and region.owner:
            owners[region.owner] = None
    shown = [book.index.label(owner) for owner in owners]
    more = f" and {len(shown) - _NAMES_MAX} more" if len(shown) > _NAMES_MAX else ""
    kept = f"; it keeps {', '.join(shown[:_NAMES_MAX])}{more}" if shown else ""
    return f"flat view <{view.address:#x}>{name} counts {have}, {holders}{kept}"
