"""The lines of QEMU's source that explain what hunts of error paths find."""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """What explains a finding: patterns of its device, its cause and its text."""

    device: str
    cause: str
    text: str
    where: str


_CXL_MEMORY = (
    "hw/mem/cxl_type3.c cxl_setup_memory: the address space of the memory stays where something "
    "is refused after address_space_init(), in what is freed"
)
_CPU = (
    "target/i386/cpu.c x86_cpu_realizefn: phys-bits is refused after cpu_exec_realizefn(), which "
    "nothing takes back: the CPU is freed and stays in the list of CPUs"
)
_CAN = (
    ("ctucan_pci", "ctucan_pci"),
    ("kvaser_pci", "can_kvaser_pci"),
    ("mioe3680_pci", "can_mioe3680_pci"),
    ("pcm3680_pci", "can_pcm3680_pci"),
)

#: The first that fits is told.
ERROR_PATHS = (
    Source(
        *("nvme", "unreachable-memory", "*cannot connect*"),
        "hw/nvme/ctrl.c nvme_realize: what nvme_init_state() and pcie_doe_init() made stays where "
        "nvme_init_pci() fails",
    ),
    Source(
        *("nvme", "", "*cmb_size_mb*failed to allocate*"),
        "hw/nvme/ctrl.c nvme_init_cmb: g_malloc0() of any cmb_size_mb",
    ),
    Source(
        *("*", "", "sriov-pf=*SIGSEGV*"),
        "include/hw/pci/pci_device.h pci_is_vf: sriov-pf makes a VF, which is realized before it "
        "has a PF (pcie_sriov_register_device() comes after that)",
    ),
    Source(
        *("cxl-type3", "", "*mutex->initialized*"),
        "hw/mem/cxl_type3.c ct3_exit: cxl_destroy_cci() of a lock that only a reset makes "
        "(cxl_init_cci())",
    ),
    Source(
        *("cxl-type3", "unreachable-memory", "*CDAT: *"),
        "hw/mem/cxl_type3.c ct3_realize: no pcie_doe_fini() where cxl_doe_cdat_init() fails, so "
        "that the mailboxes stay which pcie_doe_init() made",
    ),
    Source(
        *("ivshmem-doorbell", "", "*SIGSEGV*"),
        "hw/misc/ivshmem-pci.c watch_vector_notifier: the handlers of one that was unplugged "
        "before are called with freed memory",
    ),
    Source(
        *("ivshmem-doorbell", "", "*failed to allocate*"),
        "hw/misc/ivshmem-pci.c ivshmem_setup_interrupts: g_new0() of any number of vectors",
    ),
    Source(
        *("ivshmem-doorbell", "unreachable-memory", "*interrupts*"),
        "hw/misc/ivshmem-pci.c ivshmem_common_realize: peers and msi_vectors stay where "
        "ivshmem_setup_interrupts() fails",
    ),
    Source(
        *("pci-testdev", "", "*is_power_of_2*"),
        "hw/misc/pci-testdev.c pci_testdev_realize: membar is not asked to be a power of 2",
    ),
    Source(
        *("pcie-root-port", "address-space-root", "*reserve*"),
        "hw/pci-bridge/gen_pcie_root_port.c gen_rp_realize: exit() alone where the reserve is "
        "wrong, which leaves the device's address space",
    ),
    *(
        Source(
            *(device, "unbalanced", "*connect_to_bus failed*"),
            f"hw/net/can/{file}.c: an irq is allocated before the bus is connected, and not freed "
            "where that fails",
        )
        for device, file in _CAN
    ),
    Source(
        *("*3680_pci", "", "*SIGABRT*without canbus1*"),
        "hw/net/can/can_pcm3680_pci.c, can_mioe3680_pci.c: where the second bus is not there, the "
        "first one keeps the client of the device, which is freed",
    ),
    Source(
        *("cxl-*", "", "*cdat_len_check*"),
        "hw/cxl/cxl-cdat.c cdat_len_check: what a file has is asserted",
    ),
    Source(
        *("cxl-type3", "", "*qemu_mutex_destroy*"),
        "hw/mem/cxl_type3.c ct3_exit: cxl_destroy_cci() of a mailbox that reset initializes, "
        "which a realize that fails later never saw",
    ),
    *(
        Source("cxl-type3", cause, text, _CXL_MEMORY)
        for cause in ("", "address-space")
        for text in ("*without lsa*", "*num-dc-regions=255*", "cdat=*SIGSEGV*")
    ),
    Source(
        *("sdhci-pci", "unreachable-memory", "*"),
        "hw/sd/sdhci-pci.c sdhci_pci_realize: no sdhci_uninitfn() where sdhci_common_realize() "
        "fails, which frees the timers",
    ),
    *(
        Source(
            *(device, "unreachable-memory", "*"),
            "hw/usb/bus.c usb_qdev_realize: the texts of usb_desc_create_serial() stay where "
            "usb_device_realize() fails",
        )
        for device in ("u2f-passthru", "usb-braille", "usb-serial")
    ),
    Source(
        *("vhost-user-fs-pci", "", "*num-request-queues*SIGABRT*"),
        "hw/virtio/vhost-user-fs.c vuf_device_realize: num-request-queues is not asked to be "
        "below VIRTIO_QUEUE_MAX, on which virtio_add_queue() aborts",
    ),
    Source(
        *("v*-pci*", "", "vectors=*failed to allocate*"),
        "hw/virtio/virtio.c virtio_init: vector_queues for any number of vectors, also below 0",
    ),
    Source(
        *("v*-pci*", "", "v*q*_size=4294967295: *overflow allocating*"),
        "hw/virtio/virtio.c virtio_add_queue: queue_size is an int, and one below 0 is not above "
        "VIRTQUEUE_MAX_SIZE, the only limit",
    ),
    Source(
        *("v*scsi-pci*", "vm-change-handler", "virtqueue_size=*"),
        "hw/scsi/virtio-scsi.c virtio_scsi_common_realize: no virtio_cleanup() where "
        "virtqueue_size is refused",
    ),
    Source(
        *("virtio-net-pci*", "unreachable-memory", '*: a block with "*'),
        "hw/net/virtio-net.c virtio_net_device_realize: netclient_name and netclient_type stay "
        "where it fails; only virtio_net_device_unrealize() frees them",
    ),
    Source(
        *("virtio-*", "unreachable-memory", '*with "err*.0", which nothing*'),
        "hw/virtio/virtio.c virtio_device_realize: bus_name stays where the device's own realize "
        "fails; only virtio_device_unrealize() frees it",
    ),
    Source(
        *("virtio-*-gl*", "", "*missing object type*"),
        "qom/object.c object_initialize: exit() where the module of a type (hw-display-"
        "virtio-gpu-gl) is not installed",
    ),
    Source(
        *("vhost-user-test-device-pci", "", "num_vqs=*failed to allocate*"),
        "hw/virtio/vhost-user-base.c vub_device_realize: g_ptr_array_sized_new() of any num_vqs",
    ),
    Source(
        *("vhost-user-test-device-pci", "", "virtio-id=*virtio_id_to_name*"),
        "hw/virtio/virtio.c virtio_id_to_name: any virtio-id is asserted to be one of QEMU's",
    ),
    Source("*-cpu", "", "*qemu_plugin_vcpu_init_hook*", _CPU),
    Source("*-cpu", "", "*SaveStateEntry: id=cpu_common*", _CPU),
    Source("*-cpu", "address-space-root", "phys-bits=*", _CPU),
)
