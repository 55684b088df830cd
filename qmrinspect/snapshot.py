"""Snapshots
---------

The frozen graph: what a walk found in a QEMU at one instant, as plain data.
Nothing after the walk reads memory, so that every verb works the same on a live
VM, a core dump and a file.

Addresses are integers; 0 stands for a NULL pointer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Protocol

from .target.image import Capture
from .tuples import NamedTuple

__all__ = [
    "Address",
    "Bus",
    "BusChild",
    "Clock",
    "Device",
    "FieldReference",
    "GpioList",
    "Listener",
    "Note",
    "Obj",
    "Pending",
    "Pointer",
    "Prop",
    "Range",
    "Region",
    "Snapshot",
    "Space",
    "Stale",
    "TargetInfo",
    "TypeInfo",
    "Unknown",
    "Unplugging",
    "Unsearched",
    "View",
    "lineage",
]

# Types that derive from each other; memory that says more is damaged.
_DEPTH_MAX = 64


# An integer that is written as text ("0x7f...") wherever it leaves the program.
Address = Annotated[int, "address"]


class TypeInfo(NamedTuple):
    """A QOM type: its ``parent`` type's name and the instance size in bytes."""

    name: str
    parent: str
    size: int


class HasParent(Protocol):
    """What names its parent type."""

    @property
    def parent(self) -> str: ...


def lineage(types: Mapping[str, HasParent], name: str) -> tuple[str, ...]:
    """Return a QOM type and its ancestors as far as they are known, the type first."""
    out: list[str] = []
    while name in types and len(out) < _DEPTH_MAX:
        out.append(name)
        name = types[name].parent
    return tuple(out)


class Obj(NamedTuple):
    """A live ``Object``.

    :param ref: ``Object.ref`` as it was read.
    :param parent: ``Object.parent``, 0 when it has none.
    :param heap: whether ``Object.free`` is set, so that it owns its memory.
    """

    address: Address
    type: str
    ref: int
    parent: Address
    heap: bool


class Prop(NamedTuple):
    """A child or link property.

    :param holder: the object whose property it is.
    :param role: ``child``, ``strong`` or ``weak``.
    :param level: ``instance`` or ``class``: where the property is defined.
    """

    holder: Address
    name: str
    target: Address
    role: str
    level: str


class Device(NamedTuple):
    """The ``DeviceState`` part of an object."""

    address: Address
    id: str
    realized: bool
    hotplugged: bool
    pending_deleted: bool
    parent_bus: Address


class GpioList(NamedTuple):
    """A ``NamedGPIOList`` of a device: the irqs of its ``in`` array."""

    address: Address
    device: Address
    name: str
    inputs: tuple[Address, ...]


class Clock(NamedTuple):
    """A ``NamedClockList`` entry of a device."""

    address: Address
    device: Address
    name: str
    clock: Address
    output: bool
    alias: bool


class BusChild(NamedTuple):
    """A ``BusChild``: the structure's address and the device it holds."""

    address: Address
    child: Address
    number: int


class Bus(NamedTuple):
    """The ``BusState`` part of an object."""

    address: Address
    name: str
    parent: Address
    children: tuple[BusChild, ...]


class Region(NamedTuple):
    """The ``MemoryRegion`` part of an object.

    :param addr: offset in its container, bytes.
    :param size: bytes; 2**64 is a whole address space.
    """

    address: Address
    name: str
    owner: Address
    container: Address
    alias: Address
    alias_offset: int
    addr: int
    size: int
    priority: int
    enabled: bool
    kind: str
    subregions: tuple[Address, ...]
    mapped_via_alias: int


class Listener(NamedTuple):
    """A ``MemoryListener``; ``name`` is empty where QEMU has none."""

    address: Address
    name: str
    space: Address


class Space(NamedTuple):
    """An ``AddressSpace``."""

    address: Address
    name: str
    root: Address
    view: Address
    listeners: tuple[Address, ...]


class Range(NamedTuple):
    """A ``FlatRange``: guest range ``start``, ``size`` in bytes, of region ``mr``."""

    mr: Address
    start: int
    size: int
    offset: int


class View(NamedTuple):
    """A ``FlatView``; ``sections`` are the ``mr`` of its dispatch sections.

    :param ref: ``FlatView.ref``, which is no QOM count.
    :param found: where it was reached: ``space``, ``table``, ``rcu``, ``field``, or ``lost``
        for one that nothing known leads to.
    :param tabled: how often the table of all views has it.
    """

    address: Address
    ref: int
    root: Address
    ranges: tuple[Range, ...]
    sections: tuple[Address, ...]
    found: str
    tabled: int = 0


