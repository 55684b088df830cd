"""Cycles and orphans
------------------
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from weakref import WeakKeyDictionary

from ..ledger import KINDS, RULES, Book, Edge
from ..tuples import NamedTuple

__all__ = [
    "Orphans",
    "adjacency",
    "alive",
    "components",
    "hidden",
    "is_transient",
    "orphan_groups",
    "reachable",
    "roots",
]

_DEPTH_MAX = 64

# Kinds of references that are transient.
TRANSIENT = frozenset(kind.name for kind in KINDS if kind.ends)

# Types that QEMU makes and never gives a parent: being outside the tree is no sign
# of a leak for them.
NEVER_IN_TREE = frozenset(
    (
        "accel irq container memory-region-portio-list legacy-reset resettable-container "
        "migration qemu-console qio-channel qio-net-listener qio-dns-resolver qio-task "
        "throttle-group virtio-mem-system-reset qcrypto-tls-session ram-discard-manager "
        "virtio-shared-memory-mapping"
    ).split()
)


def adjacency(book: Book) -> dict[int, list[Edge]]:
    """Return the counted references by the object they come from.

    A reference from a structure that is part of an object comes from that
    object; one from a variable or a flat view comes from 0.
    """
    out: dict[int, list[Edge]] = defaultdict(list)
    for edge in book.edges:
        if edge.target in book.index.snapshot.objects:
            out[source(book, edge)].append(edge)
    return out


def source(book: Book, edge: Edge) -> int:
    """Return the object whose life keeps a reference, 0 for the machine as a whole.

    A region lives and dies with its owner, so that what a region holds is held
    by the owner.
    """
    at = edge.owner
    region = book.index.snapshot.regions.get(at)
    if region is not None and region.owner in book.index.snapshot.objects:
        return region.owner
    return at if at in book.index.snapshot.objects else 0


def roots(book: Book) -> set[int]:
    """Return the roots: the objects that variables hold, and the tree's root."""
    out = {edge.target for edge in book.edges if source(book, edge) == 0 and not is_transient(edge)}
    out.add(book.index.root)
    return out & set(book.index.snapshot.objects)


def is_transient(edge: Edge) -> bool:
    """Whether a reference from no object says nothing of a right to live."""
    # What a flat view or RCU holds is held for as long as that lasts, and makes nothing reachable;
    # and a rule without a variable behind it says nothing of who holds the object.
    return edge.kind in TRANSIENT or (bool(edge.rule) and not RULES[edge.rule].forever)


def reachable(book: Book, start: Iterable[int], without: Collection[int] = ()) -> set[int]:
    """Return every object to which counted references lead from ``start``.

    :param without: objects that the way may neither start from nor go through.
    """
    graph = adjacency(book)
    seen: set[int] = set()
    todo = list(start)
    while todo:
        at = todo.pop()
        if at in seen or at in without:
            continue
        seen.add(at)
        todo += [edge.target for edge in graph.get(at, ())]
    return seen


def alive(book: Book) -> set[int]:
    """Return what is reachable from a root.

    A device that was unparented is not, whatever holds it: a live container in which
    it left a region, say, or an address space that it did not destroy.
    """
    index = book.index
    gone = {a for a in index.snapshot.devices if not index.snapshot.objects[a].parent}
    return reachable(book, roots(book), gone)


def components(nodes: Iterable[int], graph: Mapping[int, Iterable[int]]) -> list[list[int]]:
    """Return the strongly connected groups (Tarjan, without recursion).

    Only groups of more than one node, and nodes that point to themselves.
    """
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    out: list[list[int]] = []
    for start in nodes:
        if start in order:
            continue
        order[start] = low[start] = len(order)
        stack.append(start)
        on_stack.add(start)
        work = [(start, iter(graph.get(start, ())))]
        while work:
            node, targets = work[-1]
            for target in targets:
                if target not in order:
                    order[target] = low[target] = len(order)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, iter(graph.get(target, ()))))
                    break
                if target in on_stack:
                    low[node] = min(low[node], order[target])
            else:
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == order[node]:
                    group = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        group.append(member)
                        if member == node:
                            break
                    if len(group) > 1 or node in set(graph.get(node, ())):
                        out.append(sorted(group))
    return out


