"""Traces for people
-----------------
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ..index import Index
from ..ledger import Book
from ..text import printable
from ..trace.life import Life, Step
from ..trace.match import Balance, step_kinds
from ..trace.recorder import Recording
from ..trace.story import chain
from ..trace.tree import balance_tree, tree_lines
from . import render, words

__all__ = ["balance_lines", "event_line", "recording_lines", "tree_of"]

_EVIDENCE = {
    "site+witness": "",
    "site": " (by site only)",
    "witness": " (by witness only)",
    "last": " (the only one left)",
}
_METHODS = {
    "execution": "breakpoints on the code that changes counts",
    "write": "a breakpoint on the count itself",
    "uprobe": "uprobes on the code that changes counts",
}


def event_line(step: Step, count: int | None, offset_ns: int, thread: str) -> str:
    """Return one change of a count as a line: when, what, how many now, who.

    :param count: how many references there are then, None when that is not known.
    :param offset_ns: from CLOCK_MONOTONIC to the time of day.
    """
    moment = step.event.time + offset_ns
    stamp = time.strftime("%H:%M:%S", time.localtime(moment // 1_000_000_000))
    now = f"{count:>3}" if count is not None else "  ?"
    by = f"{step.event.by:+d}" if step.event.by is not None else " ?"
    kinds = "/".join(sorted(step_kinds(step))) or "-"
    return (
        f"{stamp}.{moment // 1000 % 1_000_000:06d} {by} {now}  {kinds:<18} "
        f"{chain(step)}  [{printable(thread, 40)}]"
    )


def recording_lines(recording: Recording) -> Iterator[str]:
    """Yield how a trace was made, where that matters for what it says."""
    if recording.method != "execution":
        yield f"method: {_METHODS[recording.method]}"
    if recording.lost:
        yield f"{render.plural(recording.lost, 'event')} lost: the VM was faster than qmr"
    elif not recording.lost_counted:
        yield "this kernel does not count lost events (Linux 6.0 and later do)"


def balance_lines(book: Book, one: Balance) -> Iterator[str]:
    """Yield what is left of one object's references, each with who took it."""
    yield _head(book.index, one.life)
    if one.life.refused:
        yield f"  not traced: {one.life.refused}"
        return
    for held in one.held:
        evidence = _EVIDENCE[held.evidence]
        holder = words.holder_text(book, held.edge)
        yield f"  {held.edge.kind}: {holder}  {printable(held.edge.field)}"
        yield f"    {chain(held.step)}{evidence}"
    for edge in one.unnamed:
        why = "who took it was not seen" if one.life.born else "taken before the trace began"
        holder = words.holder_text(book, edge)
        yield f"  {edge.kind}: {holder}  {printable(edge.field)}"
        yield f"    {why}"
    for kind, step in one.denied:
        yield f"  taken as {kind}, which no field shows: {chain(step)}"
    remain = one.choice or len(one.unexplained)
    if remain:
        which = f", taken by {remain} of these" if one.choice else ""
        yield f"  {render.plural(remain, 'reference')} that nothing known holds{which}:"
    for step in one.unexplained:
        yield f"    {chain(step)}"


def _head(index: Index, life: Life) -> str:
    name = words.name(index, life.object) if life.object in index.snapshot.objects else ""
    name = name or f"<{life.object:#x}>"
    seen = "" if life.born else " since the trace began"
    return f"{name}: {life.taken} taken, {life.dropped} dropped{seen}, {life.count} remain"


def tree_of(steps: Sequence[Step], all: bool) -> Iterator[str]:
    """Yield the balance tree of an object's changes."""
    yield from tree_lines(balance_tree(steps, all), all)
