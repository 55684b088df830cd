"""The verb of cycles
------------------

Objects that hold each other, grouped by what an unplug makes of them.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

from ..audit import book_of
from ..audit.cycles import Cycle, fate, find_cycles
from ..audit.finding import Severity
from ..ledger import Book
from ..report import render, words
from .verb import CLEAN, FINDINGS, Answer, Session

__all__ = ["run_cycles"]


def run_cycles(session: Session, args: argparse.Namespace) -> Answer:
    """List groups of objects that hold each other (``qmr-cycles/1``).

    The exit code is 1 when nothing else holds one of them.
    """
    snapshot = session.snapshot()
    book = book_of(snapshot)
    cycles = find_cycles(book)
    data = {
        **words.head_json("qmr-cycles/1", snapshot),
        "cycles": [
            {
                "lost": cycle.lost,
                "severity": str(Severity.ERROR if cycle.lost else Severity.NOTE),
                "ends_by_unplug": cycle.ordinary,
                "unplug": fate(book, cycle),
                "objects": [words.object_json(book.index, member) for member in cycle.members],
                "references": words.references(book.index, cycle.edges),
            }
            for cycle in cycles
        ],
    }
    lost = any(cycle.lost for cycle in cycles)
    return Answer(data, _cycle_lines(book, cycles, args.all), FINDINGS if lost else CLEAN)


_TITLES = {
    "lost": ("of references that nothing else holds, which an unplug did not break", "error"),
    "keeps": (
        "that unplugging does not break: devices of the type leaked in hunts under this policy",
        "warning",
    ),
    "breaks": (
        "that unplugging breaks: the device's own unrealize did in hunts under this policy",
        "",
    ),
    "open": (
        "that the device's own unrealize has to break: whether it does, qmr hunt finds out",
        "note",
    ),
    "never": ("of what is never unplugged: they last as long as the machine", ""),
}


def _cycle_lines(book: Book, cycles: Sequence[Cycle], every: bool) -> Iterator[str]:
    fates: dict[str, list[Cycle]] = {}
    for cycle in cycles:
        if not cycle.ordinary:
            fates.setdefault(fate(book, cycle), []).append(cycle)
    if "lost" not in fates:
        yield "no cycle of references is cut off from the machine"
    for name, (title, look) in _TITLES.items():
        found = fates.get(name, ())
        if found:
            yield f"{render.plural(len(found), 'cycle')} {title}:"
        for cycle in found:
            yield from _one_cycle(book, cycle, look)
    ordinary = [cycle for cycle in cycles if cycle.ordinary]
    if ordinary and not every:
        verb = "ends" if len(ordinary) == 1 else "end"
        yield (
            f"{render.plural(len(ordinary), 'ordinary cycle')} of buses and their devices, which "
            f"{verb} when they are unplugged (--all)"
        )
    elif ordinary:
        yield "ordinary cycles of buses and their devices, which unplugging ends:"
        for cycle in ordinary:
            yield from _one_cycle(book, cycle, "")


def _one_cycle(book: Book, cycle: Cycle, look: str) -> Iterator[str]:
    names = [words.name(book.index, member) for member in cycle.members]
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    kinds = Counter[str]()
    for edge in cycle.edges:
        kinds[edge.kind] += 1
    held = ", ".join(f"{kind} x{n}" if n > 1 else kind for kind, n in sorted(kinds.items()))
    yield f"  {render.paint(', '.join(names[:6]) + more, look)}: {held}"
    if cycle.lost:
        yield from words.edge_table(words.edge_rows(book, cycle.edges), 6)