class Orphans(NamedTuple):
    """Objects that the tree no longer holds, under the one that explains them.

    :param root: the object at the top, which has no parent.
    :param members: ``root`` and all that came with it.
    :param delayed: whether every reference on ``root`` is transient.
    :param used: whether it is no device, and something that is reachable from a root holds
        it: it was deleted while it was in use.
    """

    root: int
    members: Sequence[int]
    delayed: bool
    used: bool = False


#: What was found for a book: a check asks three times.
_found: WeakKeyDictionary[Book, list[Orphans]] = WeakKeyDictionary()


def orphan_groups(book: Book) -> list[Orphans]:
    """Find what is alive in memory and was taken out of the QOM tree.

    Each group is named after the object that has no parent although its type
    belongs in the tree, with what is below it and what only that holds.
    """
    if book not in _found:
        _found[book] = _orphan_groups(book)
    return _found[book]


def _orphan_groups(book: Book) -> list[Orphans]:
    objects = book.index.snapshot.objects
    # What has no reference left is on its way out, not forgotten.
    roots = {a for a in objects if objects[a].ref and _top(book, a) == a}
    roots = {a for a in roots if forgotten(book, a) or not _outside(book, a)}
    roots.discard(book.index.root)
    reached = alive(book) if roots else set()
    groups: dict[int, list[int]] = defaultdict(list)
    for address in objects:
        root = _root_of(book, address, roots, reached)
        if root in roots:
            groups[root].append(address)
    return [
        Orphans(
            root,
            tuple(sorted(members)),
            _ends(book, root),
            root in reached and not _is_wired(book, root),
        )
        for root, members in sorted(groups.items())
    ]


def _is_wired(book: Book, address: int) -> bool:
    """Whether an object is part of the machine, which nobody deletes by object_del."""
    return any(book.index.is_a(address, kind) for kind in ("device", "bus", "memory-region", "irq"))


def forgotten(book: Book, address: int) -> bool:
    """Whether an object is an irq that nothing points to any more."""
    obj = book.index.snapshot.objects[address]
    return obj.type == "irq" and obj.heap and obj.ref > 0 and not book.on.get(address)


def _top(book: Book, address: int) -> int:
    """Return the topmost parent."""
    objects = book.index.snapshot.objects
    for _ in range(_DEPTH_MAX):
        parent = objects[address].parent
        if parent not in objects:
            return address
        address = parent
    return address


def _outside(book: Book, address: int) -> bool:
    """Whether an object has no parent by its nature."""
    index = book.index
    region = index.snapshot.regions.get(address)
    if region is not None and not region.owner and not region.name:
        return True  # a subpage, which belongs to a view, or a static region
    if not index.snapshot.objects[address].heap and index.part_of_tree(address):
        return True
    chain = index.chain(index.snapshot.objects[address].type)
    return not chain.isdisjoint(NEVER_IN_TREE) or hidden(book, address)


def hidden(book: Book, address: int) -> bool:
    """Whether QEMU itself took an object out of the tree, to go on using it."""
    return any(edge.rule and RULES[edge.rule].hides for edge in book.on.get(address, ()))


def _root_of(book: Book, address: int, roots: set[int], reached: set[int]) -> int:
    """Go up: to the topmost parent, and from what never has one to what holds it."""
    seen: set[int] = set()
    while True:
        address = _top(book, address)
        if address in roots or address in reached or address in seen:
            return address
        seen.add(address)
        holders = [source(book, edge) for edge in book.on.get(address, ())]
        address = next((holder for holder in holders if holder), address)


def _ends(book: Book, address: int) -> bool:
    edges = book.on.get(address, ())
    return bool(edges) and not book.residual(address) and all(e.kind in TRANSIENT for e in edges)
