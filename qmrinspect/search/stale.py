"""Stale callbacks
---------------

Live structures that would call or read what was freed, or an object that was taken out of
the QOM tree.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from ..heap import Live
from ..records.context import Context
from ..records.scan import find_into
from ..snapshot import Snapshot, Stale
from ..tuples import NamedTuple
from .callbacks import recognised
from .functions import Code
from .pointed import pointers
from .words import Callback, Words

__all__ = ["Where", "find_stale", "merged", "within"]

_CANDIDATE = "candidate"

Ranges = Sequence[tuple[int, int]]


class Where(NamedTuple):
    """What to look for: sorted (start, end) ranges that do not overlap.

    :param freed: memory that held something, of which only what is free now counts; None for
        all freed memory.
    :param outside: memory of objects that are no longer in the QOM tree.
    :param known: what was found while its target was alive.  A variable of the program that
        has the same word still is the same, whatever became of the memory that it leads to.
    :param every_word: look at words that no code is beside as well, in which lists begin; it takes
        longer, and is done anyway where ``freed`` says what to look for.
    :param candidates: whether words count that have a function beside them, and are in no
        structure that is recognised.
    """

    freed: Ranges | None = None
    outside: Ranges = ()
    known: Sequence[Stale] = ()
    candidates: bool = False
    every_word: bool = False


def find_stale(context: Context, snapshot: Snapshot, where: Where) -> list[Stale]:
    """Return every stale callback that is certain; none where liveness is not known."""
    live = context.live
    code = Code(context.image.mappings, context.statics.program)
    words = Words(context, code, snapshot.objects)
    starts = sorted(a for a, o in snapshot.objects.items() if o.type in ("irq", "legacy-reset"))
    out: dict[tuple[str, int], Stale] = {}
    free = live.heap.freed
    known = {(s.word, s.target): Callback(s.kind, s.address, s.function) for s in where.known}
    for word, target in _hits(context, where, code, words):
        freed = not where.outside or not within(where.outside, target)
        # Most of what is searched points to live blocks.
        state = free(target) if freed else None
        if state is False or (freed and state is None and not _is_gone(live, target)):
            continue
        # And most of what points to freed memory is freed itself.
        if free(word) or live.alive(word) is not True or within(where.outside, word):
            continue
        same = known.get((word, target)) if words.in_data(word) else None
        there = [same] if same else [*_callbacks(context, snapshot, starts, words, word, freed)]
        if not there and where.candidates and freed and not live.is_stack(word):
            there = _candidates(words, word)
        for found in there:
            # A library's list, which may never be walked, has the same shape as QEMU's.
            certain = found.kind != _CANDIDATE and (found.kind != "list" or words.sure(word))
            if certain and live.in_old_chunk(word):
                continue
            if not certain and not where.candidates:
                continue
            start, size = _freed_block(live, target) if freed else (target, 0)
            out[found.kind, found.address] = Stale(
                found.kind, found.address, word, target, found.function, "", freed, start, size
            )._replace(certain=certain)
    sure = {row.target for row in out.values() if row.certain}
    pointed = [row for row in _pointed(context, snapshot, where) if row.target not in sure]
    out.update({(s.kind, s.address): s for s in (*_listed(snapshot, live, where), *pointed)})
    out.update({(s.kind, s.target): s for s in _graph(snapshot, live, where)})
    return _without_nameless(live, sorted(out.values()))


def _without_nameless(live: Live, found: list[Stale]) -> list[Stale]:
    """Leave out a list of which only the shape is known where a known one leads to the block."""

    def block(row: Stale) -> int:
        there = live.heap.at(row.target)
        return there.start if there is not None else row.target

    named = {block(row) for row in found if row.certain and row.kind != "list"}
    return [row for row in found if row.kind != "list" or block(row) not in named]


def _hits(context: Context, where: Where, code: Code, words: Words) -> Iterator[tuple[int, int]]:
    """Yield (address, word) of the words that may be arguments of callbacks."""
    heap = context.live.heap
    if where.freed is not None or where.every_word:
        freed = heap.free() if where.freed is None else where.freed
        ranges = merged([*freed, *where.outside])
        yield from find_into(context.image, ranges) if ranges else ()
        return
    wanted = merged([*heap.free(), *where.outside])
    if wanted:
        # All that points into heaps stays as it is; what is free changes all the time.
        ranges = merged([*heap.places(), *where.outside])
        yield from context.known.beside.find(context.image, ranges, code.all, wanted)
        # Heads of lists are variables, and few have the address of code beside them.
        listed = ((node, words(node)) for node in words.listed())
        for word, target in (*context.from_data(), *listed):
            if heap.freed(target):
                yield word, target


def _callbacks(
    context: Context,
    snapshot: Snapshot,
    starts: Sequence[int],
    words: Words,
    word: int,
    freed: bool,
) -> Iterator[Callback]:
    i = bisect_right(starts, word) - 1
    home = starts[i] if i >= 0 else 0
    if home and word >= home + context.types[snapshot.objects[home].type].size:
        home = 0
    kind = snapshot.objects[home].type if home else ""
    function = words(word - 8)
    if kind == "legacy-reset" and words.code.has(function):
        # hw/core/reset.c, since 9.1: func and opaque end the object.
        yield Callback("reset-handler", home, function)
    elif kind == "irq" and words.code.has(function):
        # An irq that nobody can raise calls nobody.
        if snapshot.objects[home].parent:
            yield Callback("irq-handler", home, function)
    else:
        yield from recognised(words, word, freed)


def _candidates(words: Words, word: int) -> list[Callback]:
    """A function beside a word: before it, as of most callbacks, or behind it."""
    functions = [f for f in (words(word - 8), words(word + 8)) if words.code.has(f)]
    return [Callback(_CANDIDATE, word, functions[0])] if functions else []


def _listed(snapshot: Snapshot, live: Live, where: Where) -> Iterator[Stale]:
    """Address spaces and memory listeners that QEMU's lists lead to, in freed memory."""
    for kind, addresses in (
        ("address-space", snapshot.spaces.keys()),
        ("memory-listener", snapshot.listeners.keys()),
    ):
        for address in addresses:
            if _is_dead(live, where, address):
                yield Stale(kind, address, address, address, 0, "", True, address, 0)


