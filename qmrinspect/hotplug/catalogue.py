"""The catalogue of recipes
------------------------

What each driver, object, chardev, netdev and block node needs, as plain data: see
:mod:`qmrinspect.hotplug.recipes` for what the records mean.

In strings, ``{id}`` is the id of what is plugged and ``{place}`` the path of the
program or file that stands behind a backend.
"""

from __future__ import annotations

from .kinds import Backend, Host, Rule

__all__ = ["BUS_BY_NAME", "HOSTS", "OUTSIDE", "ROOT_PORT", "RULES", "SUBJECTS"]


def _object(name: str, property: str = "", place: str = "", **arguments: object) -> Backend:
    data = {key.replace("_", "-"): value for key, value in arguments.items()}
    return Backend(property, name, "object-add", data, "object-del", "id", place)


# Backends --------------------------------------------------------------------------

# A disk that reads as zeros and holds nothing (block/null.c).
_DRIVE = Backend(
    "drive",
    "{id}-drive",
    "blockdev-add",
    {"driver": "null-co", "size": 1 << 26, "read-zeroes": True},
    "blockdev-del",
    "node-name",
)


def _chardev(
    backend: dict[str, object], property: str = "chardev", place: str = "", name: str = "chardev"
) -> Backend:
    arguments: dict[str, object] = {"backend": backend}
    return Backend(
        property, "{id}-" + name, "chardev-add", arguments, "chardev-remove", "id", place
    )


_CHARDEV = _chardev({"type": "null", "data": {}})

_UNIX: dict[str, object] = {"type": "unix", "data": {"path": "{place}"}}


def _client(place: str) -> Backend:
    # A chardev that connects to a program of ours (servers.py).
    return _chardev({"type": "socket", "data": {"addr": _UNIX, "server": False}}, "chardev", place)


_VHOST_USER = _client("vhost-user")

# Sizes are in bytes; ivshmem's must be a power of two (hw/misc/ivshmem.c).
_MEMORY = _object("{id}-memory", "memdev", qom_type="memory-backend-ram", size=1 << 27, share=True)
# A CXL memory device wants 256 MiB and a label area in a file (hw/mem/cxl_type3.c).
_CXL_MEMORY = _object("{id}-memory", "memdev", qom_type="memory-backend-ram", size=1 << 28)
_CXL_LABELS = _object(
    "{id}-lsa",
    "lsa",
    "directory",
    qom_type="memory-backend-file",
    size=1 << 20,
    share=True,
    mem_path="{place}/lsa",
)
_CRYPTO = _object("{id}-crypto", "cryptodev", qom_type="cryptodev-backend-builtin")
_MEMDEV_DIRECTORY = Backend("rootdir", "{place}", "", {}, "", "", "directory")
_NETDEV = Backend("", "{id}-net", "netdev_add", {"type": "hubport", "hubid": 7}, "netdev_del", "id")


# Rules -----------------------------------------------------------------------------

_CAN2: dict[str, object] = {"canbus0": "qmr-can", "canbus1": "qmr-can"}
_HOST_DEVICE = "needs {} of the host"

