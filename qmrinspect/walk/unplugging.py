"""Unplugs that wait
-----------------

Devices that were asked to go, and that the guest has not released yet: by which way it was
asked.  A PCI device says so itself; of a memory module, a CPU and what is on a bridge with a
Standard Hot-Plug Controller the controller knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..records.context import LIST_MAX, Context
from ..snapshot import Bus, Device, FieldReference, Obj, Prop, Region, Unplugging
from ..target.image import Unreadable

__all__ = ["ARRAYS", "read_unplugging"]

# SHPC_SLOT_EVENT_LATCH, SHPC_SLOT_EVENT_BUTTON, SHPC_PCI_TO_IDX (hw/pci/shpc.c).
_LATCHES, _LATCH_SIZE, _BUTTON, _FIRST_SLOT = 0x26, 4, 0x04, 1

# What qemu_register_reset() makes since 9.1 (hw/core/reset.c), and how many words of one count.
_LEGACY_RESET, _WORDS_MAX = "legacy-reset", 32
# How deep in a device a part of it may be.
_DEEP_MAX = 32

# By the name of a region: the structure around it, its field for that, what its array is
# of, and who is in each (hw/acpi/memory_hotplug.c, hw/acpi/cpu.c).
ARRAYS = {
    "acpi-mem-hotplug": ("dimm", "MemHotplugState", "io", "MemStatus", "dimm"),
    "acpi-cpu-hotplug": ("cpu", "CPUHotplugState", "ctrl_reg", "AcpiCpuStatus", "cpu"),
}


def read_unplugging(
    context: Context,
    objects: Mapping[int, Obj],
    devices: Mapping[int, Device],
    buses: Mapping[int, Bus],
    regions: Mapping[int, Region],
    props: Sequence[Prop],
    fields: Sequence[FieldReference],
) -> Iterator[Unplugging]:
    """Yield the devices that wait for the guest, one row for each."""
    handlers = {p.holder: p.target for p in props if p.name == "hotplug-handler"}
    found: dict[int, Unplugging] = {}
    for device in devices.values():
        # Its flag is set for good when it is unrealized.
        if device.pending_deleted and device.realized and objects[device.address].parent:
            handler = handlers.get(device.parent_bus, 0)
            kind = objects[handler].type if handler in objects else ""
            way = "pcie-button" if context.is_a(kind, "pcie-slot") else "acpi-pci"
            found[device.address] = Unplugging(device.address, way, handler)
    for region in regions.values():
        if region.name in ARRAYS:
            for row in _attempted(context, _in_array(context, region)):
                found.setdefault(row.device, row)
    for bus in buses.values():
        bridge = objects.get(bus.parent)
        if bus.children and bridge is not None and context.is_a(bridge.type, "pci-device"):
            for row in _attempted(context, _by_button(context, bus)):
                found.setdefault(row.device, row)
    resets = [field.target for field in fields if field.kind == "reset"] if found else []
    for row in found.values():
        if row.device in devices:
            try:
                yield row._replace(reset=_reset_of(context, objects, resets, row.device))
            except Unreadable as error:
                context.note(error.args[0], "an entry of the container of resets cannot be read")
                yield row


def _reset_of(
    context: Context, objects: Mapping[int, Obj], resets: Sequence[int], device: int
) -> int:
    """Return which entry of the container of resets is the device's or a part's of it."""
    parts: dict[int, int] = {}
    for address, obj in objects.items():
        line = [address]
        while line[-1] != device and line[-1] in objects and len(line) < _DEEP_MAX:
            line.append(objects[line[-1]].parent)
        if line[-1] == device:
            parts[address] = address + context.types[obj.type].size
    for entry in resets:
        if entry in parts:
            return entry
        if entry not in objects or objects[entry].type != _LEGACY_RESET:
            continue
        # func and opaque end the object (hw/core/reset.c); its first word is its class.
        count = min(context.types[_LEGACY_RESET].size // 8, _WORDS_MAX)
        words = context.image.words(entry, count)[1:]
        if any(part <= word < end for word in words for part, end in parts.items()):
            return entry
    return 0


def _attempted(context: Context, rows: Iterator[Unplugging]) -> Iterator[Unplugging]:
    try:
        yield from rows
    except Unreadable as error:
        context.note(error.args[0], "the state of an unplug cannot be read")


def _in_array(context: Context, region: Region) -> Iterator[Unplugging]:
    way, outer, field, inner, who = ARRAYS[region.name]
    layout, image = context.layout, context.image
    needed = [(outer, name) for name in (field, "dev_count", "devs")]
    needed += [(inner, who), (inner, "is_removing"), ("MemoryRegion", "opaque")]
    if not all(layout.has(*pair) for pair in needed):
        return
    start = region.address - layout.offset(outer, field)
    # The registers for CPUs of old have the same name, and are in another structure.
    if image.u64(region.address + layout.offset("MemoryRegion", "opaque")) != start:
        return
    state = context.record(outer, start)
    count, array = state["dev_count"], state["devs"]
    if not array or count > LIST_MAX:
        return
    for k in range(count):
        row = context.record(inner, array + k * layout.size(inner))
        if row[who] and row["is_removing"] & 1:
            yield Unplugging(row[who], way, region.owner)


def _by_button(context: Context, bus: Bus) -> Iterator[Unplugging]:
    layout, image = context.layout, context.image
    needed = [("PCIDevice", "shpc"), ("PCIDevice", "devfn"), ("SHPCDevice", "config")]
    if not all(layout.has(*pair) for pair in needed):
        return
    controller = image.u64(bus.parent + layout.offset("PCIDevice", "shpc"))
    if not controller:
        return
    registers = image.u64(controller + layout.offset("SHPCDevice", "config"))
    for child in bus.children:
        slot = image.u32(child.child + layout.offset("PCIDevice", "devfn")) >> 3
        latch = registers + _LATCHES + _LATCH_SIZE * (slot - _FIRST_SLOT)
        if slot >= _FIRST_SLOT and image.read(latch, 1)[0] & _BUTTON:
            yield Unplugging(child.child, "shpc", bus.parent)
