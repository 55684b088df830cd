"""Which structures and fields qmr reads
-------------------------------------

One table, used by everything that makes layouts.  A field that a QEMU lacks is
simply absent from its layout: what has such a field is told apart by that, not
by a version number.  A dotted name reaches into a nested structure.
"""

from __future__ import annotations

__all__ = ["REQUIRED", "SCHEMA", "SYMBOLS"]

SCHEMA: dict[str, str] = {
    # QOM: include/qom/object.h, qom/object.c
    "Object": "class free properties ref parent",
    "ObjectClass": "type properties unparent",
    "TypeImpl": "name class_size instance_size parent parent_type class abstract",
    "ObjectProperty": "name type release opaque",
    "LinkProperty": "targetp flags",
    # qdev: include/hw/qdev-core.h, include/hw/qdev-clock.h
    "DeviceState": (
        "id realized pending_deleted_event hotplugged parent_bus gpios clocks child_bus"
    ),
    "BusState": "parent name num_children children sibling",
    "BusChild": "child index sibling",
    "NamedGPIOList": "name in num_in num_out node",
    "NamedClockList": "name clock output alias node",
    # memory: include/exec/memory.h, system/memory.c, system/physmem.c
    "MemoryRegion": (
        "owner container mapped_via_alias size addr enabled alias alias_offset priority "
        "subregions subregions_link name ram rom_device readonly subpage terminates ram_block "
        "opaque dev"
    ),
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
    # machine: include/hw/boards.h, include/hw/i386/x86.h, include/sysemu/numa.h
    "MachineState": "accelerator memdev numa_state",
    "X86MachineState": "gsi acpi_dev",
    "NumaState": "num_nodes nodes",
    "NodeInfo": "node_memdev",
    "AMDVIState": "pci",
    "ResettableContainer": "children",
    "QemuConsole": "next",
    # character devices and I/O channels: chardev/, include/io/
    "SocketChardev": "ioc sioc listener tls_creds connect_task",
    "FDChardev": "ioc_in ioc_out",
    "PtyChardev": "ioc",
    "UdpChardev": "ioc",
    "QIOTask": "source",
    "QIOChannelTLS": "master",
    "QIOChannelWebsock": "master",
    "QIONetListener": "sioc io_source nsioc",
    "QIOChannelFDSource": "ioc fd",
    "QIOChannelTLSSource": "tioc",
    "QIOChannelWebsockSource": "wioc",
    "QIOChannelBufferSource": "bioc",
    "VncState": "sioc ioc next",
    "VncDisplay": "listener wslistener tlscreds next",
    "NBDClient": "sioc ioc next",
    "TPMBackend": "tpmif",
    "NetStreamState": "nc listener listen_ioc ioc",
    "NetClientState": "info next",
    "NetClientInfo": "size",
    # SR-IOV: include/hw/pci/pcie_sriov.h
    "PCIDevice": "devfn exp",
    "PCIExpressDevice": "sriov_pf sriov_vf",
    "PCIESriovPF": "vf",
    "PCIESriovVF": "pf",
    # block: block/throttle-groups.c, include/block/throttle-groups.h, include/hw/scsi/scsi.h
    "ThrottleGroup": "ts head",
    "ThrottleGroupMember": "throttle_state round_robin",
    "SCSIDevice": "requests",
    "SCSIRequest": "bus dev refcount next",
    # virtio and mapped memory: hw/virtio/, include/exec/memory.h, hw/ide/ahci
    "VirtIODevice": "vq dma_as",
    "VirtQueue": "vring inuse",
    "VRing": "num caches",
    "VRingMemoryRegionCaches": "desc avail used",
    "MemoryRegionCache": "fv mrs",
    "VirtQueueElement": "out_num in_num in_sg out_sg",
    "VirtIOBlock": "conf dataplane vq_aio_context",
    "VirtIOBlkConf": "iothread",
    "VirtIOBlockDataPlane": "iothread",
    "VirtIOSCSICommon": "conf",
    "VirtIOSCSIConf": "iothread",
    "VirtIOSCSI": "vq_aio_context",
    "VirtIOBlockReq": "elem dev vq",
    "VirtIOSCSIReq": "elem dev vq",
    "VirtIOBalloon": "stats_vq_elem iothread free_page_bh",
    "VirtIOSerialPort": "elem",
    "VirtIOGPU": "reslist",
    "virtio_gpu_simple_resource": "iov iov_cnt next",
    "VirtIONet": "vqs max_queue_pairs",
    "VirtIONetQueue": "async_tx",
    "vhost_dev": "memory_listener n_mem_sections mem_sections vqs nvqs",
    "vhost_virtqueue": "desc avail used",
    "BounceBuffer": "magic mr",
    # fields that keep an irq's first reference
    "AHCIPCIState": "ahci irq",
    "SysbusAHCIState": "ahci",
    "AHCIState": "irq dev ports",
    "AHCIDevice": "lst res_fis",
    "IRQState": "handler opaque n",
    "GSIState": "i8259_irq",
    "IDEBus": "irq",
    "ICH9LPCState": "pm",
    "ICH9LPCPMRegs": "irq",
    "PCIDivaSerialState": "irqs",
    "IPackDevice": "irq",
    "KvaserPCIState": "irq",
    "CtuCanPCIState": "irq",
    "Pcm3680iPCIState": "irq",
    "Mioe3680PCIState": "irq",
    "UHCIState": "irq",
    "OHCIPCIState": "state",
    "OHCIState": "irq",
    "EHCIPCIState": "ehci",
    "EHCIState": "irq",
    "PCIPCNetState": "state",
    "PCNetState": "irq",
    "PCINE2000State": "ne2000",
    "NE2000State": "irq",
    "TULIPState": "irq",
    "PCISerialState": "state",
    "SerialState": "irq",
    "PCIMultiSerialState": "irqs",
    "PCIESPState": "esp",
    "ESPState": "irq",
    "PIIX4PMState": "smi_irq",
    # GLib
    "_GSource": "source_funcs ref_count context poll_fds prev next",
}

# Without these no walk can start.
REQUIRED: dict[str, str] = {
    "Object": "class free properties ref parent",
    "ObjectClass": "type properties",
    "TypeImpl": "name instance_size parent parent_type class",
    "ObjectProperty": "name type release opaque",
    "LinkProperty": "targetp flags",
    "DeviceState": "parent_bus id",
    "BusState": "children",
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
    "current_machine address_space_memory ram_list call_rcu1 main_system_bus root "
    "internal_root root_reset_container current_migration io_mem_unassigned instance bounce "
    "memory_region_transaction_begin memory_region_transaction_depth "
    "qemu_mutex_unlock_iothread bql_unlock qemu_global_mutex bql"
).split()
