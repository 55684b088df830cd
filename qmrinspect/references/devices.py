"""Devices and backends
--------------------

Fields of devices, machines and backends that hold an object, or keep the reference
that ``object_new`` gave them.
"""

from __future__ import annotations

from .record import Holder, Kind, OfType, Reader, Variable

__all__ = ["HOLDERS", "KINDS"]

KINDS = (
    Kind(
        "initial",
        "a field or variable keeps the reference that came with object_new",
        "qom/object.c object_initialize_with_type",
    ),
    Kind(
        "reset",
        "the list of all resets keeps the object of a reset handler",
        "hw/core/reset.c qemu_register_reset, qemu_unregister_reset",
        "since 9.1, handlers were no objects before",
    ),
    Kind(
        "portio-region",
        "a range of I/O ports holds the region inside itself",
        "system/ioport.c portio_list_add_1, memory_region_portio_list_finalize",
        "since 8.0, ranges were no objects before",
    ),
    Kind(
        "iothread-user",
        "a device that runs in an iothread holds it, besides the link",
        "hw/block/dataplane/virtio-blk.c (7.2), hw/block/virtio-blk.c (10.0), "
        "hw/scsi/virtio-scsi-dataplane.c (10.0), hw/virtio/virtio-balloon.c",
    ),
    Kind("tpm-backend", "a TPM backend holds its front", "backends/tpm/tpm_backend.c"),
    Kind(
        "numa-node",
        "a NUMA node holds the memory backend it was given",
        "hw/core/numa.c parse_numa_node",
    ),
    Kind(
        "throttle-member",
        "a member of a throttle group holds the group",
        "block/throttle-groups.c throttle_group_incref",
    ),
    Kind(
        "audio-voice",
        "a voice of an audio backend holds the backend",
        "audio/audio_template.h audio_pcm_hw_add_new, audio_pcm_create_voice_pair",
        "since 11.0, backends were no objects before",
    ),
    Kind(
        "shared-memory",
        "a virtio device's shared memory holds the mappings that its back end asked for",
        "hw/virtio/virtio.c virtio_add_shmem_map, virtio_del_shmem_map",
        "since 11.0",
    ),
)

_IRQ = "hw/core/irq.c qemu_allocate_irq, hw/pci/pci.c pci_allocate_irq"
_EMBEDDED = "hw/core/irq.c qemu_init_irq"


def _irq(type: str, way: str, either: str = "") -> Holder:
    """An irq that its field keeps: the reference is dropped by qemu_free_irq alone, or never."""
    source = _EMBEDDED if way.startswith("&") else _IRQ
    return Holder("initial", OfType(type), way, "irq", source, either=either)


def _variable(name: str, type: str, source: str) -> Holder:
    return Holder("initial", Variable(name), "", type, source)


_VARIABLES = (
    _variable("current_machine", "machine", "system/vl.c qemu_create_machine"),
    _variable("main_system_bus", "System", "hw/core/sysbus.c main_system_bus_create"),
    _variable("root", "container", "qom/object.c object_get_root"),
    _variable("internal_root", "container", "qom/object.c object_get_internal_root"),
    _variable(
        "root_reset_container", "resettable-container", "hw/core/reset.c get_root_reset_container"
    ),
    _variable("current_migration", "migration", "migration/migration.c migration_object_init"),
    _variable("io_mem_unassigned", "memory-region", "system/physmem.c io_mem_init"),
    _variable("instance", "qio-dns-resolver", "io/dns-resolver.c qio_dns_resolver_get_instance"),
)

