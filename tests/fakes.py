"""Fake QEMUs
----------

A small machine built from bytes: a model of the objects, which counts references
as QEMU does under each policy, and the memory image that a QEMU with these objects
and a given layout would have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fakeimage import LINK_CLASS, LINK_STRONG, FakeImage
from fakemodel import FakeKid, FakeObject, FakeSpace, FakeView
from faketarget import (
    BASE,
    CALL_RCU1,
    CURRENT_MACHINE,
    HEAP,
    LOW_HEAP,
    RAM_LIST,
    RENDERED,
    SPACE_MEMORY,
    UNASSIGNED,
    FakeTarget,
)

from qmrinspect.index import Index
from qmrinspect.layout import Layout, Struct, load
from qmrinspect.layout.find import profiles
from qmrinspect.ledger import POLICIES, Book, Policy, open_book
from qmrinspect.ledger.policies import by_name
from qmrinspect.records.glib import HASH_VARIANTS, HashVariant
from qmrinspect.snapshot import Snapshot
from qmrinspect.walk import take

__all__ = [
    "LAYOUTS",
    "FakeMachine",
    "FakeObject",
    "books",
    "shifted",
]

LAYOUTS = {path.stem: load(path, f"profile:{path.stem}") for path in profiles()}
NEWEST = LAYOUTS["10.0.13"]

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
            if self.policy.finalizing.leaves and obj.container is not None:
                assert obj.container.owner is obj.owner
                self.del_subregion(obj)
            assert obj.container is None, "a region in a container is finalized"
            assert self.policy.name != "strict" or not obj.subregions
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
        index = 1 + max((kid.index for kid in bus.kids), default=-1)
        kid = FakeKid(self.allocate(self.layout.size("BusChild")), device, index)
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
        return FakeImage(self).target()

    def snapshot(self) -> Snapshot:
        """Read this machine."""
        return take(self.build(), self.layout)[0]


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
