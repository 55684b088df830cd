"""Why something is there
----------------------

Why an object is alive, and who uses what has a name: what QEMU means when it answers that
something is in use, or that an id is taken.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..audit import book_of, why
from ..audit.graph import orphan_groups
from ..audit.unplugging import unplugging_json, unplugging_of, unplugging_text
from ..audit.uses import holders_of, used_text
from ..audit.why import Why
from ..errors import ObjectNotFound
from ..index import Index
from ..ledger import Book
from ..report import render, words
from ..report.chains import why_lines
from ..report.named import named_json, named_text
from .verb import Answer, Session

if TYPE_CHECKING:
    from ..search.named import Named

__all__ = ["run_why"]


# Where QEMU keeps what users name.
_CONTAINERS = ("/machine/peripheral", "/objects", "/chardevs")


def run_why(session: Session, args: argparse.Namespace) -> Answer:
    """Show what keeps an object alive, and who uses what has that name (``qmr-why/1``)."""
    book = book_of(session.snapshot())
    index, text = book.index, args.object
    name = None if text.startswith("/") or text.lower().startswith("0x") else text
    ids = _with_id(index, name) if name else []
    address, missing = ids[0] if ids else None, None
    try:
        address = session.resolve(index, text).address
    except ObjectNotFound as error:
        missing = error
    snapshot = index.snapshot
    counted = None if address in snapshot.devices else address
    prop = index.name_of.get(address) if address is not None else None
    called = name or (prop.name if prop is not None else None)
    found_names, reason = session.named(snapshot, called, counted)
    named = list(found_names)
    for other in ids:
        # A chardev may have the id of a device.
        if other != address and other not in snapshot.devices:
            rows = session.named(snapshot, name, other)[0]
            named += [row for row in rows if row.address == other]
    if address is None and not named:
        hint = f"whether a block node or netdev has that name is not known: {reason}"
        assert missing is not None
        raise ObjectNotFound(missing.text, hint if reason else missing.hint)
    found = why(book, address) if address is not None else None
    holders = holders_of(book, address) if address is not None else []
    data = {
        **words.head_json("qmr-why/1", index.snapshot),
        "object": words.object_json(index, address) if address is not None else None,
        "root": words.object_json(index, found.root) if found and found.root else None,
        "chain": words.references(book.index, found.chain) if found else [],
        "cycle": [words.object_json(index, m) for m in found.cycle] if found else [],
        "unplugging": unplugging_json(index, address) if address is not None else None,
        "used_by": words.references(index, holders),
        "named": [named_json(index, row) for row in named],
    }
    return Answer(data, _lines(book, address, found, named))


def _with_id(index: Index, name: str) -> list[int]:
    """Return the objects that users have given an id."""
    wanted = [f"{container}/{name}" for container in _CONTAINERS]
    return [a for a in index.snapshot.objects if index.path(a) in wanted]


def _lines(
    book: Book, address: int | None, found: Why | None, named: Sequence[Named]
) -> Iterator[str]:
    index = book.index
    if address is not None and found is not None:
        yield from why_lines(book, address, found)
        waiting = unplugging_of(index, address)
        if waiting is not None:
            yield unplugging_text(index, waiting)
        group = next((g for g in orphan_groups(book) if g.root == address), None)
        if group is not None and group.used:
            yield used_text(book, address)
        elif address not in index.snapshot.devices:
            for edge in holders_of(book, address):
                kind = render.paint(f"[{edge.kind}]", "dim")
                yield f"in use: {words.sentence(book, edge)} {kind}"
    for row in named:
        # Of the object itself what counts was said.
        if row.users or row.address != address:
            yield named_text(index, row)
