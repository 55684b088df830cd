"""Which structures and fields qmr reads
-------------------------------------

One table, used by everything that makes layouts: what the object model, devices and
memory rest on is written here, the rest follows from the declared references.  A
field that a QEMU lacks is simply absent from its layout: what has such a field is told
apart by that, not by a version number.
"""

from __future__ import annotations

from ..references import HOLDERS, Variable, schema

__all__ = ["ABI", "REQUIRED", "SCHEMA", "SYMBOLS"]

_CORE: dict[str, str] = {
    # QOM: include/qom/object.h, qom/object.c
    "Object": "class free properties ref parent",
    "ObjectClass": "type properties unparent",
    "TypeImpl": (
        "name class_size instance_size parent parent_type class abstract class_init "
        "class_base_init instance_init instance_post_init instance_finalize"
    ),
    "ObjectProperty": "name type release opaque",
    "LinkProperty": "targetp flags",
    # qdev: include/hw/qdev-core.h, include/hw/qdev-clock.h
    "DeviceState": (
        "id realized pending_deleted_event hotplugged parent_bus gpios clocks child_bus"
    ),
    "BusState": "parent name num_children children sibling",
    # methods that call stacks are named by: include/hw/qdev-core.h, hw/pci/pci_device.h, hw/usb.h,
    # hw/scsi/scsi.h, hw/virtio/virtio.h, virtio-pci.h
    "DeviceClass": "reset realize unrealize",
    "PCIDeviceClass": "realize exit",
    "USBDeviceClass": "realize unrealize",
    "SCSIDeviceClass": "realize unrealize",
    "VirtioDeviceClass": "realize unrealize",
    "VirtioPCIClass": "realize",
    "VirtIOSerialPortClass": "realize unrealize",
    "BusChild": "child index sibling",
    "NamedGPIOList": "name in num_in num_out node",
    "NamedClockList": "name clock output alias node",
    # memory: include/exec/memory.h, system/memory.c, system/physmem.c
    "MemoryRegion": (
        "owner container mapped_via_alias size addr enabled alias alias_offset priority "
        "subregions subregions_link name ram rom_device readonly subpage terminates ram_block "
        "opaque dev ioeventfds ioeventfd_nb"
    ),
    "MemoryRegionIoeventfd": "e",
    "AddressSpace": "name root current_map listeners address_spaces_link",
    "FlatView": "rcu ref ranges nr nr_allocated dispatch root",
    "FlatRange": "mr offset_in_region addr",
    "AddressSpaceDispatch": "map",
    "PhysPageMap": "sections_nb sections",
    "MemoryRegionSection": "size mr fv offset_within_address_space",
    "subpage_t": "iomem fv base",
    "MemoryListener": "name address_space link_as",
    "RAMList": "blocks",
    "RAMBlock": "mr host max_length used_length idstr next",
    "MemoryRegionPortioList": "mr",
    "PortioList": "regions nr",
    "rcu_head": "next func",
    # The size of a SCSI device is checked: include/hw/scsi/scsi.h
    "SCSIDevice": "requests",
    "MachineState": "memdev",
    "IRQState": "handler opaque n",
    # what a moment is told by: include/system/iothread.h, include/block/aio.h
    "IOThread": "ctx running",
    "AioContext": "notify_me",
    # an unplug that waits for the guest: include/hw/acpi/memory_hotplug.h, cpu.h,
    # include/hw/pci/shpc.h
    "PCIDevice": "devfn shpc",
    "SHPCDevice": "config",
    "MemHotplugState": "io dev_count devs",
    "MemStatus": "dimm is_removing",
    "CPUHotplugState": "ctrl_reg dev_count devs",
    "AcpiCpuStatus": "cpu is_removing",
    # what is no object and has a name: include/block/block_int-common.h, qemu/job.h, net/net.h,
    # block/block-backend.c, chardev/char.h
    "BlockDriverState": "node_name parents",
    "BdrvChild": "bs name opaque next_parent",
    "BlockBackend": "name root dev",
    "Job": "id",
    # what counts nothing and is followed: include/hw/pci/pci_bus.h, include/system/rng.h,
    # include/system/memory.h
    "PCIBus": "child sibling",
    "RngBackend": "requests",
    "IOMMUMemoryRegion": "iommu_notify",
    "NetClientState": "info peer model name",
    "NICState": "ncs peer_deleted",
    "Chardev": "be fe label",
    "CharBackend": "opaque",
    "CharFrontend": "opaque",
}


def _whole() -> dict[str, str]:
    out = {struct: fields.split() for struct, fields in _CORE.items()}
    for struct, names in schema().items():
        known = out.setdefault(struct, [])
        known += [name for name in names if name not in known]
    return {struct: " ".join(fields) for struct, fields in out.items()}


#: The fields that are read, by structure.
SCHEMA: dict[str, str] = _whole()

# What the platform's ABI and GLib fix for every QEMU: (size, {field: (offset, size)}).
ABI: dict[str, tuple[int, dict[str, tuple[int, int]]]] = {
    "iovec": (16, {"iov_base": (0, 8), "iov_len": (8, 8)}),
    "_GPtrArray": (16, {"pdata": (0, 8), "len": (8, 4)}),
}

# Without these no walk can start.
REQUIRED: dict[str, str] = {
    "Object": "class free properties ref parent",
    "ObjectClass": "type properties",
    "TypeImpl": "name instance_size parent parent_type class",
    "ObjectProperty": "name type release opaque",
    "LinkProperty": "targetp flags",
    "DeviceState": "parent_bus id",
    "BusState": "children parent name",
    "BusChild": "child sibling",
    "MemoryRegion": "owner container alias size addr subregions subregions_link name",
    "AddressSpace": "name root current_map address_spaces_link",
    "FlatView": "ref ranges nr dispatch root",
    "FlatRange": "mr addr",
    "PhysPageMap": "sections_nb sections",
    "AddressSpaceDispatch": "map",
    "MemoryRegionSection": "mr",
}

# Global data that a stripped QEMU exports, and static data that one with a symbol
# table names as well.  A walk needs the first two; the rest names holders.
SYMBOLS = (
    *"current_machine address_space_memory ram_list call_rcu1 bounce".split(),
    *"memory_region_transaction_begin memory_region_transaction_depth".split(),
    *"qemu_mutex_unlock_iothread bql_unlock qemu_global_mutex bql".split(),
    *(h.start.name for h in HOLDERS if isinstance(h.start, Variable)),
)
