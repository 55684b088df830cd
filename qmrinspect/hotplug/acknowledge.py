"""The guest's part
----------------

Releases a device that was asked for: waits for the guest that runs, or does what a
guest would have done, by the registers that it would have written.
"""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from ..monitor.base import CommandError, Monitor
from .kinds import Recipe
from .plugging import Plugged, now_us, parse_devfn

__all__ = ["Acknowledged", "acknowledge", "prepare", "unparented"]

# How often a guest is looked at that has to let a device go, in seconds.
_GUEST_POLL = 0.02

# Of the ACPI PCI hotplug registers (docs/specs/acpi_pci_hotplug): both are 32 bits wide.
_EJECT = 0x08
_SELECT = 0x10

# Of the CPU and memory hotplug registers (docs/specs/acpi_cpu_hotplug, acpi_mem_hotplug):
# a selector of 32 bits at 0, control flags of 8 bits with "eject" as bit 3.
_CPU_FLAGS, _MEMORY_FLAGS = 0x04, 0x14
_EJECT_BIT = 1 << 3

# Of PCI's configuration space: mechanism 1 and the list of capabilities (<linux/pci_regs.h>).
_CONFIG_ADDRESS, _CONFIG_DATA = 0xCF8, 0xCFC
_CAPABILITIES, _EXPRESS = 0x34, 0x10
_CAPABILITIES_MAX = 48
# Slot control of the express capability: power indicator off, power controller off.
_SLOT_CONTROL = 0x18
_POWERED_OFF = 0x0300 | 0x0400


class Acknowledged(NamedTuple):
    """How an unplug was acknowledged, and when (microseconds since 1970).

    ``how`` is ``acpi`` (the eject register was written), ``slot-power`` (a PCIe slot was
    switched off), ``reset`` (system_reset), ``sync`` (device_del alone did it) or ``guest``
    (left to a guest that runs).
    """

    how: str
    time_us: int


def unparented(monitor: Monitor, id: str) -> bool:
    """Say whether ``/machine/peripheral`` no longer has a child of this id."""
    children = monitor.execute("qom-list", {"path": "/machine/peripheral"})
    if not isinstance(children, list):
        return False
    return not any(isinstance(child, dict) and child.get("name") == id for child in children)


def acknowledge(
    monitor: Monitor, plugged: Plugged, timeout: float | None = None, insist: bool = False
) -> Acknowledged:
    """Do what the guest would do about a requested unplug.

    Where the bus has ACPI hotplug (pc, and the root ports of q35), its eject register is
    written: the bus is selected by its number (``bsel``), then the slot's bit is set
    (``pci_write()``, hw/acpi/pcihp.c).  CPUs and DIMMs have registers of the same sort.
    A PCIe port without ACPI has its slot switched off
    (``pcie_cap_slot_write_config()``, hw/pci/pcie.c).  USB, SCSI and the like are gone
    already.  What is left needs ``system_reset``, and gets it in a VM whose CPUs do not run.

    :param timeout: seconds that a guest which runs has to do it itself; None when nobody is there.
    :param insist: do its part when that time has gone by; without it the device stays.
    :raises CommandError: QEMU refused.
    :raises MonitorLost: QEMU died of it.
    """
    if unparented(monitor, plugged.id):
        return Acknowledged("sync", now_us())
    running = _runs(monitor)
    if timeout is not None and running:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            # Events gather meanwhile; none is taken.
            monitor.wait_event(lambda event: False, _GUEST_POLL)
            if unparented(monitor, plugged.id):
                return Acknowledged("guest", now_us())
        if not insist:
            return Acknowledged("guest", now_us())
    if plugged.recipe.driver.endswith("-cpu"):
        return _eject(monitor, "acpi-cpu-hotplug", _cpu_index(monitor, plugged), _CPU_FLAGS)
    if plugged.recipe.driver in ("pc-dimm", "nvdimm"):
        return _eject(monitor, "acpi-mem-hotplug", _memory_slot(monitor, plugged), _MEMORY_FLAGS)
    if plugged.slot is None or plugged.bus is None:
        return Acknowledged("sync", now_us())
    handler = monitor.qom_get(plugged.bus, "hotplug-handler")
    bsel = monitor.qom_get(plugged.bus, "acpi-pcihp-bsel")
    base = None
    if isinstance(handler, str):
        base = monitor.qom_get(handler, "acpi-pcihp-io-base")
    if isinstance(bsel, int) and isinstance(base, int) and base:
        _write_port(monitor, base + _SELECT, bsel)
        now = now_us()
        try:
            _write_port(monitor, base + _EJECT, 1 << plugged.slot)
        except CommandError:
            # A device may complain as it goes, as x-pci-proxy-dev does: it closes its socket
            # before its memory listener is gone (pci_proxy_dev_exit(), hw/remote/proxy.c).
            if not unparented(monitor, plugged.id):
                raise
        return Acknowledged("acpi", now)
    now = now_us()
    if isinstance(handler, str) and _switch_off(monitor, handler):
        return Acknowledged("slot-power", now)
    if running:
        return Acknowledged("guest", now)
    monitor.execute("system_reset")
    return Acknowledged("reset", now)


