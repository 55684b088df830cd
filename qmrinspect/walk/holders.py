"""Fields that hold an object's first reference
--------------------------------------------

``object_new`` returns an object with one reference.  Most are handed to a child
property; the others stay with a field, and here these fields are read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from ..snapshot import Obj, Slot
from ..target.image import Unreadable
from .context import LIST_MAX, Context
from .scan import find_words

__all__ = ["read_slots"]

# Variables that keep what object_new gave them, with the type they point to.
_VARIABLES = {
    "current_machine": "machine",
    "main_system_bus": "System",
    "root": "container",
    "internal_root": "container",
    "root_reset_container": "resettable-container",
    "current_migration": "migration",
    "instance": "qio-dns-resolver",
}

_FUNCTIONS_MAX = 256  # of one device, PCIE_SRIOV's TotalVFs in QEMU
_ISA_IRQS = 16  # ISA_NUM_IRQS, include/hw/isa/isa.h
_PORTIO_MAX = 32  # the longest list in QEMU, VGA's, has 5 ranges
_DEVICE_MAX = 1 << 20  # bytes of a device that are looked at
_NODES_MAX = 128  # MAX_NODES, include/sysemu/numa.h


def read_slots(context: Context, objects: Mapping[int, Obj]) -> Iterator[Slot]:
    """Yield the pointers of all known fields of this sort."""
    yield from _variables(context, objects)
    for address, obj in objects.items():
        try:
            if context.is_a(obj.type, "machine"):
                yield from _numa(context, address)
                yield from _pic(context, address, objects)
            elif context.is_a(obj.type, "pci-device"):
                yield from _functions(context, address, objects)
            elif obj.type == "throttle-group":
                yield from _throttle(context, address)
            elif context.is_a(obj.type, "scsi-device"):
                yield from _requests(context, address, objects)
            elif obj.type == "resettable-container":
                yield from _reset(context, address)
        except Unreadable:
            context.note(address, f"a holder of type {obj.type} cannot be read")
    yield from _consoles(context, objects)
    yield from _portio(context, objects)


def _variables(context: Context, objects: Mapping[int, Obj]) -> Iterator[Slot]:
    for name, type_name in _VARIABLES.items():
        for variable in context.statics.symbols.get(name, ()):
            try:
                value = context.image.u64(variable)
            except Unreadable:
                continue
            obj = objects.get(value)
            if obj is not None and context.is_a(obj.type, type_name):
                yield Slot("initial", 0, name, value)
    for variable in context.statics.symbols.get("io_mem_unassigned", ()):
        if variable in objects:
            yield Slot("initial", 0, "io_mem_unassigned", variable)


def _numa(context: Context, machine: int) -> Iterator[Slot]:
    """The memory backends of NUMA nodes (hw/core/numa.c parse_numa_node), never let go."""
    layout, image = context.layout, context.image
    if not layout.has("NodeInfo", "node_memdev") or not layout.has("MachineState", "numa_state"):
        return
    state = image.u64(machine + layout.offset("MachineState", "numa_state"))
    if not state:
        return
    count = image.u32(state + layout.offset("NumaState", "num_nodes"))
    for i in range(min(count, _NODES_MAX)):
        node = state + layout.offset("NumaState", "nodes") + i * layout.size("NodeInfo")
        backend = image.u64(node + layout.offset("NodeInfo", "node_memdev"))
        if backend:
            yield Slot("numa-node", machine, f"NumaState.nodes[{i}].node_memdev", backend)


def _functions(context: Context, device: int, objects: Mapping[int, Obj]) -> Iterator[Slot]:
    """The virtual functions that a physical one made (hw/pci/pcie_sriov.c register_vfs)."""
    layout, image = context.layout, context.image
    if not layout.has("PCIESriovPF", "vf") or not layout.has("PCIDevice", "exp"):
        return
    express = layout.offset("PCIDevice", "exp")
    at_vf = (
        express + layout.offset("PCIExpressDevice", "sriov_pf") + layout.offset("PCIESriovPF", "vf")
    )
    at_pf = (
        express + layout.offset("PCIExpressDevice", "sriov_vf") + layout.offset("PCIESriovVF", "pf")
    )
    array = image.u64(device + at_vf)
    for i in range(_FUNCTIONS_MAX if array else 0):
        function = image.u64(array + 8 * i)
        # The array's length is in config space; its end is where a pointer is no VF's.
        if function not in objects or image.u64(function + at_pf) != device:
            return
        yield Slot("initial", device, f"PCIESriovPF.vf[{i}]", function)


def _throttle(context: Context, group: int) -> Iterator[Slot]:
    """The members of a throttle group, each with a reference on it.

    The first member of a group without an object of its own got the one that came
    with object_new (block/throttle-groups.c throttle_group_incref).
    """
    layout = context.layout
    if not layout.has("ThrottleGroup", "head"):
        return
    first = context.image.u64(group + layout.offset("ThrottleGroup", "head"))
    link = layout.offset("ThrottleGroupMember", "round_robin")
    for member in context.queue(first, link, "throttle group members"):
        yield Slot("throttle-member", member, "ThrottleGroupMember.throttle_state", group)


def _requests(context: Context, device: int, objects: Mapping[int, Obj]) -> Iterator[Slot]:
    """The requests of a SCSI device hold it and its bus's device (scsi_req_alloc)."""
    layout = context.layout
    if not layout.has("SCSIDevice", "requests") or not layout.has("SCSIRequest", "next"):
        return
    first = context.image.u64(device + layout.offset("SCSIDevice", "requests"))
    parent = layout.offset("BusState", "parent")
    for request in context.queue(first, layout.offset("SCSIRequest", "next"), "SCSI requests"):
        yield Slot("scsi-request", request, "SCSIRequest.dev", device)
        bus = context.image.u64(request + layout.offset("SCSIRequest", "bus"))
        if bus in objects:
            adapter = context.image.u64(bus + parent)
            yield Slot("scsi-request", request, "SCSIRequest.bus->qbus.parent", adapter)


