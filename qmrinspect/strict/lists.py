"""Lists
-----

An element of a QLIST or a QTAILQ has, behind the pointer to the next, the address of the
pointer that leads to it (include/qemu/queue.h).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from ..layout import Layout
from ..references import HOLDERS, OfType
from ..references.record import parse, ways_of
from ..snapshot import Snapshot
from ..tuples import NamedTuple
from .tally import Tally

__all__ = ["Linked", "head_of", "linked_lists", "relate"]

_ELEMENTS = 64  # of a list that are looked at


class Linked(NamedTuple):
    """A list whose head is on an object.

    :param type: QOM type of the object.
    :param heads: the embedded structures that lead to the head, ``S.f`` each.
    :param link: ``S.f`` of the elements.
    """

    type: str
    heads: tuple[str, ...]
    link: str


# The lists of the walk itself, and of holders that are read by code.
_LISTS = (
    Linked("device", ("DeviceState.gpios",), "NamedGPIOList.node"),
    Linked("device", ("DeviceState.clocks",), "NamedClockList.node"),
    Linked("device", ("DeviceState.child_bus",), "BusState.sibling"),
    Linked("bus", ("BusState.children",), "BusChild.sibling"),
    Linked("memory-region", ("MemoryRegion.subregions",), "MemoryRegion.subregions_link"),
    Linked("throttle-group", ("ThrottleGroup.head",), "ThrottleGroupMember.round_robin"),
    Linked("scsi-device", ("SCSIDevice.requests",), "SCSIRequest.next"),
    Linked("ram-discard-manager", ("RamDiscardManager.rdl_list",), "RamDiscardListener.next"),
)


@lru_cache(maxsize=1)
def linked_lists() -> tuple[Linked, ...]:
    """Return all lists whose heads are on objects, those that holders are declared by included."""
    out = dict.fromkeys(_LISTS)
    for holder in HOLDERS:
        if not isinstance(holder.start, OfType):
            continue
        for way in ways_of(holder.way):
            heads: list[str] = []
            for step in parse(way):
                if step.how == "list":
                    link = f"{step.struct}.{step.names[0]}"
                    out[Linked(holder.start.type, tuple(heads), link)] = None
                if step.how != "+" or not step.names:
                    break
                heads.append(f"{step.struct}.{step.names[0]}")
    return tuple(out)


def head_of(layout: Layout, row: Linked) -> int | None:
    """Return the offset of a list's head in its object, None where the layout lacks it."""
    offset = 0
    for field in row.heads:
        struct, _, name = field.partition(".")
        if not layout.has(struct, name):
            return None
        offset += layout.offset(struct, name)
    return offset


def relate(tally: Tally, snapshot: Snapshot) -> None:
    """Count the elements whose links close."""
    of: dict[str, list[int]] = {}
    for address, obj in snapshot.objects.items():
        for name in tally.context.chain(obj.type):
            of.setdefault(name, []).append(address)
    _blocks(tally, snapshot)
    _consoles(tally, of.get("qemu-console", ()))
    _spaces(tally, snapshot)
    for row in linked_lists():
        put = tally.asks(
            f"{row.heads[-1]} is a list by {row.link}", " ".join((*row.heads, row.link))
        )
        head = head_of(tally.context.layout, row)
        if put is None or head is None:
            continue
        for address in of.get(row.type, ()):
            for closes in _elements(tally, address + head, row.link):
                put(closes)


def _elements(tally: Tally, head: int, link: str) -> Iterator[bool]:
    """Yield for each element of a list whether what it names as leading to it does."""
    offset = tally.offset(link)
    seen: set[int] = set()
    at = tally.word(head)
    while at and at not in seen and len(seen) < _ELEMENTS:
        seen.add(at)
        closes = tally.word(tally.word(at + offset + 8)) == at
        yield closes
        if not closes:
            return
        at = tally.word(at + offset)


def _blocks(tally: Tally, snapshot: Snapshot) -> None:
    """``ram_list`` has the blocks of all RAM regions (system/physmem.c)."""
    fields = "RAMList.blocks RAMBlock.next MemoryRegion.ram_block"
    put = tally.asks("the list of RAM blocks has those of the regions", fields)
    variable = tally.context.statics.first("ram_list")
    if put is None or not variable:
        return
    link = tally.offset("RAMBlock.next")
    at = tally.word(variable + tally.offset("RAMList.blocks"))
    listed: set[int] = set()
    while at and at not in listed and len(listed) < 1 << 12:
        listed.add(at)
        at = tally.word(at + link)
    for address, region in snapshot.regions.items():
        record = None if region.alias else tally.record("MemoryRegion", address)
        if record is not None and record["ram_block"]:
            put(record["ram_block"] in listed)


def _consoles(tally: Tally, consoles: Sequence[int]) -> None:
    """All consoles are on one list, whose head is a variable (ui/console.c)."""
    put = tally.asks("a console is linked", "QemuConsole.next")
    if put is None:
        return
    for address in consoles:
        before = tally.word(address + tally.offset("QemuConsole.next") + 8)
        put(tally.word(before) == address)


def _spaces(tally: Tally, snapshot: Snapshot) -> None:
    """The listeners of an address space, by their priority (memory_listener_register)."""
    head, link = "AddressSpace.listeners", "MemoryListener.link_as"
    put = tally.asks(f"{head} is a list by {link}", f"{head} {link}")
    if put is None:
        return
    for space in snapshot.spaces:
        for closes in _elements(tally, space + tally.offset(head), link):
            put(closes)
