"""The lines of QEMU's source that explain what hunts find, for the pages made of campaigns."""

from __future__ import annotations

from qemu_error_lines import ERROR_PATHS, Source

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
    *(Source("i82801b11-bridge", "", f"*SIG{how}*", _I82801B11) for how in ("SEGV", "FPE")),
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
        *("ich9-ahci", "unreachable-memory", "*"),
        "hw/ide/ich.c pci_ich9_ahci_init: qemu_init_irq() of an irq that nobody ends, which keeps "
        "its properties (10.2 has qemu_init_irq_child())",
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
        *("chardev:vc", "growing-memory", "*qemu-*console*"),
        "ui/console-vc.c vc_chr_open (7.2: ui/console.c new_console): object_new() of a text "
        "console, which stays in the list of consoles for good",
    ),
    Source(
        *("virtio-9p*", "unreachable-memory", "*1 block, 3[46]? bytes*"),
        "hw/9pfs/9p-synth.c synth_init: new nodes for . and .. of the root with every device",
    ),
    Source(
        *("virtio-9p*", "unreachable-memory", "*2 blocks, [67]?? bytes*"),
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
    Source(
        *("vhost-user-input-pci", "", "serial=*SIGSEGV*"),
        "hw/input/virtio-input.c virtio_input_idstr_config: cfg_list, which only "
        "virtio_input_init_config() initializes, and no vhost-user device calls that (7.2)",
    ),
    Source(
        *("vhost-user-input-pci", "", "*SIGSEGV*"),
        "hw/input/vhost-user-input.c: no unrealize, so that nothing calls vhost_dev_cleanup(), "
        "and the memory listener is called where it was",
    ),
    Source(
        *("vhost-user-input-pci", "unreachable-memory", "*vhost_backend_init failed*"),
        "backends/vhost-user.c vhost_user_backend_dev_init: vhost_dev_cleanup() clears dev.vqs "
        "before vhost_user_backend_finalize() would free it",
    ),
    *(
        Source(f"vhost-user-{device}-pci", "unreachable-memory", "*", _VQS)
        for device in ("gpio", "i2c", "input", "rng", "snd", "test-device")
    ),
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
        *("lsi53c8*", "unreachable-memory", "*"),
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
        *("qxl", "", "max_outputs*spice_qxl_set_device_info*"),
        "hw/display/qxl.c qxl_realize_common: any max_outputs is given to Spice, which aborts",
    ),
    Source(
        *("qxl", "", "*ram_size*find_ram_offset*"),
        "hw/display/qxl.c qxl_init_ramsize: pow2ceil() of the greatest ram_size (32 bits) or "
        "vram_size (64 bits) is 0, on which qemu_ram_alloc() asserts",
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
    *(
        Source(
            *("block:luks", "growing-memory", text),
            "block/crypto.c block_crypto_open_generic: qemu_opts_create() without qemu_opts_del()",
        )
        for text in ("*-secret*", "*nothing known begins there in a variable of QEMU")
    ),
    *(
        Source("block:ssh", "unreachable-memory", text, "block/ssh.c ssh_close: inet is not freed")
        for text in ("*127.0.0.1*", "*: 1 block, 40 bytes a cycle*")
    ),
    Source(
        *("block:gluster", "unreachable-memory", "*"),
        "none of QEMU's: glfs_init() and glfs_fini() of libgfapi leave some 13 kB each time, in a "
        "program without QEMU as well",
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
    *ERROR_PATHS,
)
