"""The catalogue of devices
------------------------

What each driver needs, as plain data: see :mod:`qmrinspect.hotplug.recipes` for what the
records mean.

In strings, ``{id}`` is the id of what is plugged and ``{peer}`` the path of the
program or file that stands behind a backend.
"""

from __future__ import annotations

from .backends import (
    CHARDEV,
    CRYPTO,
    CXL_LABELS,
    CXL_MEMORY,
    DESCRIPTOR,
    DRIVE,
    HOST_DEVICE,
    MEMORY,
    ROOTDIR,
    SMART_CARD,
    VHOST_USER,
    client,
)
from .kinds import Rule, StartOption

__all__ = ["BUS_BY_NAME", "ROOT_PORT", "RULES", "START_OPTIONS"]

_CAN2: dict[str, object] = {"canbus0": "qmr-can", "canbus1": "qmr-can"}

#: From general to special: of two rules that set the same property, the later one wins.
RULES: tuple[Rule, ...] = (
    Rule("virtio-blk*", backends=(DRIVE,)),
    Rule("scsi-hd", backends=(DRIVE,)),
    Rule("scsi-cd", backends=(DRIVE,)),
    Rule("usb-storage", backends=(DRIVE,)),
    Rule("nvme", {"serial": "{id}"}, (DRIVE,)),
    Rule("nvme-ns", backends=(DRIVE,)),
    Rule("ide-hd", backends=(DRIVE,)),
    Rule("ide-cd", backends=(DRIVE,)),
    Rule("sd-card", backends=(DRIVE,)),
    Rule("virtserialport", {"name": "{id}"}, (CHARDEV,)),
    Rule("virtconsole", backends=(CHARDEV,)),
    Rule("usb-serial", backends=(CHARDEV,)),
    Rule("usb-braille", backends=(CHARDEV,)),
    Rule("usb-redir", backends=(CHARDEV,)),
    Rule("ccid-card-passthru", backends=(CHARDEV,)),
    Rule("pci-serial", backends=(CHARDEV,)),
    Rule("ivshmem-plain", backends=(MEMORY,)),
    Rule("ivshmem-doorbell", backends=(client("ivshmem"),)),
    Rule("pc-dimm", backends=(MEMORY,), start_options=("memory",)),
    Rule("nvdimm", backends=(MEMORY,), start_options=("memory", "nvdimm")),
    # No memory is given to the guest, so that it need not give any back.
    Rule("virtio-mem-pci", {"requested-size": 0}, (MEMORY,), start_options=("memory",)),
    Rule("virtio-pmem-pci", backends=(MEMORY,), start_options=("memory",)),
    Rule("acpi-erst", backends=(MEMORY,)),
    Rule("cxl-type3", backends=(CXL_MEMORY, CXL_LABELS)),
    # cxl_dsp_realize() wants a port number of its own for each (hw/pci-bridge/cxl_downstream.c).
    Rule("cxl-downstream", {"chassis": 90, "slot": 1}),
    Rule("cxl-switch-mailbox-cci", {"target": "qmr-switch"}, start_options=("cxl-switch",)),
    Rule("virtio-crypto-pci", backends=(CRYPTO,)),
    # A can-bus cannot be deleted (can_bus_can_be_deleted(), net/can/can_core.c).
    Rule("kvaser_pci", {"canbus": "qmr-can"}, start_options=("can",)),
    Rule("pcm3680_pci", _CAN2, start_options=("can",)),
    Rule("mioe3680_pci", _CAN2, start_options=("can",)),
    Rule("ctucan_pci", _CAN2, start_options=("can",)),
    Rule("pci-ipmi-bt", {"bmc": "qmr-bmc"}, start_options=("bmc",)),
    Rule("pci-ipmi-kcs", {"bmc": "qmr-bmc"}, start_options=("bmc",)),
    # A file system cannot be added to a QEMU that runs.
    Rule("virtio-9p*", {"fsdev": "qmr-fs", "mount_tag": "{id}"}, start_options=("fsdev",)),
    Rule("usb-mtp", backends=(ROOTDIR,)),
    Rule("pci-bridge*", {"chassis_nr": 91}),
    Rule("pcie-root-port", {"chassis": 92, "slot": 1}),
    Rule("ioh3420", {"chassis": 93, "slot": 1}),
    Rule("xio3130-downstream", {"chassis": 94, "slot": 1}),
    Rule("vhost-user-blk*", backends=(VHOST_USER,)),
    Rule("vhost-user-fs*", {"tag": "{id}"}, (VHOST_USER,)),
    Rule("vhost-user-gpio*", backends=(VHOST_USER,)),
    Rule("vhost-user-i2c*", backends=(VHOST_USER,)),
    Rule("vhost-user-rng*", backends=(VHOST_USER,)),
    Rule("vhost-user-rtc*", backends=(VHOST_USER,)),
    Rule("vhost-user-scsi*", backends=(VHOST_USER,)),
    Rule("vhost-user-snd*", backends=(VHOST_USER,)),
    Rule("vhost-user-spi*", backends=(VHOST_USER,)),
    # Any device there is: that of a serial port has two queues and needs no configuration.
    Rule("vhost-user-test*", {"virtio-id": 3, "num_vqs": 2}, (VHOST_USER,)),
    Rule("vhost-user-vsock*", backends=(VHOST_USER,)),
    Rule("vhost-user-input*", backends=(VHOST_USER,), missing="needs KVM", accel="kvm"),
    Rule(
        "vhost-scsi*",
        {"wwpn": "naa.5001405bc4a3f5d4"},
        missing="needs the kernel module vhost_scsi",
    ),
    Rule(
        "vhost-vdpa*",
        {"vhostdev": "/dev/vhost-vdpa-0"},
        missing=HOST_DEVICE.format("a vDPA device"),
    ),
    Rule("vhost-vsock*", {"guest-cid": 4711}, missing="needs the kernel module vhost_vsock"),
    Rule("host-*-cpu", accel="kvm", missing="needs KVM"),
    Rule("vfio-*", missing=HOST_DEVICE.format("a PCI device")),
    Rule("vfio-user-*", missing="needs a server that speaks vfio-user"),
    Rule("xen-platform", missing="needs a Xen guest"),
    Rule("usb-host", missing=HOST_DEVICE.format("a USB device")),
    Rule("u2f-passthru", missing=HOST_DEVICE.format("a U2F key")),
    # The drive is there, but answers no SG_IO.
    Rule("scsi-block", backends=(DRIVE,), missing=HOST_DEVICE.format("a SCSI disk")),
    Rule("scsi-generic", backends=(DRIVE,), missing=HOST_DEVICE.format("a SCSI device")),
    Rule(
        "virtio-input-host*",
        {"evdev": "/dev/input/event0"},
        missing=HOST_DEVICE.format("an input device"),
    ),
    # The three certificates of a card (docs/ccid.txt) may be one.
    Rule(
        "ccid-card-emulated",
        {"backend": "certificates", "cert1": "qmr", "cert2": "qmr", "cert3": "qmr"},
        (SMART_CARD,),
    ),
    Rule("pvrdma", missing=HOST_DEVICE.format("an RDMA device")),
    # The remote process maps the memory of the VM (docs/system/multi-process.rst).
    Rule("x-pci-proxy-dev", backends=(DESCRIPTOR,), start_options=("shared-memory",)),
)