#: From general to special: of two rules that set the same property, the later one wins.
RULES: tuple[Rule, ...] = (
    Rule("virtio-blk*", backends=(_DRIVE,)),
    Rule("scsi-hd", backends=(_DRIVE,)),
    Rule("scsi-cd", backends=(_DRIVE,)),
    Rule("usb-storage", backends=(_DRIVE,)),
    Rule("nvme", {"serial": "{id}"}, (_DRIVE,)),
    Rule("nvme-ns", backends=(_DRIVE,)),
    Rule("ide-hd", backends=(_DRIVE,)),
    Rule("ide-cd", backends=(_DRIVE,)),
    Rule("sd-card", backends=(_DRIVE,)),
    Rule("virtserialport", {"name": "{id}"}, (_CHARDEV,)),
    Rule("virtconsole", backends=(_CHARDEV,)),
    Rule("usb-serial", backends=(_CHARDEV,)),
    Rule("usb-braille", backends=(_CHARDEV,)),
    Rule("usb-redir", backends=(_CHARDEV,)),
    Rule("ccid-card-passthru", backends=(_CHARDEV,)),
    Rule("pci-serial", backends=(_CHARDEV,)),
    Rule("ivshmem-plain", backends=(_MEMORY,)),
    Rule("ivshmem-doorbell", backends=(_client("ivshmem"),)),
    Rule("pc-dimm", backends=(_MEMORY,), hosts=("memory",)),
    Rule("nvdimm", backends=(_MEMORY,), hosts=("memory", "nvdimm")),
    # No memory is given to the guest, so that it need not give any back.
    Rule("virtio-mem-pci", {"requested-size": 0}, (_MEMORY,), hosts=("memory",)),
    Rule("virtio-pmem-pci", backends=(_MEMORY,), hosts=("memory",)),
    Rule("acpi-erst", backends=(_MEMORY,)),
    Rule("cxl-type3", backends=(_CXL_MEMORY, _CXL_LABELS)),
    # cxl_dsp_realize() wants a port number of its own for each (hw/pci-bridge/cxl_downstream.c).
    Rule("cxl-downstream", {"chassis": 90, "slot": 1}),
    Rule("virtio-crypto-pci", backends=(_CRYPTO,)),
    # A can-bus cannot be deleted (can_bus_can_be_deleted(), net/can/can_core.c).
    Rule("kvaser_pci", {"canbus": "qmr-can"}, hosts=("can",)),
    Rule("pcm3680_pci", _CAN2, hosts=("can",)),
    Rule("mioe3680_pci", _CAN2, hosts=("can",)),
    Rule("ctucan_pci", _CAN2, hosts=("can",)),
    Rule("pci-ipmi-bt", {"bmc": "qmr-bmc"}, hosts=("bmc",)),
    Rule("pci-ipmi-kcs", {"bmc": "qmr-bmc"}, hosts=("bmc",)),
    # A file system cannot be added to a QEMU that runs.
    Rule("virtio-9p*", {"fsdev": "qmr-fs", "mount_tag": "{id}"}, hosts=("fsdev",)),
    Rule("usb-mtp", backends=(_MEMDEV_DIRECTORY,)),
    Rule("pci-bridge*", {"chassis_nr": 91}),
    Rule("pcie-root-port", {"chassis": 92, "slot": 1}),
    Rule("ioh3420", {"chassis": 93, "slot": 1}),
    Rule("xio3130-downstream", {"chassis": 94, "slot": 1}),
    Rule("vhost-user-blk*", backends=(_VHOST_USER,)),
    Rule("vhost-user-fs*", {"tag": "{id}"}, (_VHOST_USER,)),
    Rule("vhost-user-gpio*", backends=(_VHOST_USER,)),
    Rule("vhost-user-i2c*", backends=(_VHOST_USER,)),
    Rule("vhost-user-rng*", backends=(_VHOST_USER,)),
    Rule("vhost-user-scsi*", backends=(_VHOST_USER,)),
    Rule("vhost-user-snd*", backends=(_VHOST_USER,)),
    Rule("vhost-user-vsock*", backends=(_VHOST_USER,)),
    Rule("vhost-user-input*", backends=(_VHOST_USER,), outside="needs KVM"),
    Rule(
        "vhost-scsi*",
        {"wwpn": "naa.5001405bc4a3f5d4"},
        outside="needs the kernel module vhost_scsi",
    ),
    Rule("vhost-vsock*", {"guest-cid": 4711}, outside="needs the kernel module vhost_vsock"),
    Rule("vfio-*", outside=_HOST_DEVICE.format("a PCI device")),
    Rule("usb-host", outside=_HOST_DEVICE.format("a USB device")),
    Rule("u2f-passthru", outside=_HOST_DEVICE.format("a U2F key")),
    Rule("scsi-block", outside=_HOST_DEVICE.format("a SCSI disk")),
    Rule("scsi-generic", outside=_HOST_DEVICE.format("a SCSI device")),
    Rule("virtio-input-host*", outside=_HOST_DEVICE.format("an input device")),
    Rule("ccid-card-emulated", outside=_HOST_DEVICE.format("a smart card")),
    Rule("pvrdma", outside=_HOST_DEVICE.format("an RDMA device")),
    Rule("x-pci-proxy-dev", outside="needs the process of a remote device, and its descriptor"),
)


def _subject(create: str, delete: str, key: str, **arguments: object) -> Backend:
    data = {name.replace("_", "-"): value for name, value in arguments.items()}
    return Backend("", "{id}", create, data, delete, key)


def _plain_object(**arguments: object) -> Backend:
    return _subject("object-add", "object-del", "id", **arguments)


def _character(kind: str, **data: object) -> Backend:
    backend = {"type": kind, "data": data}
    return _subject("chardev-add", "chardev-remove", "id", backend=backend)


