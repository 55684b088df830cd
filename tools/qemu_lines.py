"""The lines of QEMU's source that explain what hunts find, for the pages made of campaigns."""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """What explains a finding: patterns of its device, its cause and its text."""

    device: str
    cause: str
    text: str
    where: str


_I82801B11 = (
    "hw/pci-bridge/i82801b11.c: the bridge has no exit: its windows stay in its parent's, and "
    "PCIBus.child leads to its bus, of which acpi_pcihp_get_bsel() dies now and then"
)
_IPMI = (
    "hw/ipmi/ipmi_bt.c, ipmi_kcs.c: memory_region_init_io() without an owner: the region is a "
    "child of /machine/unattached for good"
)
_SHPC = "hw/pci-bridge/pcie_pci_bridge.c: no shpc_free(), as pci_bridge_dev.c has at its end"
_VQS = "hw/virtio/vhost-user-base.c do_vhost_user_cleanup: the array vub->vqs is not freed"
_CAN = (
    ("ctucan_pci", "ctucan_pci"),
    ("kvaser_pci", "can_kvaser_pci"),
    ("mioe3680_pci", "can_mioe3680_pci"),
    ("pcm3680_pci", "can_pcm3680_pci"),
)

#: The first that fits is told.
SOURCES = (
    Source(
        *("*", "address-space-root", "*virtio-pci-cfg-mem-as*"),
        "hw/virtio/virtio-pci.c virtio_pci_realize: address_space_init() comes before the device's "
        "own realize, and only virtio_pci_exit() destroys it (since 55fa4be6f76a, 9.2)",
    ),
    Source("pci-ipmi-*", "child", "*", _IPMI),
    Source("pci-ipmi-*", "", "*SIGSEGV*", _IPMI),
    Source("i82801b11-bridge", "*", "*list of buses*", _I82801B11),
    Source("i82801b11-bridge", "", "*SIGSEGV*", _I82801B11),
    Source(
        *("*", "same-owner-subregions", "*"),
        "system/memory.c memory_region_add_subregion: a reference on the owner, also within one "
        "(mended by ac7a892fd3, 10.2)",
    ),
    Source(
        *("*usb-uhci", "unbalanced", "*irq*"),
        "hw/usb/hcd-uhci.c usb_uhci_common_realize: pci_allocate_irq() without qemu_free_irq()",
    ),
    Source(
        *("ich9-ahci", "unbalanced", "*irq*"),
        "hw/ide/ahci.c ahci_realize: qemu_allocate_irqs() for the ports, never freed",
    ),
    Source(
        *("i82*", "reset-handler", "*"),
        "hw/net/eepro100.c e100_nic_realize: qemu_register_reset() without an unregister",
    ),
    Source("qxl*", "?*", "*", "hw/display/qxl.c: the device has no exit function"),
    Source(
        *("nvme*", "grows-in-tree", "*"),
        "hw/nvme/ctrl.c nvme_init_subsys: a subsystem that nobody unparents (since cd59f50ab0)",
    ),
    Source(
        *("*", "unreachable-memory", "*gl_unblock*"),
        "ui/console.c graphic_console_init: a new timer for a console that is used again",
    ),
    Source(
        *("*vga", "unreachable-memory", "1 block, *"),
        "ui/console.c graphic_console_init: a new timer for a console that is used again",
    ),
    Source(
        *("*", "*-memory", "*not compatible with CPR*"),
        "hw/display/vga.c vga_common_init: vmstate_register_ram() adds a migration blocker that "
        "nothing takes back",
    ),
    Source(
        *("chardev:qemu-vdagent", "savevm-entry", "*"),
        "ui/vdagent.c vdagent_chr_open: vmstate_register_any() without an unregister",
    ),
    Source(
        *("*-x86_64-cpu", "notifier", "*"),
        "target/i386/tcg/system/tcg-cpu.c tcg_cpu_realizefn: a machine-done notifier in the CPU "
        "that nothing removes",
    ),
    Source(
        *("chardev:pty", "unreachable-memory", "*/dev/pts/*"),
        "chardev/char-pty.c char_pty_finalize: pty_name is not freed",
    ),
    Source(
        *("chardev:vc", "grows-in-tree", "*"),
        "ui/console-vc.c: a text console stays in /backend for good",
    ),
    Source(
        *("virtio-9p*", "unreachable-memory", "* 344 bytes*"),
        "hw/9pfs/9p-synth.c synth_init: new nodes for . and .. of the root with every device",
    ),
    Source(
        *("virtio-9p*", "unreachable-memory", "* 688 bytes*"),
        "hw/9pfs/9p-synth.c synth_init: new nodes for . and .. of the root with every device",
    ),
    Source(
        *("cxl-switch-mailbox-cci", "unreachable-memory", "*"),
        "hw/cxl/switch-mailbox-cci.c cswmbcci_exit: no cxl_destroy_cci(), which frees the timer",
    ),
    Source(
        *("cxl-upstream", "unreachable-memory", "* 1048584 bytes*"),
        "hw/pci-bridge/cxl_upstream.c cxl_usp_exitfn: no pcie_doe_fini(), which frees the "
        "mailboxes that pcie_doe_init() made",
    ),
    Source(
        *("i82*", "savevm-entry", "*"),
        "hw/nvram/eeprom93xx.c eeprom93xx_new: vmstate_register() without an unregister",
    ),
    Source(
        *("*xhci*", "link-cycle", "*"),
        "hw/usb/hcd-xhci.c: the link host is strong, from a child to its parent",
    ),
    Source(
        *("*-cpu", "notifier", "*"),
        "target/i386/tcg/system/tcg-cpu.c: qemu_add_machine_init_done_notifier() without a removal",
    ),
    Source(
        *("chardev:braille", "fd-handler", "*"),
        "chardev/baum.c: qemu_set_fd_handler() for the display, never taken back",
    ),
    Source(
        *("chardev:qemu-vdagent", "savevm-entry", "*"),
        "ui/vdagent.c: vmstate_register_any() without an unregister",
    ),
    Source(
        *("object:cryptodev-backend-lkcf", "fd-handler", "*"),
        "backends/cryptodev-lkcf.c: qemu_set_fd_handler() for the event, never taken back",
    ),
    Source(
        *("i82801b11-bridge", "foreign-container", "*"),
        "hw/pci-bridge/i82801b11.c: the device has no exit function",
    ),
    Source(
        *("object:x-remote-object", "*", "*SIGSEGV*"),
        "hw/remote/remote-obj.c remote_object_machine_done: qdev_find_recursive() without a device",
    ),
    Source(
        *("object:tls-creds-anon", "*", "*SIGSEGV*"),
        "crypto/tlscredsanon.c qcrypto_tls_creds_anon_load: gnutls is given a pointer to nothing",
    ),
    Source(
        *("netdev:passt", "*", "*signal 15*"),
        "net/passt.c net_passt_cleanup: kill() of pid 0, its own group, where passt never started",
    ),
    Source(
        *("dc390", "", "*vmstate_register_with_alias_id*"),
        "hw/scsi/esp-pci.c dc390_scsi_realize: eeprom93xx_new() without eeprom93xx_free(), which "
        "unregisters its state",
    ),
    Source(
        *("rocker", "", "*msix_vector_unuse*"),
        "hw/net/rocker/rocker.c rocker_msix_uninit: msix_vector_unuse() after msix_uninit()",
    ),
    Source(
        *("object:colo-compare", "", "*qemu_mutex_destroy*"),
        "net/colo-compare.c colo_compare_finalize: event_mtx is destroyed where complete failed, "
        "and nothing initialized it",
    ),
    Source(
        *("object:colo-compare", "", "*did not answer*"),
        "net/colo-compare.c colo_compare_finalize: AIO_WAIT_WHILE() for out_sendco.done, which "
        "complete sets at its end, and it failed (11.1)",
    ),
    Source(
        *("x-pci-proxy-dev", "", "*SIGSEGV*"),
        "hw/remote/proxy.c proxy_intx_update: kvm_irqchip_add_irqfd_notifier_gsi() without KVM, "
        "where the board routes INTx (q35)",
    ),
    Source(
        *("ivshmem-doorbell", "fd-handler", "*"),
        "hw/misc/ivshmem-pci.c (ivshmem.c) watch_vector_notifier: qemu_set_fd_handler() on "
        "msi_vectors, never taken back",
    ),
    Source(
        *("chardev:qemu-vdagent", "input-handler", "*"),
        "ui/vdagent.c: qemu_input_handler_register() without an unregister",
    ),
    Source(
        *("vhost-user-input-pci", "fd-handler", "*"),
        "hw/input/vhost-user-input.c: no unrealize, so that nothing calls vhost_dev_cleanup()",
    ),
    Source("vhost-user-gpio-pci", "unreachable-memory", "*", _VQS),
    Source("vhost-user-input-pci", "unreachable-memory", "*", _VQS),
    Source("vhost-user-snd-pci", "unreachable-memory", "*", _VQS),
    Source(
        *("vhost-user-fs-pci", "unreachable-memory", "*"),
        "hw/virtio/vhost-user-fs.c vuf_device_unrealize: vhost_dev_cleanup() clears vhost_dev.vqs "
        "before g_free()",
    ),
    Source("pcie-pci-bridge", "unreachable-memory", "*", _SHPC),
    Source(
        *("pci-serial-[24]x", "unreachable-memory", "*"),
        "hw/char/serial-pci-multi.c multi_serial_init: qemu_init_irq() of irqs that nobody ends "
        "(mended by qemu_init_irq_child(), 11.1)",
    ),
    Source(
        *("usb-ehci", "unreachable-memory", "*"),
        "hw/usb/hcd-ehci-pci.c usb_ehci_pci_exit: g_free() of the irq, which is an object",
    ),
    Source(
        *("lsi53c895a", "unreachable-memory", "*"),
        "hw/scsi/lsi53c895a.c lsi_scsi_exit: timer_del(), and no timer_free()",
    ),
    Source(
        *("sdhci-pci", "unbalanced", "*irq*"),
        "hw/sd/sdhci-pci.c sdhci_pci_realize: pci_allocate_irq() without qemu_free_irq()",
    ),
    Source(
        *("x-pci-proxy-dev", "unbalanced", "*qio-channel*"),
        "hw/remote/proxy.c pci_proxy_dev_exit: qio_channel_close() of ioc, and no object_unref()",
    ),
    Source(
        *("ccid-card-emulated", "unreachable-memory", "*"),
        "hw/usb/ccid-card-emulated.c event_thread: the last event is not given to vevent_delete()",
    ),
    Source(
        *("ccid-card-emulated", "", "*did not answer*"),
        "hw/usb/ccid-card-emulated.c emulated_unrealize: the signal to the apdu thread is lost "
        "where it does not wait yet, and joining it never ends",
    ),
    Source(
        *("usb-ehci", "", "maxframes*"),
        "hw/usb/hcd-ehci-pci.c usb_ehci_pci_realize: the error of usb_ehci_realize() is not taken, "
        "and the device goes on half made",
    ),
    Source(
        *("qxl", "", "surfaces*"),
        "hw/display/qxl.c qxl_realize_common: memory for as many surfaces as are asked for",
    ),
    Source(
        *("rocker", "", "len-ports*did not answer*"),
        "hw/core/qdev-properties.c set_prop_arraylen: a property for each of as many elements as "
        "are asked for",
    ),
    Source(
        *("host-x86_64-cpu", "unreachable-memory", "*"),
        "accel/kvm/kvm-accel-ops.c kvm_start_vcpu_thread: halt_cond, and the address space of "
        "cpu_address_space_init(), are not freed",
    ),
    Source(
        *("object:pr-manager-helper", "unreachable-memory", "*"),
        "scsi/pr-manager-helper.c pr_manager_helper_instance_finalize: path is not freed",
    ),
    Source(
        *("object:sev*guest", "unreachable-memory", "*/dev/sev*"),
        "target/i386/sev.c: sev_device of instance_init is not freed",
    ),
    Source(
        *("object:qtest", "unbalanced", "*chardev*"),
        "softmmu/qtest.c (system/qtest.c) qtest_set_chardev: object_ref() of the chardev, and no "
        "finalize",
    ),
    Source(
        *("object:qtest", "unreachable-memory", "* 24 bytes*"),
        "system/qtest.c qtest_server_start: g_string_new() of inbuf, never freed",
    ),
    Source(
        *("block:luks", "growing-memory", "*-secret*"),
        "block/crypto.c block_crypto_open_generic: qemu_opts_create() without qemu_opts_del()",
    ),
    Source(
        *("block:ssh", "unreachable-memory", "*127.0.0.1*"),
        "block/ssh.c ssh_close: inet is not freed",
    ),
    Source(
        *("block:vvfat", "unreachable-memory", "*"),
        "block/vvfat.c vvfat_close: array_free() of mappings, and not of the path that "
        "init_directories() gave the first",
    ),
    Source(
        *("block:dmg", "unreachable-memory", "*"),
        "util/module.c module_load: version_dir is not freed, for a module that is not there",
    ),
    Source(
        *("nvme*", "*-memory", "*nvme-bus*"),
        "hw/nvme/ctrl.c nvme_init_subsys: a subsystem that nobody unparents (since cd59f50ab0)",
    ),
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
        *("cxl-type3", "", "*cdat_len_check*"),
        "hw/cxl/cxl-cdat.c cdat_len_check: what a file has is asserted",
    ),
    Source(
        *("cxl-type3", "", "*qemu_mutex_destroy*"),
        "hw/mem/cxl_type3.c ct3_exit: cxl_destroy_cci() of a mailbox that reset initializes, "
        "which a realize that fails later never saw",
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
)