def _runs(monitor: Monitor) -> bool:
    status = monitor.execute("query-status")
    return isinstance(status, dict) and bool(status.get("running"))


def prepare(monitor: Monitor, recipe: Recipe) -> None:
    """Do what the guest's firmware would do before a device of this sort can be unplugged.

    The CPU hotplug block starts in a mode that knows no unplug; a zero at its base
    switches it (docs/specs/acpi_cpu_hotplug).
    """
    if recipe.driver.endswith("-cpu"):
        base = _registers(monitor, "acpi-cpu-hotplug")
        if base is not None:
            _write_port(monitor, base, 0)


def _eject(monitor: Monitor, registers: str, index: int | None, flags: int) -> Acknowledged:
    base = _registers(monitor, registers)
    if base is None or index is None:
        return Acknowledged("sync", now_us())
    _write_port(monitor, base, index)
    now = now_us()
    _write_port(monitor, base + flags, _EJECT_BIT, "b")
    return Acknowledged("acpi", now)


def _switch_off(monitor: Monitor, port: str) -> bool:
    """Switch a PCIe slot off; say whether there is such a port on bus 0 of q35.

    Ports further down have the bus numbers that firmware gave them, if it did.
    """
    devfn = parse_devfn(monitor.qom_get(port, "addr"))
    bus = monitor.qom_get(port, "parent_bus")
    if devfn is None or not isinstance(bus, str) or not bus.endswith("/pcie.0"):
        return False
    at = _config_read(monitor, devfn, _CAPABILITIES) & 0xFC
    for _ in range(_CAPABILITIES_MAX):
        head = _config_read(monitor, devfn, at) if at else 0
        if head & 0xFF == _EXPRESS:
            _config_select(monitor, devfn, at + _SLOT_CONTROL)
            _write_port(monitor, _CONFIG_DATA, _POWERED_OFF, "h")
            return True
        at = head >> 8 & 0xFC
    return False


def _config_select(monitor: Monitor, devfn: int, register: int) -> None:
    _write_port(monitor, _CONFIG_ADDRESS, 1 << 31 | devfn << 8 | register)


def _config_read(monitor: Monitor, devfn: int, register: int) -> int:
    _config_select(monitor, devfn, register)
    # "portw[0x0cfc] = 0x00000040"
    said = monitor.hmp(f"i/w {_CONFIG_DATA:#x}").rpartition("= ")[2]
    try:
        return int(said, 16)
    except ValueError:
        raise CommandError("i", "GenericError", said.strip()) from None


# "    000000000000af00-000000000000af1f (prio 0, i/o): acpi-cpu-hotplug"
_REGION = r"^ *([0-9a-f]{16})-[0-9a-f]{16} \([^)]*\): %s(?:-legacy)?\s*$"


def _registers(monitor: Monitor, name: str) -> int | None:
    """Return the I/O port at which registers begin, None where this machine has none."""
    found = re.search(_REGION % re.escape(name), monitor.hmp("info mtree"), re.M)
    return int(found[1], 16) if found else None


def _cpu_index(monitor: Monitor, plugged: Plugged) -> int | None:
    cpus = monitor.execute("query-cpus-fast")
    for cpu in cpus if isinstance(cpus, list) else []:
        if cpu.get("qom-path") == plugged.path:
            return int(cpu["cpu-index"])
    return None


def _memory_slot(monitor: Monitor, plugged: Plugged) -> int | None:
    devices = monitor.execute("query-memory-devices")
    for device in devices if isinstance(devices, list) else []:
        if device.get("data", {}).get("id") == plugged.id:
            return int(device["data"]["slot"])
    return None


def _write_port(monitor: Monitor, port: int, value: int, size: str = "w") -> None:
    # HMP "o/w" writes 32 bits to an I/O port, "o/h" 16, "o/b" 8 (hmp_ioport_write()); it
    # prints only errors.
    said = monitor.hmp(f"o/{size} {port:#x} {value:#x}").strip()
    if said:
        raise CommandError("o", "GenericError", said)