_IRQS = (
    # hw/i386/pc.c pc_gsi_create; microvm has the lines of two I/O APICs
    _irq("x86-machine", "X86MachineState.gsi ->[48]"),
    _irq("pci-uhci-usb", "UHCIState.irq"),
    _irq("pci-ohci", "OHCIPCIState.state + OHCIState.irq"),
    _irq("pci-ehci-usb", "EHCIPCIState.ehci + EHCIState.irq"),
    _irq("ich9-ahci", "AHCIPCIState.ahci + AHCIState.irq", "ahci irq"),
    _irq("ich9-ahci", "&AHCIPCIState.irq", "ahci irq"),
    _irq("IDE", "IDEBus.irq"),
    _irq("ICH9-LPC", "ICH9LPCState.pm + ICH9LPCPMRegs.irq"),
    _irq("pcnet", "PCIPCNetState.state + PCNetState.irq"),
    _irq("ne2k_pci", "PCINE2000State.ne2000 + NE2000State.irq"),
    _irq("tulip", "TULIPState.irq"),
    _irq("pci-serial", "PCISerialState.state + SerialState.irq"),
    _irq("pci-serial-2x", "PCIMultiSerialState.irqs ->[4]", "serial irqs"),
    _irq("pci-serial-4x", "PCIMultiSerialState.irqs ->[4]", "serial irqs"),
    _irq("pci-serial-2x", "&PCIMultiSerialState.irqs [4 IRQState]", "serial irqs"),
    _irq("pci-serial-4x", "&PCIMultiSerialState.irqs [4 IRQState]", "serial irqs"),
    _irq("diva-gsp", "PCIDivaSerialState.irqs ->[4]"),
    _irq("ipack-device", "&IPackDevice.irq [2 IRQState]", "ipack irqs"),
    _irq("ipack-device", "IPackDevice.irq ->[2]", "ipack irqs"),
    _irq("kvaser_pci", "KvaserPCIState.irq"),
    _irq("ctucan_pci", "CtuCanPCIState.irq"),
    _irq("pcm3680_pci", "Pcm3680iPCIState.irq"),
    _irq("mioe3680_pci", "Mioe3680PCIState.irq"),
    _irq("am53c974", "PCIESPState.esp + ESPState.irq"),
    _irq("piix4_pm", "PIIX4PMState.smi_irq", "smi irq"),
    _irq("PIIX4_PM", "PIIX4PMState.smi_irq", "smi irq"),
    Holder(
        "initial",
        Reader("kvm_pic"),
        "",
        "irq",
        "hw/i386/kvm/i8259.c kvm_i8259_init",
        needs="X86MachineState.gsi GSIState.i8259_irq IRQState.opaque",
    ),
)

_STATE = (
    Holder(
        "initial",
        OfType("machine"),
        "MachineState.accelerator",
        "accel",
        "accel/accel-softmmu.c accel_init_machine",
    ),
    Holder(
        "initial",
        OfType("microvm-machine"),
        "X86MachineState.acpi_dev",
        "acpi-ged",
        "hw/i386/microvm.c microvm_devices_init: qdev_new without an unref",
    ),
    Holder(
        "initial",
        OfType("amd-iommu"),
        "&AMDVIState.pci",
        "AMDVI-PCI",
        "hw/i386/amd_iommu.c amdvi_sysbus_realize",
        either="amd-iommu function",
    ),
    Holder(
        "initial",
        OfType("amd-iommu"),
        "AMDVIState.pci",
        "AMDVI-PCI",
        "hw/i386/amd_iommu.c amdvi_sysbus_realize",
        either="amd-iommu function",
    ),
    # The functions that a physical one made.
    Holder(
        "initial",
        Reader("virtual_functions"),
        "",
        "pci-device",
        "hw/pci/pcie_sriov.c register_vfs",
        needs="PCIDevice.exp PCIExpressDevice.sriov_pf PCIExpressDevice.sriov_vf PCIESriovPF.vf "
        "PCIESriovVF.pf",
    ),
    Holder(
        "initial",
        Reader("consoles"),
        "",
        "qemu-console",
        "ui/console.c qemu_console_register",
        needs="QemuConsole.next",
    ),
    Holder(
        "initial",
        Reader("port_lists"),
        "",
        "memory-region-portio-list",
        "system/ioport.c portio_list_add_1",
        needs="MemoryRegionPortioList.mr PortioList.regions PortioList.nr",
        since="since 8.0",
    ),
    # Until 10.2 each register of a block is an object inside its device.
    Holder(
        "initial",
        Reader("register_blocks"),
        "",
        "qemu-register",
        "hw/core/register.c register_init_block",
        needs="MemoryRegion.opaque RegisterInfoArray.mem RegisterInfoArray.r "
        "RegisterInfoArray.num_elements",
        since="until 10.2",
    ),
    Holder(
        "portio-region",
        OfType("memory-region-portio-list"),
        "&MemoryRegionPortioList.mr",
        "memory-region",
        "system/ioport.c portio_list_add_1",
    ),
    Holder(
        "reset",
        OfType("resettable-container"),
        "ResettableContainer.children -> _GPtrArray.pdata ->[_GPtrArray.len]",
        "object",
        "hw/core/resetcontainer.c resettable_container_add",
    ),
)

