"""Cycles of references
--------------------

Objects that hold each other, and what an unplug makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..index import Index
from ..ledger import Book, Edge
from .graph import TRANSIENT, adjacency, components, reachable, roots, source
from .known import breaks_its_cycles

__all__ = ["Cycle", "fate", "find_cycles"]

_DEPTH_MAX = 64


class Cycle(NamedTuple):
    """A strongly connected group; see :func:`find_cycles`."""

    lost: bool
    ordinary: bool
    members: Sequence[int]
    edges: Sequence[Edge]


# References that unparenting a device or a bus drops (hw/core/qdev.c device_unparent,
# hw/core/bus.c bus_unparent), so that a cycle through one is no danger.
_UNPARENTED = frozenset(("bus-child", "parent-bus"))


def find_cycles(book: Book) -> list[Cycle]:
    """Return the groups: lost ones, those only a device's own code breaks, ordinary ones."""
    graph = adjacency(book)
    alive = reachable(book, roots(book))
    out = []
    for ordinary in (False, True):
        targets = {
            node: [e.target for e in edges if ordinary or e.kind not in _UNPARENTED]
            for node, edges in graph.items()
            if node
        }
        for group in components(sorted(targets), targets):
            lost = not any(member in alive for member in group)
            inside = set(group)
            edges = tuple(
                edge
                for member in group
                for edge in book.on.get(member, ())
                if source(book, edge) in inside and edge.kind not in TRANSIENT
            )
            if ordinary and (lost or not any(edge.kind in _UNPARENTED for edge in edges)):
                continue
            out.append(Cycle(lost, ordinary, group, edges))
    return sorted(out, key=lambda cycle: (not cycle.lost, cycle.ordinary))


def fate(book: Book, cycle: Cycle) -> str:
    """Return what an unplug makes of a cycle.

    ``lost``: it did not break it; ``breaks``: unparenting does, or the device's own unrealize,
    as hunts under this policy saw of its type; ``keeps``: they saw that it does not; ``open``:
    none was hunted, and no reading shows it; ``never``: what is in it is never unplugged.
    """
    if cycle.lost:
        return "lost"
    if cycle.ordinary:
        return "breaks"
    index = book.index
    devices = {_plugged(index, member) for member in cycle.members} - {0}
    if not devices:
        return "never"
    types = (index.snapshot.objects[device].type for device in devices)
    broken = {breaks_its_cycles(kind, book.policy.name) for kind in types}
    return "keeps" if False in broken else "open" if None in broken else "breaks"


def _plugged(index: Index, address: int) -> int:
    """Return the device in /machine/peripheral or peripheral-anon that an object is part of."""
    objects = index.snapshot.objects
    for _ in range(_DEPTH_MAX):
        obj = objects.get(address)
        if obj is None or not obj.parent:
            return 0
        if index.path(obj.parent) in ("/machine/peripheral", "/machine/peripheral-anon"):
            return address
        address = obj.parent
    return 0