class Pending(NamedTuple):
    """A callback that waits for RCU.

    :param what: ``flat-view``, ``bus-child``, ``address-space`` or ``other``.
    :param target: the object or structure that it still holds.
    """

    address: Address
    what: str
    target: Address


class FieldReference(NamedTuple):
    """A pointer in a named field of a known structure.

    :param kind: the reference kind that such a field makes.
    :param holder: address of the object or structure, 0 for a global variable.
    :param field: ``Struct.field`` or ``Struct.field[i]`` or the variable's name.
    :param question: what decides whether QEMU counts it, empty when it always does; the
        books answer it.
    :param presumed: the answer while there is little evidence: ``yes``, ``no`` or empty.
    """

    kind: str
    holder: Address
    field: str
    target: Address
    question: str = ""
    presumed: str = ""


class Unsearched(NamedTuple):
    """Holders that this QEMU was not searched for.

    :param field: the way to the field, or the field that the search needs.
    :param start: QOM type that has it, empty when none does.
    :param target: QOM type of what it would hold; ``ram`` for owners of guest memory.
    :param absent: whether this QEMU has no such structure, by its own debug information.
    """

    kind: str
    field: str
    start: str
    target: str
    why: str
    absent: bool


class Pointer(NamedTuple):
    """A word that points to an object: a candidate for its holder, not a reference.

    :param address: of the word.
    :param container: the object whose memory has the word, 0 when none does.
    :param offset: of the word in its container or variable, bytes.
    :param place: ``object``, ``variable`` or ``memory`` (the heap, a stack).
    :param field: ``Struct.field`` or the variable's name, empty when unknown.
    """

    target: Address
    address: Address
    container: Address
    offset: int
    place: str
    field: str


class Note(NamedTuple):
    """Something that could not be read, or made no sense."""

    address: Address
    text: str


class Stale(NamedTuple):
    """A live structure that would call or read what was freed, or left the QOM tree.

    :param kind: what sort of callback: ``reset-handler``, ``timer``, ...
    :param address: of the structure; ``word`` is where it has the pointer.
    :param target: what it would be called with.
    :param function: what would be called, 0 where nothing is; ``name`` is its name, or that of a
        property.
    :param freed: whether the target was freed; otherwise it is an object outside the tree.
    :param block: where the freed block begins, and its ``size`` in bytes.
    :param certain: whether the structure was recognised; otherwise there is a function beside
        the pointer, and no more.
    """

    kind: str
    address: Address
    word: Address
    target: Address
    function: Address
    name: str
    freed: bool
    block: Address
    size: int
    certain: bool = True


class Unknown(NamedTuple):
    """What could not be known of this QEMU at this instant, and what was asked for.

    :param what: ``liveness``: which memory is live and which was freed; ``memory``: what part
        of it was not searched.
    """

    what: str
    why: str


class Unplugging(NamedTuple):
    """A device that was asked to go, and that the guest has not released.

    :param way: how the guest was asked: ``acpi-pci``, ``pcie-button``, ``shpc``, ``dimm`` or
        ``cpu``.
    :param by: the object that asked it, 0 when that is not known.
    :param reset: an entry of the container of resets that is the device's, 0 when none is known.
    """

    device: Address
    way: str
    by: Address
    reset: Address = 0


class TargetInfo(NamedTuple):
    """What was read: see the contract's ``target`` block.

    :param host: the name of the machine that a process runs on; "" for what is elsewhere.
    :param command: the command line, without secrets.
    """

    kind: str
    pid: int
    exe: str
    build_id: str
    qemu_version: str
    machine: str
    layout: str
    host: str = ""
    command: str = ""


class Snapshot(NamedTuple):
    """One instant of one QEMU."""

    target: TargetInfo
    capture: Capture
    types: Mapping[str, TypeInfo]
    objects: Mapping[int, Obj]
    props: Sequence[Prop]
    devices: Mapping[int, Device]
    gpios: Sequence[GpioList]
    clocks: Sequence[Clock]
    buses: Mapping[int, Bus]
    regions: Mapping[int, Region]
    spaces: Mapping[int, Space]
    listeners: Mapping[int, Listener]
    views: Mapping[int, View]
    pending: Sequence[Pending]
    fields: Sequence[FieldReference]
    notes: Sequence[Note]
    pointers: Sequence[Pointer] = ()
    unsearched: Sequence[Unsearched] = ()
    unknown: Sequence[Unknown] = ()
    stale: Sequence[Stale] = ()
    unplugging: Sequence[Unplugging] = ()