_USERS = (
    Holder(
        "iothread-user",
        OfType("virtio-blk-device"),
        "VirtIOBlock.dataplane -> VirtIOBlockDataPlane.iothread",
        "iothread",
        "hw/block/dataplane/virtio-blk.c virtio_blk_data_plane_create",
        either="virtio-blk iothread",
        since="until 8.2",
    ),
    Holder(
        "iothread-user",
        OfType("virtio-blk-device"),
        "VirtIOBlock.conf + VirtIOBlkConf.iothread",
        "iothread",
        "hw/block/virtio-blk.c virtio_blk_vq_aio_context_init",
        when="VirtIOBlock.vq_aio_context",
        either="virtio-blk iothread",
        since="since 9.0",
    ),
    Holder(
        "iothread-user",
        OfType("virtio-scsi-device"),
        "VirtIOSCSICommon.conf + VirtIOSCSIConf.iothread",
        "iothread",
        "hw/scsi/virtio-scsi-dataplane.c virtio_scsi_dataplane_setup",
        when="VirtIOSCSI.vq_aio_context",
        since="since 10.0",
    ),
    # With free page hints.
    Holder(
        "iothread-user",
        OfType("virtio-balloon-device"),
        "VirtIOBalloon.iothread",
        "iothread",
        "hw/virtio/virtio-balloon.c virtio_balloon_device_realize",
        when="VirtIOBalloon.free_page_bh",
    ),
    Holder(
        "tpm-backend",
        OfType("tpm-backend"),
        "TPMBackend.tpmif",
        "device",
        "backends/tpm/tpm_backend.c tpm_backend_init",
    ),
    Holder(
        "numa-node",
        OfType("machine"),
        "MachineState.numa_state -> NumaState.nodes [NumaState.num_nodes NodeInfo] "
        "+ NodeInfo.node_memdev",
        "memory-backend",
        "hw/core/numa.c parse_numa_node",
    ),
    # The first member of a group without an object of its own got the first reference.
    Holder(
        "throttle-member",
        Reader("throttle_members"),
        "",
        "throttle-group",
        "block/throttle-groups.c throttle_group_incref",
        needs="ThrottleGroup.head ThrottleGroupMember.round_robin",
    ),
)


_OUT = "AudioMixengBackend.hw_head_out list HWVoiceOut.entries"
_IN = "AudioMixengBackend.hw_head_in list HWVoiceIn.entries"

_AUDIO = tuple(
    Holder(
        "audio-voice",
        OfType("audio-mixeng-backend"),
        way,
        "audio-backend",
        "audio/audio_template.h audio_pcm_hw_add_new, audio_pcm_create_voice_pair",
        since="since 11.0",
    )
    for way in (
        f"{_OUT} + HWVoiceOut.s",
        f"{_IN} + HWVoiceIn.s",
        f"{_OUT} + HWVoiceOut.sw_head list SWVoiceOut.entries + SWVoiceOut.s",
        f"{_IN} + HWVoiceIn.sw_head list SWVoiceIn.entries + SWVoiceIn.s",
    )
)

_SHARED = (
    Holder(
        "shared-memory",
        OfType("virtio-device"),
        "&VirtIODevice.shmem_list list VirtioSharedMemory.entry + VirtioSharedMemory.mmaps "
        "list VirtioSharedMemoryMapping.link",
        "virtio-shared-memory-mapping",
        "hw/virtio/virtio.c virtio_add_shmem_map",
        since="since 11.0",
    ),
)

HOLDERS = (*_VARIABLES, *_STATE, *_IRQS, *_USERS, *_AUDIO, *_SHARED)
