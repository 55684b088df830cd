"""What waits for RCU
-----------------

``call_rcu1`` appends a ``struct rcu_head`` to a queue that a thread of its own
works off after a grace period (util/rcu.c).  A view, a bus child or an address
space in that queue has been released and still holds its references.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..records.context import Context
from ..snapshot import Obj, Pending, View
from ..target.image import Unreadable
from .memory import read_view

__all__ = ["RCU_FIELDS", "ends", "has_queue", "queued", "read_pending"]

#: What the queue needs.
RCU_FIELDS = "rcu_head.next rcu_head.func"

_CODE_MAX = 160
_QUEUE_MAX = 100_000


def _tail_variables(context: Context) -> Iterator[int]:
    """Yield candidates for the address of the static ``tail``.

    ``enqueue`` exchanges it atomically: ``xchg %reg, tail(%rip)`` is the only
    exchange with a variable in ``call_rcu1`` (x86 only).
    """
    code = context.statics.first("call_rcu1")
    if not code:
        return
    try:
        raw = context.image.read(code, _CODE_MAX)
    except Unreadable:
        return
    for at in range(len(raw) - 7):
        rex, opcode, modrm = raw[at : at + 3]
        if rex & 0xF8 == 0x48 and opcode == 0x87 and modrm & 0xC7 == 0x05:
            yield code + at + 7 + int.from_bytes(raw[at + 3 : at + 7], "little", signed=True)


def has_queue(context: Context) -> bool:
    """Whether this layout can tell of the queue."""
    return all(context.layout.has(*field.split(".")) for field in RCU_FIELDS.split())


def ends(context: Context) -> tuple[int, int] | None:
    """Return the addresses of the queue's ``head`` and ``tail``; None when it was not found.

    Without ``rcu_head`` it cannot be.

    ``head`` lies next to ``tail``; the right neighbour is the one from which the
    list leads to the node whose ``next`` is ``*tail``.
    """
    if not has_queue(context):
        return None
    for tail in _tail_variables(context):
        for head in (tail + 8, tail - 8):
            if _nodes(context, head, tail) is not None:
                return head, tail
    return None


def queued(context: Context) -> list[int] | None:
    """Return the queued ``rcu_head`` addresses; None when the queue was not found."""
    found = ends(context)
    nodes = _nodes(context, *found) if found is not None else None
    if nodes is None:
        return None
    # The dummy node has no function; it is where an empty queue ends.
    low, high = context.statics.data
    return [node for node in nodes if not low <= node < high]


def _nodes(context: Context, head: int, tail: int) -> list[int] | None:
    image, at_next = context.image, context.layout.offset("rcu_head", "next")
    try:
        last = image.u64(tail) - at_next
        node = image.u64(head)
        nodes: list[int] = []
        while node and len(nodes) < _QUEUE_MAX:
            nodes.append(node)
            if node == last:
                return nodes
            node = image.u64(node + at_next)
    except Unreadable:
        pass
    return None


def read_pending(
    context: Context, views: dict[int, View], objects: Mapping[int, Obj]
) -> list[Pending] | None:
    """Read the queue; flat views found in it join ``views``.

    A node is what its first bytes make it: a ``FlatView`` whose count is 0, a
    ``BusChild`` that points to a live device, an ``AddressSpace`` with a known root.

    :return: None where the queue was not found.
    """
    nodes = queued(context)
    if nodes is None:
        return None
    layout, image = context.layout, context.image
    out = []
    functions: dict[int, str] = {}
    for node in nodes:
        try:
            function = image.u64(node + layout.offset("rcu_head", "func"))
        except Unreadable:
            context.note(node, "a queued RCU callback cannot be read")
            continue
        what, target = _recognise(context, node, objects)
        # The same function releases the same kind of structure.
        what = functions.setdefault(function, what) if what != "other" else what
        if what == "flat-view":
            view = read_view(context, node, "rcu")
            if view is not None:
                views.setdefault(node, view)
        out.append(Pending(node, what, target))
    return out


def _recognise(context: Context, node: int, objects: Mapping[int, Obj]) -> tuple[str, int]:
    layout, image = context.layout, context.image

    def is_a(address: int, type: str) -> bool:
        # A RAM block has its region where a bus child has its device.
        return address in objects and context.is_a(objects[address].type, type)

    try:
        view = context.record("FlatView", node)
        if view["ref"] == 0 and view["nr"] <= view.get("nr_allocated", view["nr"]):
            dispatch = view["dispatch"]
            table = dispatch + layout.offset("AddressSpaceDispatch", "map")
            sections = image.u64(table + layout.offset("PhysPageMap", "sections"))
            if image.u64(sections + layout.offset("MemoryRegionSection", "fv")) == node:
                return "flat-view", node
    except Unreadable:
        pass
    try:
        child = image.u64(node + layout.offset("BusChild", "child"))
        if is_a(child, "device"):
            return "bus-child", child
        image.give(child)  # there may be an object that nothing else leads to
    except Unreadable:
        pass
    try:
        root = image.u64(node + layout.offset("AddressSpace", "root"))
        if is_a(root, "memory-region"):
            return "address-space", root
    except Unreadable:
        pass
    return "other", 0
