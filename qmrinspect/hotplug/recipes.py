"""Recipes
-------

What a device needs to be plugged without a guest: a bus, what stands behind it, and
properties.  Plain data; a driver that is not named here gets the recipe of its bus.

The bus types are QEMU's own (``DeviceClass.bus_type``), as ``info qdm`` prints them.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

__all__ = [
    "HOSTS",
    "RULES",
    "Backend",
    "Driver",
    "Host",
    "Recipe",
    "Rule",
    "parse_qdm",
    "recipe_for",
    "vm_arguments",
]


class Driver(NamedTuple):
    """A device type as ``info qdm`` shows it; ``bus`` is "" for one without a bus."""

    name: str
    bus: str = ""
    user_creatable: bool = True


class Backend(NamedTuple):
    """What stands behind a device and is made and removed through QMP.

    ``{id}`` in a string argument is the device's id.  ``property`` is the device's
    property that names the backend, or "" where nothing names it.
    """

    property: str
    name: str
    create: str
    arguments: Mapping[str, object]
    delete: str
    delete_key: str


class Recipe(NamedTuple):
    """How to plug one driver.

    :ivar bus: the type of bus it goes on, or "".
    :ivar properties: of the device, beside ``driver`` and ``id``; ``{id}`` is its id.
    :ivar backends: made before it and removed after it, in this order and backwards.
    :ivar outside: why this machine cannot have it (a host device, a daemon), or "".
    """

    driver: str
    bus: str
    properties: Mapping[str, object] = {}
    backends: tuple[Backend, ...] = ()
    outside: str = ""


class Host(NamedTuple):
    """What a VM needs at its start so that a type of bus is there, with room on it."""

    bus: str
    arguments: tuple[str, ...]


class Rule(NamedTuple):
    """What drivers need whose names match a pattern (:mod:`fnmatch`); all that match add up."""

    pattern: str
    properties: Mapping[str, object] = {}
    backends: tuple[Backend, ...] = ()
    outside: str = ""


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

_CHARDEV = Backend(
    "chardev",
    "{id}-chardev",
    "chardev-add",
    {"backend": {"type": "null", "data": {}}},
    "chardev-remove",
    "id",
)

# Sizes are in bytes; ivshmem's must be a power of two (hw/misc/ivshmem.c).
_MEMORY = Backend(
    "memdev",
    "{id}-memory",
    "object-add",
    {"qom-type": "memory-backend-ram", "size": 1 << 27, "share": True},
    "object-del",
    "id",
)

_CRYPTO = Backend(
    "cryptodev",
    "{id}-crypto",
    "object-add",
    {"qom-type": "cryptodev-backend-builtin"},
    "object-del",
    "id",
)

_CAN = Backend("", "{id}-can", "object-add", {"qom-type": "can-bus"}, "object-del", "id")


# Rules -----------------------------------------------------------------------------

_VHOST_USER = "needs a vhost-user daemon"

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
    Rule("pc-dimm", backends=(_MEMORY,)),
    Rule("nvdimm", backends=(_MEMORY,)),
    Rule("virtio-mem-pci", backends=(_MEMORY,)),
    Rule("virtio-pmem-pci", backends=(_MEMORY,)),
    Rule("acpi-erst", backends=(_MEMORY,)),
    # cxl_dsp_realize() wants a port number of its own for each (hw/pci-bridge/cxl_downstream.c).
    Rule("cxl-downstream", {"chassis": 90, "slot": 1}),
    Rule("virtio-crypto-pci", backends=(_CRYPTO,)),
    Rule("kvaser_pci", {"canbus": "{id}-can"}, (_CAN,)),
    Rule("pcm3680_pci", {"canbus0": "{id}-can", "canbus1": "{id}-can"}, (_CAN,)),
    Rule("mioe3680_pci", {"canbus0": "{id}-can", "canbus1": "{id}-can"}, (_CAN,)),
    Rule("ctucan_pci", {"canbus0": "{id}-can", "canbus1": "{id}-can"}, (_CAN,)),
    Rule("pci-bridge*", {"chassis_nr": 91}),
    Rule("pcie-root-port", {"chassis": 92, "slot": 1}),
    Rule("ioh3420", {"chassis": 93, "slot": 1}),
    Rule("xio3130-downstream", {"chassis": 94, "slot": 1}),
    Rule("vhost-user-*", outside=_VHOST_USER),
    Rule("vhost-scsi*", outside="needs the kernel module vhost_scsi"),
    Rule("vhost-vsock*", outside="needs the kernel module vhost_vsock"),
    Rule("vfio-*", outside="needs a PCI device of the host"),
    Rule("usb-host", outside="needs a USB device of the host"),
    Rule("u2f-passthru", outside="needs a U2F key of the host"),
    Rule("scsi-block", outside="needs a SCSI disk of the host"),
    Rule("scsi-generic", outside="needs a SCSI device of the host"),
    Rule("virtio-input-host*", outside="needs an input device of the host"),
    Rule("ccid-card-emulated", outside="needs a smart card of the host"),
    Rule("pvrdma", outside="needs an RDMA device of the host"),
)

#: The buses that no machine has room on by itself.  The ids begin with ``qmr-``.
HOSTS: tuple[Host, ...] = (
    Host("usb-bus", ("-device", "qemu-xhci,id=qmr-usb,p2=8,p3=8")),
    Host("SCSI", ("-device", "virtio-scsi-pci,id=qmr-scsi")),
    Host("virtio-serial-bus", ("-device", "virtio-serial-pci,id=qmr-serial")),
)

# pcie.0 of q35 does not support hotplug: a root port does, and takes one device.
_ROOT_PORT = Host("PCI", ("-device", "pcie-root-port,id=qmr-port,chassis=80,slot=80"))


def recipe_for(driver: str, drivers: Iterable[Driver] | Mapping[str, Driver] = ()) -> Recipe:
    """Put together what a driver needs.

    :param driver: the name of its type, as for ``device_add``.
    :param drivers: what this QEMU has, from :func:`parse_qdm`; a driver that is not in it is
        taken for a PCI device when its name does not say otherwise.
    """
    known = drivers if isinstance(drivers, Mapping) else {item.name: item for item in drivers}
    # An alias leads to its driver.
    driver, bus, _ = known.get(driver) or Driver(driver, _guess_bus(driver))
    properties: dict[str, object] = {}
    backends: dict[str, Backend] = {}
    outside = ""
    for rule in RULES:
        if fnmatch.fnmatchcase(driver, rule.pattern):
            properties.update(rule.properties)
            backends.update((backend.name, backend) for backend in rule.backends)
            outside = rule.outside or outside
    return Recipe(driver, bus, properties, tuple(backends.values()), outside)


def vm_arguments(recipes: Iterable[Recipe], machine: str = "pc") -> list[str]:
    """Return QEMU's arguments for a VM in which all the recipes find their bus.

    :param machine: the VM's ``-machine``.
    """
    buses = {recipe.bus for recipe in recipes}
    hosts = [host for host in HOSTS if host.bus in buses]
    if "PCI" in buses and "q35" in machine.split(",")[0]:
        hosts.append(_ROOT_PORT)
    return [word for host in hosts for word in host.arguments]


# name "virtio-net-pci", bus PCI, alias "virtio-net", desc "...", no-user
_QDM_LINE = re.compile(
    r'^name "(?P<name>[^"]+)"(?:, bus (?P<bus>[^,\r\n]+))?'
    r'(?:, alias "(?P<alias>[^"]+)")?(?:, desc "[^"\r\n]*")?(?P<hidden>, no-user)?',
    re.MULTILINE,
)


def parse_qdm(text: str) -> dict[str, Driver]:
    """Read what the HMP command ``info qdm`` prints (``qdev_print_devinfo()``).

    :return: the drivers by name; an alias leads to the driver it stands for.
    """
    found: dict[str, Driver] = {}
    for line in _QDM_LINE.finditer(text):
        driver = Driver(line["name"], line["bus"] or "", line["hidden"] is None)
        found[driver.name] = driver
        if line["alias"]:
            found[line["alias"]] = driver
    return found


# Names that say their bus, for a QEMU that was not asked yet; what is not here is PCI.
_BUS_BY_NAME = (
    ("usb-ehci", "PCI"),
    ("usb-*", "usb-bus"),
    ("u2f-*", "usb-bus"),
    ("scsi-*", "SCSI"),
    ("virtserialport", "virtio-serial-bus"),
    ("virtconsole", "virtio-serial-bus"),
    ("pc-dimm", ""),
    ("nvdimm", ""),
    ("*-x86_64-cpu", ""),
)


def _guess_bus(driver: str) -> str:
    return next((bus for name, bus in _BUS_BY_NAME if fnmatch.fnmatchcase(driver, name)), "PCI")