def _reset(context: Context, container: int) -> Iterator[Slot]:
    """The ``GPtrArray`` of a ``ResettableContainer`` (hw/core/resetcontainer.c)."""
    if not context.layout.has("ResettableContainer", "children"):
        return
    array = context.image.u64(container + context.layout.offset("ResettableContainer", "children"))
    data, count = context.image.u64(array), context.image.u32(array + 8)
    if count > LIST_MAX:
        context.note(container, f"a reset container claims {count} children")
        return
    for i in range(count):
        yield Slot(
            "reset",
            container,
            f"ResettableContainer.children[{i}]",
            context.image.u64(data + 8 * i),
        )


def _portio(context: Context, objects: Mapping[int, Obj]) -> Iterator[Slot]:
    """The ranges of I/O ports (system/ioport.c portio_list_add_1), objects since 8.0.

    Each holds the region inside itself; it is held by the array of a ``PortioList``,
    which has the region's address.  The list is part of the device that the region is
    a child of, or of a bus, mostly.
    """
    layout = context.layout
    if not layout.has("MemoryRegionPortioList", "mr"):
        return
    at_mr = layout.offset("MemoryRegionPortioList", "mr")
    ranges = {a + at_mr: a for a, o in objects.items() if o.type == "memory-region-portio-list"}
    for region, portio in ranges.items():
        yield Slot("portio-region", portio, "MemoryRegionPortioList.mr", region)
    if not layout.has("PortioList", "regions"):
        return
    homes = {objects[region].parent for region in ranges if region in objects}
    homes |= {a for a, o in objects.items() if ranges and context.is_a(o.type, "bus")}
    # A bus may be part of the device, and the list is in both then.
    found: dict[int, Sequence[int]] = {}
    for start in homes & objects.keys():
        found.update(_portio_lists(context, _words(context, objects[start]), ranges))
    missing = ranges.keys() - {region for members in found.values() for region in members}
    if missing:
        # An array begins with one of them.
        arrays = {word for word, _ in find_words(context.image, missing)}
        found.update(_portio_lists(context, find_words(context.image, arrays), missing))
    for start, members in sorted(found.items()):
        for i, region in enumerate(members):
            yield Slot("initial", start, f"PortioList.regions[{i}]", ranges[region])


def _words(context: Context, obj: Obj) -> Iterator[tuple[int, int]]:
    """Yield (address, word) for the words of an object that may be pointers."""
    size = min(context.types[obj.type].size, _DEVICE_MAX)
    try:
        words = context.image.words(obj.address, size // 8)
    except Unreadable:
        return
    for index, word in enumerate(words):
        if 0x1000 < word < 1 << 47 and not word & 7:
            yield obj.address + 8 * index, word


def _portio_lists(
    context: Context, words: Iterable[tuple[int, int]], ranges: Collection[int]
) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield each ``PortioList`` of which a word is the pointer to its regions, with those."""
    layout, image = context.layout, context.image
    at_regions, at_count = layout.offset("PortioList", "regions"), layout.offset("PortioList", "nr")
    for word, array in words:
        start = word - at_regions
        try:
            count = image.u32(start + at_count)
            # A list has all its regions, and each of them is a range's.
            if 0 < count <= _PORTIO_MAX and image.u64(array) in ranges:
                members = image.words(array, count)
                if all(region in ranges for region in members):
                    yield start, members
        except Unreadable:
            continue


def _pic(context: Context, machine: int, objects: Mapping[int, Obj]) -> Iterator[Slot]:
    """The vector that KVM's i8259 returned (hw/i386/kvm/i8259.c), kept by ``GSIState``.

    The state is what the machine's own lines were allocated with.
    """
    layout, image = context.layout, context.image
    if not context.is_a(objects[machine].type, "x86-machine"):
        return
    if not layout.has("X86MachineState", "gsi") or not layout.has("GSIState", "i8259_irq"):
        return
    lines = image.u64(machine + layout.offset("X86MachineState", "gsi"))
    line = image.u64(lines) if lines else 0
    if line not in objects:
        return
    state = image.u64(line + layout.offset("IRQState", "opaque"))
    for i in range(_ISA_IRQS if state else 0):
        irq = image.u64(state + layout.offset("GSIState", "i8259_irq") + 8 * i)
        if irq in objects and objects[irq].type == "irq":
            yield Slot("initial", state, f"GSIState.i8259_irq[{i}]", irq)


def _consoles(context: Context, objects: Mapping[int, Obj]) -> Iterator[Slot]:
    """The consoles on the static list ``consoles`` (ui/console.c).

    Every console's link leads back to the list's head, which is a variable.
    """
    if not context.layout.has("QemuConsole", "next"):
        return
    link = context.layout.offset("QemuConsole", "next")
    low, high = context.statics.data
    for address, obj in objects.items():
        if not context.is_a(obj.type, "qemu-console"):
            continue
        try:
            before = context.image.u64(address + link + 8)
            if context.image.u64(before) != address:
                continue
        except Unreadable:
            context.note(address, "a console's link cannot be read")
            continue
        if low <= before < high:
            yield Slot("initial", 0, "consoles", address)
        else:
            yield Slot("initial", before - link, "QemuConsole.next", address)