def _net(**arguments: object) -> Backend:
    return _subject("netdev_add", "netdev_del", "id", **arguments)


def _block(**arguments: object) -> Backend:
    return _subject("blockdev-add", "blockdev-del", "node-name", **arguments)


_FILTERED = (_NETDEV,)
_DIRECTORY = Backend("", "{place}", "", {}, "", "", "directory")
_IMAGE = Backend("", "{place}", "", {}, "", "", "image")
_KEYS = Backend("", "{place}", "", {}, "", "", "keys")
_HELPER = Backend("", "{place}", "", {}, "", "", "pr-helper")
_NULL: dict[str, object] = {"driver": "null-co", "size": 1 << 20, "read-zeroes": True}

_FILE_NODE = Backend(
    "",
    "{id}-file",
    "blockdev-add",
    {"driver": "file", "filename": "{place}"},
    "blockdev-del",
    "node-name",
    "image",
)


def _formatted(name: str) -> tuple[Backend, tuple[Backend, ...]]:
    # An image of a format, which QEMU itself makes.
    options: dict[str, object] = {"driver": name, "file": "{id}-file", "size": 1 << 20}
    if name == "vpc":
        options["force-size"] = True  # 1 MiB is no number of cylinders
    made = Backend("", "{id}-job", "blockdev-create", {"options": options}, "", "job-id")
    return _block(driver=name, file="{id}-file"), (_FILE_NODE, made)