#: What no machine has by itself.  The ids begin with ``qmr-``.
START_OPTIONS: tuple[StartOption, ...] = (
    StartOption("usb-bus", ("-device", "qemu-xhci,id=qmr-usb,p2=8,p3=8")),
    StartOption("SCSI", ("-device", "virtio-scsi-pci,id=qmr-scsi")),
    StartOption("virtio-serial-bus", ("-device", "virtio-serial-pci,id=qmr-serial")),
    # Behind a bus of its own, so that it does not depend on another host.
    StartOption(
        "ccid-bus",
        ("-device", "piix3-usb-uhci,id=qmr-uhci", "-device", "usb-ccid,bus=qmr-uhci.0"),
    ),
    StartOption("HDA", ("-device", "intel-hda,id=qmr-hda")),
    StartOption("IndustryPack", ("-device", "tpci200,id=qmr-ipack")),
    StartOption("nvme-bus", ("-device", "nvme,id=qmr-nvme,serial=qmr")),
    StartOption("sd-bus", ("-device", "sdhci-pci,id=qmr-sdhci")),
    StartOption("memory", ("-m", "128M,slots=16,maxmem=16G")),
    StartOption("nvdimm", ("-machine", "nvdimm=on")),
    StartOption("cpu", ("-smp", "1,maxcpus=4")),
    StartOption("can", ("-object", "can-bus,id=qmr-can")),
    # Only one: where it has migration state, a second one is refused.
    StartOption("bmc", ("-device", "ipmi-bmc-sim,id=qmr-bmc")),
    StartOption("fsdev", ("-fsdev", "synth,id=qmr-fs")),
    StartOption("cxl-switch", ("-device", "cxl-upstream,id=qmr-switch"), exclusive=True),
    StartOption("remote", ("-device", "lsi53c895a,id=qmr-remote"), machine="x-remote"),
    StartOption(
        "shared-memory",
        (
            *("-m", "128M", "-object", "memory-backend-memfd,id=qmr-ram,size=128M,share=on"),
            *("-machine", "memory-backend=qmr-ram"),
        ),
        exclusive=True,
    ),
    # A server for every display of the VM; without a port it listens nowhere.
    StartOption("spice", ("-spice", "port=0,addr=127.0.0.1,disable-ticketing=on"), exclusive=True),
)

#: pcie.0 of q35 does not support hotplug: a root port does, and takes one device.
ROOT_PORT = StartOption("PCI", ("-device", "pcie-root-port,id=qmr-port,chassis=80,slot=80"))

#: Names that say their bus, for a QEMU that was not asked yet; what is not here is PCI.
BUS_BY_NAME: tuple[tuple[str, str | None], ...] = (
    ("usb-ehci", "PCI"),
    ("usb-*", "usb-bus"),
    ("u2f-*", "usb-bus"),
    ("scsi-*", "SCSI"),
    ("virtserialport", "virtio-serial-bus"),
    ("virtconsole", "virtio-serial-bus"),
    ("ccid-card-*", "ccid-bus"),
    ("pc-dimm", None),
    ("nvdimm", None),
    ("*-x86_64-cpu", None),
)