def _graph(snapshot: Snapshot, live: Live, where: Where) -> Iterator[Stale]:
    """Properties and containers of live objects that lead to what is in freed memory.

    A region without an owner holds nothing: the memory it is embedded in is freed, and
    /machine/unattached keeps it as a child (memory_region_do_init(), system/memory.c).
    """
    props, regions = snapshot.props, snapshot.regions.values()
    rows = [("child" if p.role == "child" else "link", p.holder, p.target, p.name) for p in props]
    rows += [("subregion", r.address, at, "") for r in regions for at in (*r.subregions, r.alias)]
    gone = {at for at in {row[2] for row in rows} if at and _is_dead(live, where, at)}
    for kind, holder, target, name in rows:
        if target in gone and not live.heap.freed(holder) and not within(where.outside, holder):
            yield Stale(kind, holder, holder, target, 0, name, True, *_freed_block(live, target))


def _pointed(context: Context, snapshot: Snapshot, where: Where) -> Iterator[Stale]:
    """Declared fields of live objects that lead to freed memory, or to what left the tree."""
    live, freed = context.live, context.live.heap.freed
    for row, home, holder, target in pointers(context, snapshot.objects):
        if freed(home) or within(where.outside, home):
            continue
        if _is_dead(live, where, target):
            block = _freed_block(live, target)
            yield Stale(row.kind, holder, holder, target, 0, "", True, *block)
        elif not freed(target) and within(where.outside, target):
            yield Stale(row.kind, holder, holder, target, 0, "", False, target, 0)


def _is_dead(live: Live, where: Where, address: int) -> bool:
    """Whether an address is in freed memory that matters."""
    if where.freed is not None and not within(where.freed, address):
        return False
    return bool(live.heap.freed(address)) or _is_gone(live, address)


def _freed_block(live: Live, address: int) -> tuple[int, int]:
    """Return where the freed block begins that has an address, and its size; 0 for a mapping."""
    block = live.heap.at(address)
    return (block.start, block.size) if block is not None else (address, 0)


def _is_gone(live: Live, address: int) -> bool:
    """Whether an address is in no block: a large one is a mapping, and gone when it is freed."""
    if live.heap.freed(address) is not None:
        return False
    return live.heap.exact and live.alive(address) is False and not live.is_stack(address)


def within(ranges: Ranges, address: int) -> bool:
    """Whether an address is in one of sorted ranges that do not overlap."""
    i = bisect_right(ranges, (address, 1 << 64)) - 1
    return i >= 0 and address < ranges[i][1]


def merged(ranges: Ranges) -> list[tuple[int, int]]:
    """Return ranges sorted, and those that overlap or touch as one."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        elif end > start:
            out.append((start, end))
    return out