#: What is no device: by ``KIND:TYPE``, how it is made, and what stands behind it.
SUBJECTS: dict[str, tuple[Backend, tuple[Backend, ...]]] = {
    "object:authz-list": (_plain_object(policy="deny"), ()),
    "object:authz-simple": (_plain_object(identity="nobody"), ()),
    "object:authz-listfile": (_plain_object(filename="{place}/list"), (_DIRECTORY,)),
    "object:authz-pam": (_plain_object(service="qmr"), ()),
    "object:cryptodev-backend-builtin": (_plain_object(), ()),
    "object:cryptodev-vhost-user": (
        _plain_object(chardev="{id}-chardev"),
        (_VHOST_USER._replace(property=""),),
    ),
    "object:colo-compare": (
        Backend(
            "",
            "{id}",
            "object-add",
            {
                "primary_in": "{id}-chardev",
                "secondary_in": "{id}-second",
                "outdev": "{id}-third",
                "iothread": "{id}-thread",
            },
            "object-del",
            "id",
        ),
        (
            _chardev({"type": "null", "data": {}}, ""),
            _chardev({"type": "null", "data": {}}, "", name="second"),
            _chardev({"type": "null", "data": {}}, "", name="third"),
            _object("{id}-thread", qom_type="iothread"),
        ),
    ),
    "object:filter-buffer": (_plain_object(netdev="{id}-net", interval=1000), _FILTERED),
    "object:filter-dump": (
        _plain_object(netdev="{id}-net", file="{place}/dump"),
        (_DIRECTORY, _NETDEV),
    ),
    "object:filter-mirror": (
        _plain_object(netdev="{id}-net", outdev="{id}-chardev"),
        (_NETDEV, _chardev({"type": "null", "data": {}}, "")),
    ),
    "object:filter-redirector": (
        _plain_object(netdev="{id}-net", outdev="{id}-chardev"),
        (_NETDEV, _chardev({"type": "null", "data": {}}, "")),
    ),
    "object:filter-replay": (_plain_object(netdev="{id}-net"), _FILTERED),
    "object:filter-rewriter": (_plain_object(netdev="{id}-net"), _FILTERED),
    "object:iothread": (_plain_object(), ()),
    "object:memory-backend-file": (
        _plain_object(size=1 << 20, mem_path="{place}/memory"),
        (_DIRECTORY,),
    ),
    "object:memory-backend-memfd": (_plain_object(size=1 << 20), ()),
    "object:memory-backend-ram": (_plain_object(size=1 << 20), ()),
    "object:memory-backend-shm": (_plain_object(size=1 << 20), ()),
    "object:pr-manager-helper": (_plain_object(path="{place}"), (_HELPER,)),
    "object:qtest": (
        _plain_object(chardev="{id}-chardev"),
        (_chardev({"type": "null", "data": {}}, ""),),
    ),
    "object:rng-builtin": (_plain_object(), ()),
    "object:rng-egd": (
        _plain_object(chardev="{id}-chardev"),
        (_chardev({"type": "null", "data": {}}, ""),),
    ),
    "object:rng-random": (_plain_object(filename="/dev/urandom"), ()),
    "object:secret": (_plain_object(data="secret"), ()),
    "object:thread-context": (_plain_object(), ()),
    "object:throttle-group": (_plain_object(), ()),
    "object:tls-cipher-suites": (_plain_object(priority="NORMAL"), ()),
    "object:tls-creds-anon": (_plain_object(endpoint="client"), ()),
    "object:tls-creds-psk": (_plain_object(endpoint="client", dir="{place}"), (_KEYS,)),
    "chardev:file": (_character("file", out="{place}/out"), (_DIRECTORY,)),
    "chardev:memory": (_character("memory", size=4096), ()),
    "chardev:mux": (
        _character("mux", chardev="{id}-chardev"),
        (_chardev({"type": "null", "data": {}}, ""),),
    ),
    "chardev:null": (_character("null"), ()),
    "chardev:pty": (_character("pty"), ()),
    "chardev:qemu-vdagent": (_character("qemu-vdagent"), ()),
    "chardev:ringbuf": (_character("ringbuf", size=4096), ()),
    "chardev:serial": (_character("serial", device="/dev/ptmx"), ()),
    "chardev:socket": (
        _character("socket", addr={"type": "unix", "data": {"path": "{place}/socket"}}, wait=False),
        (_DIRECTORY,),
    ),
    "chardev:testdev": (_character("testdev"), ()),
    "chardev:udp": (
        _character("udp", remote={"type": "inet", "data": {"host": "127.0.0.1", "port": "9"}}),
        (),
    ),
    "chardev:wctablet": (_character("wctablet"), ()),
    "chardev:msmouse": (_character("msmouse"), ()),
    "netdev:dgram": (
        _net(
            type="dgram",
            local={"type": "unix", "path": "{place}/one"},
            remote={"type": "unix", "path": "{place}/two"},
        ),
        (_DIRECTORY,),
    ),
    "netdev:hubport": (_net(type="hubport", hubid=8), ()),
    "netdev:socket": (_net(type="socket", listen="127.0.0.1:0"), ()),
    "netdev:stream": (
        _net(type="stream", server=True, addr={"type": "unix", "path": "{place}/stream"}),
        (_DIRECTORY,),
    ),
    "netdev:user": (_net(type="user"), ()),
    "netdev:vhost-user": (
        _net(type="vhost-user", chardev="{id}-chardev"),
        (_VHOST_USER._replace(property=""),),
    ),
    "block:blkdebug": (_block(driver="blkdebug", image=_NULL), ()),
    "block:blkverify": (_block(driver="blkverify", test=_NULL, raw=_NULL), ()),
    "block:blklogwrites": (_block(driver="blklogwrites", file=_NULL, log=_NULL), ()),
    "block:blkreplay": (_block(driver="blkreplay", image=_NULL), ()),
    "block:copy-before-write": (
        _block(driver="copy-before-write", file=_NULL, target=_NULL),
        (),
    ),
    "block:copy-on-read": (_block(driver="copy-on-read", file=_NULL), ()),
    "block:file": (_block(driver="file", filename="{place}"), (_IMAGE,)),
    "block:null-aio": (_block(driver="null-aio"), ()),
    "block:null-co": (_block(driver="null-co"), ()),
    "block:preallocate": (_block(driver="preallocate", file=_NULL), ()),
    "block:quorum": (
        _block(driver="quorum", vote_threshold=1, children=[_NULL, _NULL]),
        (),
    ),
    "block:raw": (_block(driver="raw", file=_NULL), ()),
    "block:throttle": (
        _block(driver="throttle", throttle_group="{id}-group", file=_NULL),
        (_object("{id}-group", qom_type="throttle-group"),),
    ),
    **{
        f"block:{name}": _formatted(name)
        for name in "parallels qcow qcow2 qed vdi vhdx vmdk vpc".split()
    },
    "block:vvfat": (_block(driver="vvfat", dir="{place}", read_only=True), (_DIRECTORY,)),
}

_DAEMON = "needs a daemon of the host ({})"
_DISPLAY = "needs a display of the host"
_SERVER = "needs a storage server ({})"

