"""Fake QEMUs
----------

A small machine built from bytes: a model of the objects, which counts references
as QEMU does under each policy, and the memory image that a QEMU with these objects
and a given layout would have.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from qmrinspect.index import Index
from qmrinspect.layout import Layout, Struct, load
from qmrinspect.layout.find import profiles
from qmrinspect.ledger import POLICIES, Book, Policy, open_book
from qmrinspect.ledger.policies import by_name
from qmrinspect.snapshot import Snapshot
from qmrinspect.target.elf import ElfFile
from qmrinspect.target.image import Capture, Image
from qmrinspect.target.image import Mapping as Mapped
from qmrinspect.walk import take
from qmrinspect.walk.glib import HASH_VARIANTS, HashVariant

__all__ = [
    "LAYOUTS",
    "FakeMachine",
    "FakeObject",
    "FakeTarget",
    "books",
    "elf_file",
    "shifted",
]

LAYOUTS = {path.stem: load(path, f"profile:{path.stem}") for path in profiles()}
NEWEST = LAYOUTS["10.0.13"]

BASE = 0x555555554000
TEXT, DATA, BSS, END = 0x1000, 0x3000, 0x4000, 0x6000
HEAP = 0x555556000000
LOW_HEAP = 0x1000000
RENDERED = 0x200000  # strings, tables and property structures are made anew at each build
GUEST, GUEST_SIZE = 0x7E0000000000, 0x4000

# Functions are told apart by their address only.
STR_HASH, DIRECT_HASH = BASE + TEXT + 0x100, BASE + TEXT + 0x110
PROPERTY_FREE, CHILD_RELEASE, LINK_RELEASE, STRING_RELEASE = (
    BASE + TEXT + 0x120 + 0x10 * i for i in range(4)
)
RCU_FREE = BASE + TEXT + 0x200
CALL_RCU1 = TEXT + 0x300

CURRENT_MACHINE, RAM_LIST, RCU_HEAD, RCU_TAIL, RCU_DUMMY = (
    DATA + at for at in (0x10, 0x40, 0x208, 0x200, 0x210)
)
TYPE_TABLE, FLAT_VIEWS, SPACES, SPACE_MEMORY, CONSOLES, UNASSIGNED = (
    BSS + at for at in (0x10, 0x18, 0x40, 0x100, 0x400, 0x600)
)

LINK_STRONG, LINK_DIRECT, LINK_CLASS = 1, 2, 4

_TYPES = """
object=
container=object
accel=object
tcg-accel=accel
irq=object
clock=object
interface=object
machine=object
x86-machine=machine
pc-machine=x86-machine
device=object
sys-bus-device=device
pci-device=device
bridge=pci-device
nic=pci-device
core=device
bus=object
System=bus
PCI=bus
memory-region=object
iommu-memory-region=memory-region
memory-region-portio-list=object
resettable-container=object
legacy-reset=object
qemu-console=object
qio-channel=object
qio-channel-socket=qio-channel
qio-channel-tls=qio-channel
qio-net-listener=object
iothread=object
tpm-backend=object
memory-backend=object
chardev-socket=object
virtio-device=device
virtio-balloon-device=virtio-device
virtio-serial-port=device
scsi-device=device
ich9-ahci=device
qemu-graphic-console=qemu-console
migration=object
rng=object
throttle-group=object
"""

# Types whose instances are one structure of the layout.
_STRUCTS = {
    "object": "Object",
    "irq": "IRQState",
    "device": "DeviceState",
    "bus": "BusState",
    "machine": "MachineState",
    "x86-machine": "X86MachineState",
    "memory-region": "MemoryRegion",
    "memory-region-portio-list": "MemoryRegionPortioList",
    "resettable-container": "ResettableContainer",
    "qemu-console": "QemuConsole",
    "qio-net-listener": "QIONetListener",
    "qio-channel-tls": "QIOChannelTLS",
    "chardev-socket": "SocketChardev",
    "throttle-group": "ThrottleGroup",
    "virtio-device": "VirtIODevice",
    "virtio-balloon-device": "VirtIOBalloon",
    "virtio-serial-port": "VirtIOSerialPort",
    "scsi-device": "SCSIDevice",
    "ich9-ahci": "AHCIPCIState",
}

# Devices with room for regions of their own.
_LARGE = ("bridge", "nic", "core")


@dataclass(eq=False)
class FakeObject:
    """An object of the model; what only some types have is empty for the others."""

    address: int
    type: str
    size: int
    ref: int = 1
    heap: bool = True
    parent: FakeObject | None = None
    children: dict[str, FakeObject] = field(default_factory=dict)
    links: dict[str, tuple[FakeObject, int]] = field(default_factory=dict)
    fields: dict[tuple[str, str], int] = field(default_factory=dict)
    used: int = 0x400
    id: str = ""
    name: str = ""
    bus: FakeObject | None = None
    kids: list[FakeKid] = field(default_factory=list)
    gpios: list[tuple[int, str, list[FakeObject]]] = field(default_factory=list)
    clocks: list[tuple[int, str, FakeObject, bool, bool]] = field(default_factory=list)
    resets: list[FakeObject] = field(default_factory=list)
    owner: FakeObject | None = None
    container: FakeObject | None = None
    alias: FakeObject | None = None
    subregions: list[FakeObject] = field(default_factory=list)
    addr: int = 0
    extent: int = 0x1000


@dataclass(eq=False)
class FakeKid:
    """A ``BusChild``."""

    address: int
    child: FakeObject
    index: int


@dataclass(eq=False)
class FakeView:
    """A ``FlatView``."""

    address: int
    root: FakeObject
    ranges: list[FakeObject]
    sections: list[FakeObject]
    ref: int = 1


@dataclass(eq=False)
class FakeSpace:
    """An ``AddressSpace``."""

    address: int
    name: str
    root: FakeObject
    view: FakeView
    listeners: list[tuple[int, str]] = field(default_factory=list)


class FakeMachine:
    """A machine with a bus, two devices, regions, address spaces and views.

    :param layout: of the QEMU that it pretends to be.
    :param policy: by whose rules subregions take references.
    :param glib: how its hash tables look.
    :param low: everything below 4 GiB, as without position-independent code: GLib then
        keeps 4-byte entries in its tables.
    """

    def __init__(
        self,
        layout: Layout = NEWEST,
        policy: str = "owner-ref",
        glib: HashVariant = HASH_VARIANTS[0],
        low: bool = False,
    ) -> None:
        self.layout = layout
        self.policy = by_name(policy)
        self.glib = glib
        self.base = BASE
        self.heap = LOW_HEAP if low else HEAP
        self._next = self.heap + 0x1000
        self.types: dict[str, tuple[str, int]] = {}
        self.class_at: dict[str, int] = {}
        self.type_at: dict[str, int] = {}
        self.class_links: dict[str, list[tuple[str, int, int]]] = {}
        self.objects: list[FakeObject] = []
        self.spaces: list[FakeSpace] = []
        self.views: list[FakeView] = []
        self.pending: list[int] = []
        self.dead_kids: list[FakeKid] = []
        self.dead_spaces: list[FakeSpace] = []
        self.cached: list[FakeView] = []
        self.consoles: list[FakeObject] = []
        self.pokes: list[tuple[int, int, int]] = []
        self.symbols = {
            "current_machine": CURRENT_MACHINE,
            "address_space_memory": SPACE_MEMORY,
            "ram_list": RAM_LIST,
            "call_rcu1": CALL_RCU1,
        }
        self._define_types()
        self._assemble()

    # Memory of the model

    def allocate(self, size: int) -> int:
        """Return the address of ``size`` fresh bytes, which stay where they are."""
        address = self._next
        self._next += (size + 15) & ~15
        assert self._next < self.heap + RENDERED
        return address

    def _define_types(self) -> None:
        for line in _TYPES.split():
            name, parent = line.split("=")
            self.define(name, parent)
        at = self.layout.offset("DeviceState", "parent_bus")
        self.class_links["device"] = [("parent_bus", LINK_CLASS, at)]

    def define(self, name: str, parent: str, size: int = 0) -> None:
        """Register a type; without a size it is as large as its structure, or its parent."""
        struct_name = _STRUCTS.get(name, "")
        if struct_name in self.layout.structs:
            size = self.layout.size(struct_name)
        elif name in _LARGE:
            size = 0x2000
        elif parent:
            size = max(size, self.types[parent][1])
        self.types[name] = (parent, size)
        self.class_at[name] = self.allocate(self.layout.size("ObjectClass") + 0x40)
        self.type_at[name] = self.allocate(self.layout.size("TypeImpl"))

    def new(self, type: str, within: FakeObject | None = None, at: int = 0) -> FakeObject:
        """``object_new``, or ``object_initialize`` inside another object."""
        size = self.types[type][1]
        if within is not None:
            address = within.address + within.used
            within.used += (size + 15) & ~15
            assert within.used <= within.size, "the device that embeds it is full"
        else:
            address = at or self.allocate(size)
        obj = FakeObject(address, type, size, heap=within is None and not at)
        self.objects.append(obj)
        return obj

    # What QEMU does with references

    def unref(self, obj: FakeObject | None) -> None:
        """``object_unref``; the last one finalizes."""
        if obj is None:
            return
        assert obj.ref > 0
        obj.ref -= 1
        if obj.ref == 0:
            self._finalize(obj)

    def _finalize(self, obj: FakeObject) -> None:
        for name in list(obj.children):
            self.unparent(obj.children[name])
        for target, flags in obj.links.values():
            if flags & LINK_STRONG:
                self.unref(target)
        obj.links.clear()
        if self.is_a(obj, "memory-region"):
            if self.policy.detaches == "both" and obj.container is not None:
                self.del_subregion(obj)
            assert obj.container is None, "a region in a container is finalized"
            assert self.policy.detaches != "nothing" or not obj.subregions
            for sub in list(obj.subregions):
                self.del_subregion(sub)
        self.objects.remove(obj)

    def is_a(self, obj: FakeObject, ancestor: str) -> bool:
        """Whether an object is of a type or derives from it."""
        name = obj.type
        while name and name != ancestor:
            name = self.types[name][0]
        return bool(name)

    def add_child(self, parent: FakeObject, name: str, obj: FakeObject) -> FakeObject:
        """Hand the first reference over to a child property."""
        parent.children[name] = obj
        obj.parent = parent
        return obj

    def unparent(self, obj: FakeObject) -> None:
        """``object_unparent``, with what ``device_unparent`` does to buses."""
        parent = obj.parent
        assert parent is not None
        for name in [n for n, c in parent.children.items() if c is obj]:
            del parent.children[name]
        obj.parent = None
        if obj.bus is not None:
            bus, obj.bus = obj.bus, None
            kid = next(k for k in bus.kids if k.child is obj)
            bus.kids.remove(kid)
            self.unref(obj)
            self.unref(bus)
        self.unref(obj)

    def set_link(
        self, holder: FakeObject, name: str, target: FakeObject, flags: int = LINK_STRONG
    ) -> None:
        """Point a link property at ``target``."""
        holder.links[name] = (target, flags)
        if flags & LINK_STRONG:
            target.ref += 1

    def plug(self, bus: FakeObject, device: FakeObject) -> FakeKid:
        """``qdev_set_parent_bus``."""
        kid = FakeKid(self.allocate(self.layout.size("BusChild")), device, len(bus.kids))
        bus.kids.insert(0, kid)
        device.bus = bus
        device.ref += 1
        bus.ref += 1
        return kid

    def device(self, id: str, type: str = "nic", bus: FakeObject | None = None) -> FakeObject:
        """A device with an id below ``/machine/peripheral``, on the PCI bus or another one."""
        device = self.add_child(self.peripheral, id, self.new(type))
        device.id = id
        self.plug(bus or self.pci, device)
        return device

    def region(
        self,
        name: str,
        owner: FakeObject | None,
        container: FakeObject | None = None,
        addr: int = 0,
        extent: int = 0x1000,
        type: str = "memory-region",
    ) -> FakeObject:
        """``memory_region_init`` and, with a container, ``memory_region_add_subregion``."""
        region = self.new(type, within=owner if owner and owner.size >= 0x2000 else None)
        region.heap = False
        region.name, region.owner, region.addr, region.extent = name, owner, addr, extent
        parent = owner or self.unattached
        self.add_child(parent, f"{name}[{len(parent.children)}]", region)
        if container is not None:
            self.add_subregion(container, region)
        return region

    def add_subregion(self, container: FakeObject, region: FakeObject) -> None:
        """``memory_region_add_subregion`` under the machine's policy."""
        region.container = container
        container.subregions.append(region)
        target = self._counted(container, region)
        if target is not None:
            target.ref += 1

    def del_subregion(self, region: FakeObject) -> None:
        """``memory_region_del_subregion``."""
        container = region.container
        assert container is not None
        target = self._counted(container, region)
        container.subregions.remove(region)
        region.container = None
        self.unref(target)

    def _counted(self, container: FakeObject, region: FakeObject) -> FakeObject | None:
        if container.owner is not region.owner:
            return region.owner
        rule = self.policy.same_owner if region.owner else self.policy.same_none
        return {"owner": region.owner, "region": region, "nothing": None}[rule]

    def view(
        self,
        root: FakeObject,
        ranges: Iterable[FakeObject],
        sections: Iterable[FakeObject] = (),
    ) -> FakeView:
        """A flat view with a range and, for each of ``sections``, a dispatch section."""
        address = self.allocate(self.layout.size("FlatView"))
        view = FakeView(address, root, list(ranges), [self.unassigned, *sections])
        self.views.append(view)
        for region in (root, *view.ranges, *view.sections):
            if region.owner is not None:
                region.owner.ref += 1
        return view

    def retire(self, view: FakeView) -> None:
        """Queue a view for RCU: it still holds everything."""
        view.ref = 0
        self.pending.append(view.address)

    def space(self, name: str, root: FakeObject, view: FakeView, at: int = 0) -> FakeSpace:
        """``address_space_init``."""
        space = FakeSpace(at or self.allocate(self.layout.size("AddressSpace")), name, root, view)
        space.listeners = [(self.allocate(self.layout.size("MemoryListener")), f"{name}-listener")]
        self.spaces.append(space)
        if root.owner is not None:
            root.owner.ref += 1
        return space

    def irqs(self, device: FakeObject, count: int, name: str = "") -> list[FakeObject]:
        """``qdev_init_gpio_in``: every irq is a child too, and keeps its first reference."""
        lines = []
        for i in range(count):
            irq = self.add_child(device, f"{name or 'unnamed-gpio-in'}[{i}]", self.new("irq"))
            irq.ref += 1
            lines.append(irq)
        at = self.allocate(self.layout.size("NamedGPIOList") + 0x40)
        device.gpios.append((at, name, lines))
        return lines

    def clock(self, device: FakeObject, name: str) -> FakeObject:
        """``qdev_init_clock_in``."""
        clock = self.add_child(device, name, self.new("clock"))
        clock.ref += 1
        at = self.allocate(self.layout.size("NamedClockList"))
        device.clocks.append((at, name, clock, False, False))
        return clock

    def know(self, struct_name: str, **fields: int) -> None:
        """Let the layout know a structure of which the shipped ones lack pointers."""
        row = Struct(0x400, {name: (offset, 8) for name, offset in fields.items()})
        self.layout = self.layout._replace(structs={**self.layout.structs, struct_name: row})

    def poke(self, struct_name: str, address: int, **fields: int) -> int:
        """Write fields of a structure that the model does not know; return its address."""
        for name, value in fields.items():
            offset, size = self.layout.structs[struct_name].fields[name]
            self.pokes.append((address + offset, size, value))
        return address

    def make(self, struct_name: str, **fields: int) -> int:
        """Allocate a structure and write some fields of it."""
        return self.poke(struct_name, self.allocate(self.layout.size(struct_name)), **fields)

    def array(self, *values: int) -> int:
        """Allocate an array of pointers."""
        address = self.allocate(8 * len(values))
        self.pokes += [(address + 8 * i, 8, value) for i, value in enumerate(values)]
        return address

    # The machine that every test starts from

    def _assemble(self) -> None:
        self.root = self.new("container")
        self.machine = self.add_child(self.root, "machine", self.new("pc-machine"))
        self.machine.ref += 1  # current_machine
        self.accel = self.new("tcg-accel")
        self.machine.fields["MachineState", "accelerator"] = self.accel.address
        self.objects_container = self.add_child(self.root, "objects", self.new("container"))
        self.peripheral = self.add_child(self.machine, "peripheral", self.new("container"))
        self.unattached = self.add_child(self.machine, "unattached", self.new("container"))
        self.sysbus = self.add_child(self.unattached, "sysbus", self.new("System"))
        self.sysbus.name = "main-system-bus"
        self.sysbus.ref += 1
        self.unassigned = self.new("memory-region", at=self.base + UNASSIGNED)
        self.host = self.add_child(self.machine, "i440fx", self.new("bridge"))
        self.plug(self.sysbus, self.host)
        self.pci = self.add_child(self.host, "pci.0", self.new("PCI"))
        self.pci.name = "pci.0"
        self.system = self.region("system", None, extent=1 << 64)
        self.io = self.region("io", None, extent=0x10000)
        self.pci_memory = self.region("pci", self.host, self.system, 0, 1 << 64)
        self.ram = self.region("pc.ram", self.machine, self.system, 0, 0x4000000)
        self.bios = self.region("bios", None, self.system, 0xFFFC0000, 0x40000)
        self.low_ram = self.region("ram-below-4g", None, self.system, 0, 0x4000000)
        self.low_ram.alias = self.ram
        self.port = self.region("pci-conf-idx", self.host, self.io, 0xCF8, 4)
        self.nic = self.device("nic0")
        self.bar = self.region("nic-bar", self.nic, self.pci_memory, 0xFEB00000)
        self.msix = self.region("msix-table", self.nic, self.bar, 0, 0x100)
        self.pba = self.region("msix-pba", self.nic, self.bar, 0x800, 0x100)
        self.serial = self.device("serial0", "core")
        self.window = self.region("serial-window", self.serial, self.io, 0x3F8, 8)
        self.irqs(self.serial, 2)
        memory = self.view(
            self.system, [self.ram, self.msix, self.pba, self.bios], [self.ram, self.msix]
        )
        ports = self.view(self.io, [self.window, self.port], [self.window, self.port])
        self.space("memory", self.system, memory, at=self.base + SPACE_MEMORY)
        self.space("I/O", self.io, ports)
        self.cached = [memory, ports]

    # Bytes

    def build(self) -> FakeTarget:
        """Return the memory of this machine as it is now."""
        return _Image(self).target()

    def snapshot(self) -> Snapshot:
        """Read this machine."""
        return take(self.build(), self.layout)[0]


