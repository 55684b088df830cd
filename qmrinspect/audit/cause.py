"""Why a device leaks
------------------

From the references that remain on an unparented object to a cause in the
contract's words, with the sentence that a person understands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..index import Index
from ..ledger import RULES, Book, Edge
from ..text import printable
from ..tuples import NamedTuple
from .graph import TRANSIENT, forgotten, source

__all__ = ["CYCLIC", "Cause", "causes", "descends", "describe", "unheld", "way_back"]

_DEPTH_MAX = 64


#: The causes that are cycles: the device, or a part of it, holds itself.
CYCLIC = frozenset(("same-owner-subregions", "address-space-root", "link-cycle", "reference-cycle"))


class Cause(NamedTuple):
    """One cause: its word, the object it is on, and the references that make the case.

    :param way_back: how the object holds what holds it, as of :func:`way_back`.
    """

    name: str
    object: int
    edges: Sequence[Edge]
    text: str
    way_back: Sequence[Edge] = ()


def descends(book: Book, address: int, top: int) -> bool:
    """Whether an object is ``top`` or lies below it in the tree of parents."""
    objects = book.index.snapshot.objects
    for _ in range(_DEPTH_MAX):
        if address == top:
            return True
        obj = objects.get(address)
        if obj is None:
            return False
        address = obj.parent
    return False


def way_back(book: Book, address: int, edges: Sequence[Edge]) -> list[Edge]:
    """Return how an object holds, as their parent, what holds it: the way back of its cycles."""
    objects = book.index.snapshot.objects
    found: dict[Edge, None] = {}
    for edge in edges:
        at, steps = edge.holder if edge.holder in objects else edge.owner, list[Edge]()
        while at in objects and at != address and len(steps) < _DEPTH_MAX:
            parent = objects[at].parent
            holds = (e for e in book.on.get(at, ()) if e.kind == "child" and e.holder == parent)
            steps += list(holds)[:1]
            at = parent
        if at == address:
            found.update(dict.fromkeys(steps))
    return list(found)


def causes(book: Book, head: int, members: Sequence[int]) -> list[Cause]:
    """Return what keeps ``head`` alive, then what would keep its parts alive.

    :param members: the objects that came with ``head``.
    """
    out = _on(book, head, head)
    for member in members:
        if member != head:
            # A part goes when its parent does; only a reference on itself outlives that.
            out += [c for c in _on(book, member, head) if c.name in _OUTLIVES]
    return out


_OUTLIVES = ("same-owner-subregions", "address-space-root", "unbalanced")


def _on(book: Book, address: int, head: int) -> list[Cause]:
    label = book.index.label(address)
    by: dict[str, list[Edge]] = {}
    for edge in book.on.get(address, ()):
        by.setdefault(_cause(book, edge, address, head), []).append(edge)
    out = []
    for name, edges in by.items():
        if name:
            text, back = _text(book, name, label, edges), way_back(book, address, edges)
            out.append(Cause(name, address, tuple(edges), text, back))
    left = book.residual(address)
    if left > 0:
        out.append(Cause("unbalanced", address, (), unheld(book, address)))
    return out


def unheld(book: Book, address: int) -> str:
    """Return the sentence on an object with more references than holders, in every verb."""
    left, observed = book.residual(address), book.index.snapshot.objects[address].ref
    of = f" of {observed}" if observed != left else ""
    count = f"{left}{of} reference" + ("" if left == observed == 1 else "s")
    text = f"{book.index.label(address)} has {count} that no known structure holds"
    if forgotten(book, address):
        text += ": no word of live memory points to it, so that nobody can free it any more"
    return text


def _cause(book: Book, edge: Edge, address: int, head: int) -> str:
    """Name what a single reference means for the life of ``address``; empty when nothing."""
    holder = source(book, edge)
    if edge.kind in TRANSIENT:
        return "" if address != head else "delayed"
    if edge.kind == "subregion":
        if holder == address:
            return "same-owner-subregions"
        return "" if descends(book, holder, head) else "foreign-container"
    if edge.kind == "address-space-root":
        return "address-space-root"
    if address != head:
        return ""
    if edge.rule:
        return "unbalanced"
    if descends(book, holder, head):
        return "link-cycle" if edge.kind == "link" else "reference-cycle"
    return f"held-by-{edge.kind}"


def _region(index: Index, address: int) -> str:
    region = index.snapshot.regions.get(address)
    return printable(region.name) if region is not None and region.name else index.label(address)


def _text(book: Book, name: str, label: str, edges: Sequence[Edge]) -> str:
    index = book.index
    n = len(edges)
    fields = ", ".join(printable(edge.field) for edge in edges[:8])
    more = f" and {n - 8} more" if n > 8 else ""
    if name == "same-owner-subregions":
        names = ", ".join(printable(e.field.split('"')[1]) for e in edges[:12])
        more = f" and {n - 12} more" if n > 12 else ""
        within = sorted({e.holder for e in edges})
        quoted = ", ".join(f'"{_region(index, at)}"' for at in within[:4])
        many = f" and {len(within) - 4} more" if len(within) > 4 else ""
        hold = "containers" if len(within) > 1 else "container"
        held = f"{n} of its own subregions" if n > 1 else "a subregion of its own"
        return (
            f"{label}: its {hold} {quoted}{many} {'hold' if len(within) > 1 else 'holds'} {held} "
            f"({names}{more}); each takes a reference on the owner (held {_times(n)} by itself), "
            "so its count never reaches 0"
        )
    if name == "link-cycle":
        holders = ", ".join(
            f"{index.label(e.owner)} by the strong {printable(e.field)}" for e in edges[:4]
        )
        return f"{label} is held by its own part {holders}"
    if name == "reference-cycle":
        return f"{label} is held from below itself by {fields}{more}"
    if name == "foreign-container":
        containers = ", ".join(sorted({index.label(e.holder) for e in edges}))
        return (
            f"{_count(n, 'region')} of {label} are still in {containers}, which another object "
            "owns; only memory_region_del_subregion ends that"
        )
    if name == "address-space-root":
        return f"{label} holds itself through {fields}{more}: the address space was not destroyed"
    if name == "unbalanced":
        grants = RULES[edges[0].rule].grants
        return f"{label} still has its first reference, and what held it is gone: {grants}"
    if name == "delayed":
        counts = Counter(e.kind for e in edges)
        what = ", ".join(f"{kind} x{k}" for kind, k in sorted(counts.items()))
        return (
            f"{label} is held only by transient references, each of which ends by itself ({what})"
        )
    holders = ", ".join(
        f"{index.label(e.owner or e.holder) if e.owner or e.holder else 'a variable'} "
        f"by {printable(e.field)}"
        for e in edges[:4]
    )
    return f"{label} is held by {holders}"


def describe(book: Book, edge: Edge) -> str:
    """Return one reference in words: kind, holder and field."""
    if edge.rule:
        return f"{edge.kind}: by rule {edge.rule}, {edge.field}"
    holder = book.index.label(edge.holder) if edge.holder else "the program's variable"
    ends = ""
    if edge.kind == "subregion" and source(book, edge) != edge.target:
        ends = " (of another owner: only memory_region_del_subregion ends it)"
    return f"{edge.kind}: {holder}, {printable(edge.field)}{ends}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")
