"""Why an object is alive
----------------------
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ..ledger import Book, Edge
from ..tuples import NamedTuple
from .graph import TRANSIENT, adjacency, components, roots, source

__all__ = ["Why", "why"]


class Why(NamedTuple):
    """The shortest chain of counted references, or the cycle.

    :param root: where the chain starts; 0 when only a cycle holds the object.
    :param chain: references from the root to the object, or around the cycle.
    :param cycle: the objects of the cycle, empty when there is a chain.
    """

    root: int
    chain: Sequence[Edge]
    cycle: Sequence[int]


def why(book: Book, address: int) -> Why:
    """Explain what keeps an object alive.

    A chain through flat views or RCU, which are transient, is given only when
    there is no other and no cycle.
    """
    graph = adjacency(book)
    found = _search(graph, roots(book), address)
    if found is not None:
        root, chain = found
        # What a variable holds is a reference too: it is the chain's first link.
        first = [
            e for e in book.on.get(root, ()) if not source(book, e) and e.kind not in TRANSIENT
        ]
        return Why(root, (*first[:1], *chain), ())
    groups = components(graph, {node: [e.target for e in es] for node, es in graph.items()})
    for group in groups:
        if address in group and 0 not in group:
            return Why(0, _around(graph, set(group), address), tuple(group))
    up = _search(_without_cycles(graph), {n for g in groups for n in g}, address)
    if up is not None:
        group = next(g for g in groups if up[0] in g)
        return Why(0, (*_around(graph, set(group), up[0]), *up[1]), tuple(group))
    transient = [e for e in book.on.get(address, ()) if e.kind in TRANSIENT]
    return Why(0, tuple(transient[:1]), ())


def _search(
    graph: dict[int, list[Edge]], starts: set[int], goal: int
) -> tuple[int, tuple[Edge, ...]] | None:
    """Breadth first from all starts; the lowest address wins among equals."""
    came: dict[int, Edge | None] = {start: None for start in sorted(starts)}
    origin = {start: start for start in starts}
    todo = deque(came)
    while todo:
        at = todo.popleft()
        if at == goal:
            chain: list[Edge] = []
            node, step = at, came[at]
            while step is not None:
                chain.append(step)
                node = origin[node]
                step = came[node]
            return node, tuple(reversed(chain))
        for edge in graph.get(at, ()):
            if edge.target not in came:
                came[edge.target] = edge
                origin[edge.target] = at
                todo.append(edge.target)
    return None


def _without_cycles(graph: dict[int, list[Edge]]) -> dict[int, list[Edge]]:
    return {node: edges for node, edges in graph.items() if node}


def _around(graph: dict[int, list[Edge]], group: set[int], start: int) -> tuple[Edge, ...]:
    """Return the shortest way from ``start`` back to itself inside a group."""
    best: tuple[Edge, ...] = ()
    inside = {n: [e for e in graph.get(n, ()) if e.target in group] for n in group}
    for edge in inside[start]:
        if edge.target == start:
            return (edge,)
        found = _search(inside, {edge.target}, start)
        if found is not None and (not best or len(found[1]) + 1 < len(best)):
            best = (edge, *found[1])
    return best