#: Reasons why QEMU may refuse what is no device.
OUTSIDE: dict[str, str] = {
    "object:can-host-socketcan": _HOST_DEVICE.format("a CAN interface"),
    "object:cryptodev-backend-lkcf": "needs the kernel's crypto keyring",
    "object:dbus-vmstate": _DAEMON.format("D-Bus"),
    "object:input-barrier": _DAEMON.format("Barrier"),
    "object:input-linux": _HOST_DEVICE.format("an input device"),
    "object:memory-backend-epc": _HOST_DEVICE.format("the SGX enclaves"),
    "object:secret_keyring": "needs a key in the kernel's keyring",
    "object:sev-guest": _HOST_DEVICE.format("the SEV processor"),
    "object:tls-creds-x509": "needs X.509 certificates",
    **{
        f"block:{name}": f"needs an image of the format {name}"
        for name in "bochs cloop dmg luks".split()
    },
    "block:compress": "needs an image of a format that compresses",
    "block:replication": "needs a replication partner",
    "block:snapshot-access": "needs a node that has snapshots",
    "object:x-remote-object": "needs a machine x-remote",
    "object:x-vfio-user-server": "needs a machine x-remote",
    "chardev:braille": _DAEMON.format("brltty"),
    "chardev:dbus": _DISPLAY,
    "chardev:parallel": _HOST_DEVICE.format("a parallel port"),
    "chardev:pipe": "needs a pipe in the file system",
    "chardev:spiceport": _DISPLAY,
    "chardev:spicevmc": _DISPLAY,
    "chardev:stdio": "needs a terminal",
    "chardev:vc": _DISPLAY,
    "netdev:bridge": _HOST_DEVICE.format("a bridge"),
    "netdev:l2tpv3": _HOST_DEVICE.format("a network peer"),
    "netdev:netmap": _HOST_DEVICE.format("the kernel module netmap"),
    "netdev:tap": _HOST_DEVICE.format("a tap interface"),
    "netdev:vde": _DAEMON.format("vde_switch"),
    "netdev:vhost-vdpa": _HOST_DEVICE.format("a vDPA device"),
    **{
        f"block:{name}": _SERVER.format(name)
        for name in "ftp ftps gluster http https iscsi nbd nfs rbd ssh".split()
    },
    **{
        f"block:{name}": _HOST_DEVICE.format("a disk")
        for name in "host_cdrom host_device nvme io_uring virtio-blk-vhost-vdpa".split()
    },
}

#: What no machine has by itself.  The ids begin with ``qmr-``.
HOSTS: tuple[Host, ...] = (
    Host("usb-bus", ("-device", "qemu-xhci,id=qmr-usb,p2=8,p3=8")),
    Host("SCSI", ("-device", "virtio-scsi-pci,id=qmr-scsi")),
    Host("virtio-serial-bus", ("-device", "virtio-serial-pci,id=qmr-serial")),
    # Behind a bus of its own, so that it does not depend on another host.
    Host(
        "ccid-bus",
        ("-device", "piix3-usb-uhci,id=qmr-uhci", "-device", "usb-ccid,bus=qmr-uhci.0"),
    ),
    Host("HDA", ("-device", "intel-hda,id=qmr-hda")),
    Host("IndustryPack", ("-device", "tpci200,id=qmr-ipack")),
    Host("nvme-bus", ("-device", "nvme,id=qmr-nvme,serial=qmr")),
    Host("sd-bus", ("-device", "sdhci-pci,id=qmr-sdhci")),
    Host("memory", ("-m", "128M,slots=16,maxmem=16G")),
    Host("nvdimm", ("-machine", "nvdimm=on")),
    Host("cpu", ("-smp", "1,maxcpus=4")),
    Host("can", ("-object", "can-bus,id=qmr-can")),
    # Only one: where it has migration state, a second one is refused.
    Host("bmc", ("-device", "ipmi-bmc-sim,id=qmr-bmc")),
    Host("fsdev", ("-fsdev", "synth,id=qmr-fs")),
)

#: pcie.0 of q35 does not support hotplug: a root port does, and takes one device.
ROOT_PORT = Host("PCI", ("-device", "pcie-root-port,id=qmr-port,chassis=80,slot=80"))

#: Names that say their bus, for a QEMU that was not asked yet; what is not here is PCI.
BUS_BY_NAME = (
    ("usb-ehci", "PCI"),
    ("usb-*", "usb-bus"),
    ("u2f-*", "usb-bus"),
    ("scsi-*", "SCSI"),
    ("virtserialport", "virtio-serial-bus"),
    ("virtconsole", "virtio-serial-bus"),
    ("ccid-card-*", "ccid-bus"),
    ("pc-dimm", ""),
    ("nvdimm", ""),
    ("*-x86_64-cpu", ""),
)