class _Image:
    """Writes one machine into memory."""

    def __init__(self, machine: FakeMachine) -> None:
        self.machine = machine
        self.layout = machine.layout
        self.memory = {
            BASE: bytearray(DATA),
            BASE + DATA: bytearray(END - DATA),
            machine.heap: bytearray(RENDERED),
            machine.heap + RENDERED: bytearray(0x40000),
        }
        self._next = machine.heap + RENDERED
        self._strings: dict[str, int] = {}
        self._types()
        for obj in machine.objects:
            self._object(obj)
        self._spaces()
        self._views()
        self._rcu()
        self._ram()
        self.word(BASE + CURRENT_MACHINE, machine.machine.address)
        for address, size, value in machine.pokes:
            self.put(address, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def _find(self, address: int) -> tuple[bytearray, int]:
        for start, data in self.memory.items():
            if start <= address < start + len(data):
                return data, address - start
        raise AssertionError(f"{address:#x} is outside of the fake's memory")

    def put(self, address: int, raw: bytes) -> None:
        data, at = self._find(address)
        assert at + len(raw) <= len(data)
        data[at : at + len(raw)] = raw

    def word(self, address: int, value: int) -> None:
        self.put(address, struct.pack("<Q", value & (1 << 64) - 1))

    def fill(self, struct_name: str, address: int, **fields: int) -> None:
        """Write the fields that this layout has."""
        row = self.layout.structs.get(struct_name)
        for name, value in fields.items():
            if row is not None and name in row.fields:
                offset, size = row.fields[name]
                self.put(address + offset, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def allocate(self, size: int) -> int:
        address = self._next
        self._next += (size + 15) & ~15
        return address

    def string(self, text: str) -> int:
        if text not in self._strings:
            raw = text.encode("utf-8", "surrogateescape") + b"\0"
            self._strings[text] = self.allocate(len(raw))
            self.put(self._strings[text], raw)
        return self._strings[text]

    def table(self, rows: Mapping[int, int], hash_func: int, destroy: int) -> int:
        """A ``GHashTable``, with a tombstone where there is room for one."""
        glib = self.machine.glib
        size = 8
        while size < 2 * len(rows):
            size *= 2
        big_keys = any(key >> 32 for key in rows)
        big_values = any(value >> 32 for value in rows.values())
        same = all(key == value for key, value in rows.items())
        keys = self.allocate(size * (8 if big_keys else 4))
        values = keys if same else self.allocate(size * (8 if big_values else 4))
        hashes = self.allocate(4 * size)
        for i, (key, value) in enumerate(rows.items()):
            at = (i * 2 + 1) % size
            self.put(hashes + 4 * at, struct.pack("<I", 2 + i * 7919))
            self._entry(keys, at, key, big_keys)
            if not same:
                self._entry(values, at, value, big_values)
        self.put(hashes, struct.pack("<I", 1))
        address = self.allocate(glib.bytes)
        if glib.wide:
            self.word(address, size)
        else:
            self.put(address, struct.pack("<I", size))
        for at, number in (
            (glib.mask, size - 1),
            (glib.nnodes, len(rows)),
            (glib.noccupied, len(rows) + 1),
            (glib.flags, big_keys | big_values << 1),
            (glib.ref_count, 1),
        ):
            self.put(address + at, struct.pack("<I", number))
        for at, pointer in (
            (glib.keys, keys),
            (glib.hashes, hashes),
            (glib.values, values),
            (glib.hash_func, hash_func),
            (glib.value_destroy, destroy),
        ):
            self.word(address + at, pointer)
        return address

    def _entry(self, array: int, at: int, value: int, big: bool) -> None:
        self.put(array + at * (8 if big else 4), struct.pack("<Q" if big else "<I", value))

    def _types(self) -> None:
        machine = self.machine
        rows = {}
        for name, (parent, size) in machine.types.items():
            at, klass = machine.type_at[name], machine.class_at[name]
            rows[self.string(name)] = at
            self.fill(
                "TypeImpl",
                at,
                name=self.string(name),
                parent=self.string(parent) if parent else 0,
                parent_type=machine.type_at[parent] if parent else 0,
                instance_size=size,
                **{"class": klass},
            )
            props = [self._property("type", STRING_RELEASE, 0)] if name == "object" else []
            for link, flags, where in machine.class_links.get(name, ()):
                props.append(self._link(link, flags, where))
            self.fill("ObjectClass", klass, type=at, properties=self._properties(props))
        self.word(BASE + TYPE_TABLE, self.table(rows, STR_HASH, 0))

    def _property(self, name: str, release: int, opaque: int) -> tuple[int, int]:
        at = self.allocate(self.layout.size("ObjectProperty"))
        key = self.string(name)
        self.fill("ObjectProperty", at, name=key, release=release, opaque=opaque)
        return key, at

    def _link(self, name: str, flags: int, where: int) -> tuple[int, int]:
        at = self.allocate(self.layout.size("LinkProperty"))
        self.fill("LinkProperty", at, targetp=where, flags=flags)
        return self._property(name, LINK_RELEASE, at)

    def _properties(self, props: Iterable[tuple[int, int]]) -> int:
        return self.table(dict(props), STR_HASH, PROPERTY_FREE)

    def _object(self, obj: FakeObject) -> None:
        props = [
            self._property(name, CHILD_RELEASE, child.address)
            for name, child in obj.children.items()
        ]
        for name, (target, flags) in obj.links.items():
            where = target.address
            if not flags & LINK_DIRECT:
                where = self.allocate(8)
                self.word(where, target.address)
            props.append(self._link(name, flags, where))
        if obj.links or obj.children:
            props.append(self._property("realized", STRING_RELEASE, 0))
        if self.machine.is_a(obj, "memory-region"):
            where = obj.address + self.layout.offset("MemoryRegion", "addr")
            props.append(self._property("addr", STRING_RELEASE, where))
        self.fill(
            "Object",
            obj.address,
            free=BASE + TEXT + 0x400 if obj.heap else 0,
            properties=self._properties(props),
            ref=obj.ref,
            parent=obj.parent.address if obj.parent else 0,
            **{"class": self.machine.class_at[obj.type]},
        )
        for (name, member), value in obj.fields.items():
            self.fill(name, obj.address, **{member: value})
        is_a = self.machine.is_a
        if is_a(obj, "device"):
            self._device(obj)
        elif is_a(obj, "bus"):
            self._bus(obj)
        elif is_a(obj, "memory-region"):
            self._region(obj)
        elif obj.type == "resettable-container":
            self._resets(obj)
        elif is_a(obj, "qemu-console"):
            self._console(obj)

    def _device(self, obj: FakeObject) -> None:
        at = obj.address
        self.fill(
            "DeviceState",
            at,
            id=self.string(obj.id) if obj.id else 0,
            realized=1,
            parent_bus=obj.bus.address if obj.bus else 0,
        )
        rows = []
        for address, name, lines in obj.gpios:
            array = self.allocate(8 * len(lines))
            for i, line in enumerate(lines):
                self.word(array + 8 * i, line.address)
            rows.append(address)
            self.fill(
                "NamedGPIOList",
                address,
                name=self.string(name) if name else 0,
                num_in=len(lines),
                **{"in": array},
            )
        self._qlist("DeviceState", "gpios", at, "NamedGPIOList", rows)
        for address, name, clock, output, alias in obj.clocks:
            self.fill(
                "NamedClockList",
                address,
                name=self.string(name),
                clock=clock.address,
                output=output,
                alias=alias,
            )
        self._qlist("DeviceState", "clocks", at, "NamedClockList", [c[0] for c in obj.clocks])

    def _qlist(self, struct_name: str, member: str, at: int, of: str, rows: list[int]) -> None:
        """A ``QLIST``: the head is one pointer, a link is {next, pointer to the next before}."""
        before = at + self.layout.offset(struct_name, member)
        link = self.layout.offset(of, "node")
        self.word(before, 0)
        for row in rows:
            self.word(before, row)
            self.word(row + link, 0)
            self.word(row + link + 8, before)
            before = row + link

    def _qtailq(self, head: int, link: int, rows: list[int]) -> None:
        """A ``QTAILQ``: head and links are {next, link before}; the last is behind the head."""
        before = head
        self.word(head, 0)
        for row in rows:
            self.word(before, row)
            self.word(row + link, 0)
            self.word(row + link + 8, before)
            before = row + link
        self.word(head + 8, before)

    def _bus(self, obj: FakeObject) -> None:
        at = obj.address
        self.fill(
            "BusState",
            at,
            name=self.string(obj.name or "bus"),
            parent=obj.parent.address if obj.parent else 0,
            num_children=len(obj.kids),
        )
        self._qtailq(
            at + self.layout.offset("BusState", "children"),
            self.layout.offset("BusChild", "sibling"),
            [kid.address for kid in obj.kids],
        )
        for kid in obj.kids:
            self.fill("BusChild", kid.address, child=kid.child.address, index=kid.index)

    def _region(self, obj: FakeObject) -> None:
        at = obj.address
        self.fill(
            "MemoryRegion",
            at,
            name=self.string(obj.name) if obj.name else 0,
            owner=obj.owner.address if obj.owner else 0,
            container=obj.container.address if obj.container else 0,
            alias=obj.alias.address if obj.alias else 0,
            addr=obj.addr,
            size=obj.extent,
            enabled=1,
            terminates=not obj.subregions,
        )
        for (name, member), value in obj.fields.items():
            self.fill(name, at, **{member: value})
        self._qtailq(
            at + self.layout.offset("MemoryRegion", "subregions"),
            self.layout.offset("MemoryRegion", "subregions_link"),
            [sub.address for sub in obj.subregions],
        )

    def _resets(self, obj: FakeObject) -> None:
        array = self.allocate(16)
        data = self.allocate(8 * max(1, len(obj.resets)))
        self.word(array, data)
        self.put(array + 8, struct.pack("<I", len(obj.resets)))
        for i, reset in enumerate(obj.resets):
            self.word(data + 8 * i, reset.address)
        self.fill("ResettableContainer", obj.address, children=array)

    def _console(self, obj: FakeObject) -> None:
        consoles = [c.address for c in self.machine.consoles]
        if obj is self.machine.consoles[0]:
            link = self.layout.offset("QemuConsole", "next")
            self._qtailq(BASE + CONSOLES, link, consoles)

    def _spaces(self) -> None:
        spaces = self.machine.spaces
        for space in [*spaces, *self.machine.dead_spaces]:
            self.fill(
                "AddressSpace",
                space.address,
                name=self.string(space.name),
                root=space.root.address,
                current_map=space.view.address,
            )
            if space not in spaces:
                continue
            self._qtailq(
                space.address + self.layout.offset("AddressSpace", "listeners"),
                self.layout.offset("MemoryListener", "link_as"),
                [at for at, _ in space.listeners],
            )
            for at, name in space.listeners:
                self.fill("MemoryListener", at, name=self.string(name), address_space=space.address)
        self._qtailq(
            BASE + SPACES,
            self.layout.offset("AddressSpace", "address_spaces_link"),
            [space.address for space in spaces],
        )

    def _views(self) -> None:
        layout = self.layout
        for view in self.machine.views:
            ranges = self.allocate(layout.size("FlatRange") * max(1, len(view.ranges)))
            start = 0
            for i, region in enumerate(view.ranges):
                at = ranges + i * layout.size("FlatRange")
                self.fill("FlatRange", at, mr=region.address, addr=start | region.extent << 128)
                start += region.extent
            sections = self.allocate(layout.size("MemoryRegionSection") * len(view.sections))
            for i, region in enumerate(view.sections):
                at = sections + i * layout.size("MemoryRegionSection")
                self.fill("MemoryRegionSection", at, mr=region.address, fv=view.address)
            dispatch = self.allocate(layout.size("AddressSpaceDispatch"))
            self.fill(
                "PhysPageMap",
                dispatch + layout.offset("AddressSpaceDispatch", "map"),
                sections_nb=len(view.sections),
                sections=sections,
            )
            self.fill(
                "FlatView",
                view.address,
                ref=view.ref,
                ranges=ranges,
                nr=len(view.ranges),
                nr_allocated=len(view.ranges),
                dispatch=dispatch,
                root=view.root.address,
            )
        rows = {view.root.address: view.address for view in self.machine.cached}
        self.word(BASE + FLAT_VIEWS, self.table(rows, DIRECT_HASH, RCU_FREE))

    def _rcu(self) -> None:
        """``xchg %rax,tail(%rip)`` in the code, the queue behind the dummy node in the data."""
        rest = BASE + RCU_TAIL - (BASE + CALL_RCU1 + 0x17)
        code = b"\x48\x89\x77\x08\x48\xc7\x07\0\0\0\0\x48\x89\xf8\x90\x90"
        self.put(BASE + CALL_RCU1, code + b"\x48\x87\x05" + struct.pack("<i", rest) + b"\xc3")
        nodes = [BASE + RCU_DUMMY, *self.machine.pending]
        for node, after in zip(nodes, [*nodes[1:], 0]):
            self.fill("rcu_head", node, next=after, func=RCU_FREE)
        for kid in self.machine.dead_kids:
            self.fill("BusChild", kid.address, child=kid.child.address, index=kid.index)
        self.word(BASE + RCU_HEAD, nodes[0])
        at_next = self.layout.offset("rcu_head", "next")
        self.word(BASE + RCU_TAIL, nodes[-1] + at_next)

    def _ram(self) -> None:
        """One block of guest memory; a guest may write there whatever it likes."""
        block = self.allocate(self.layout.size("RAMBlock"))
        self.fill("RAMBlock", block, host=GUEST, max_length=GUEST_SIZE, used_length=GUEST_SIZE)
        self.fill("RAMBlock", block, mr=self.machine.ram.address)
        self.put(block + self.layout.offset("RAMBlock", "idstr"), b"pc.ram\0")
        self.word(BASE + RAM_LIST + self.layout.offset("RAMList", "blocks"), block)
        fake = struct.pack("<QQQI", self.machine.class_at["nic"], 0, 0, 3)
        self.memory[GUEST] = bytearray(fake.ljust(GUEST_SIZE, b"\0"))

    def target(self) -> FakeTarget:
        return FakeTarget(self.memory, self.machine.symbols, self.layout)


class FakeTarget:
    """A target whose memory is bytes."""

    kind = "process"
    pid = 4242
    exe = "/usr/bin/qemu-system-fake"

    def __init__(
        self, memory: Mapping[int, bytearray], symbols: Mapping[str, int], layout: Layout
    ) -> None:
        self.argv = [self.exe, "-machine", "pc"]
        self.memory = dict(memory)
        self.layout = layout
        self._elf = ElfFile(elf_file(symbols), self.exe)

    def corrupt(self, address: int, raw: bytes) -> FakeTarget:
        """Return the same target with other bytes at ``address``."""
        memory = {start: bytearray(data) for start, data in self.memory.items()}
        for start, data in memory.items():
            if start <= address and address + len(raw) <= start + len(data):
                data[address - start : address - start + len(raw)] = raw
                break
        else:
            raise AssertionError(f"{address:#x} is outside of the fake's memory")
        out = FakeTarget.__new__(FakeTarget)
        out.__dict__.update(self.__dict__, memory=memory)
        return out

    def field(self, struct_name: str, name: str, address: int) -> int:
        """Return the address of a field of the structure at ``address``."""
        return address + self.layout.offset(struct_name, name)

    def set(self, struct_name: str, name: str, address: int, value: int) -> FakeTarget:
        """As :meth:`corrupt`, for a field of a structure."""
        offset, size = self.layout.structs[struct_name].fields[name]
        raw = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        return self.corrupt(address + offset, raw)

    def u64(self, address: int) -> int:
        """Return the word at ``address``."""
        raw = self.peek(address, 8)
        assert raw is not None
        return int.from_bytes(raw, "little")

    def elf(self) -> ElfFile:
        """Return the program's ELF file."""
        return self._elf

    def base(self) -> int:
        """Return the load address."""
        return BASE

    def program(self) -> str:
        """There is no file."""
        return self.exe

    def mappings(self) -> list[Mapped]:
        """Return the mappings, lowest first."""
        out = []
        for start, data in sorted(self.memory.items()):
            perms = "r-xp" if start == BASE else "rw-p"
            out.append(Mapped(start, start + len(data), perms, 0, ""))
        return out

    def peek(self, address: int, size: int) -> bytes | None:
        """Read anything."""
        for start, data in self.memory.items():
            if start <= address and address + size <= start + len(data):
                return bytes(data[address - start : address - start + size])
        return None

    def capture(self, ranges: list[tuple[int, int]]) -> tuple[Image, Capture]:
        """Return what lies in ``ranges``."""
        segments = []
        for at, size in ranges:
            for start, data in self.memory.items():
                low, high = max(at, start), min(at + size, start + len(data))
                if low < high:
                    segments.append((low, bytes(data[low - start : high - start])))
        image = Image(segments, static=self.peek)
        return image, Capture(0, 0, len(segments), image.size, 0, True)

    def close(self) -> None:
        """Nothing is open."""


def elf_file(
    symbols: Mapping[str, int],
    version: str = "10.0.13 (fake)",
    build_id: bytes = b"\xfa\xce" * 10,
) -> bytes:
    """Return a small position-independent program that exports ``symbols``."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in symbols)
    rows = [struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)]
    at = 1
    for name, value in symbols.items():
        rows.append(struct.pack("<IBBHQQ", at, 0x11, 0, 1, value, 8))
        at += len(name) + 1
    table = b"".join(rows)
    note = struct.pack("<III", 4, len(build_id), 3) + b"GNU\0" + build_id
    text = f"QEMU emulator version {version}\0".encode()
    body, places = bytearray(), []
    start = 64 + 3 * 56
    for part in (note, text, table, names):
        body += b"\0" * (-len(body) % 16)
        places.append((start + len(body), len(part)))
        body += part
    body += b"\0" * (-len(body) % 16)
    sections = [(0, 0, 0, 0, 0), (1, 11, *places[2], 2), (2, 3, *places[3], 0)]
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\2\1\1".ljust(16, b"\0"),
        3, 62, 1, TEXT, 64, start + len(body), 0, 64, 56, 3, 64, len(sections), 0,
    )  # fmt: skip
    programs = b"".join(
        struct.pack("<IIQQQQQQ", *row)
        for row in (
            (1, 5, 0, 0, 0, DATA, DATA, 4096),
            (1, 6, 0, DATA, DATA, BSS - DATA, END - DATA, 4096),
            (4, 4, places[0][0], places[0][0], 0, places[0][1], places[0][1], 4),
        )
    )
    tail = b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, link, 0, 8, 24)
        for name, kind, offset, size, link in sections
    )
    return header + programs + bytes(body) + tail


def shifted(layout: Layout, name: str, by: int = 8) -> Layout:
    """Return a layout in which the fields of one structure have moved."""
    row = layout.structs[name]
    fields = {k: (offset + by, size) for k, (offset, size) in row.fields.items()}
    structs = {**layout.structs, name: row._replace(size=row.size + by, fields=fields)}
    return layout._replace(source="shifted", structs=structs)


def books(snapshot: Snapshot) -> Iterator[tuple[Policy, Book]]:
    """Yield the books of a snapshot under each policy."""
    index = Index(snapshot)
    for policy in POLICIES:
        yield policy, open_book(index, policy)
