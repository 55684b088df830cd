"""What devices that leaked still own
----------------------------------

A device that was unplugged and lives on keeps the names of its RAM blocks, which QEMU
makes of its place on the bus (``pcibus_get_dev_path()``, hw/pci/pci.c).  QEMU aborts when
another device comes to the same place and asks for the same name: ``RAMBlock "..." already
registered, abort!`` (``qemu_ram_set_idstr()``, softmmu/physmem.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..monitor.base import CommandError, Monitor

__all__ = ["StillOwned", "chains", "leftovers"]

# "0000:00:02.0:00.0/vga.vram": domain, bus, and slot.function of each device on the way.
_BLOCK = re.compile(r"^ *((?:[0-9a-f]{4}):(?:[0-9a-f]{2})(?::[0-9a-f]{2}\.[0-7])+)/", re.M)
_DEPTH_MAX = 16


class StillOwned(CommandError):
    """QEMU would abort: a device that leaked owns what this one would ask for."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__("device_add", "GenericError", text)
        self.text, self.hint = text, hint


def leftovers(monitor: Monitor) -> frozenset[str]:
    """Return the places on PCI buses where no device is and whose RAM blocks are there.

    :return: ``0000:00:04.0``, and so on through bridges: ``0000:00:02.0:00.0``.
    :raises MonitorError: QEMU does not answer.
    """
    owners = set(_BLOCK.findall(monitor.hmp("info ramblock")))
    if not owners:
        return frozenset()
    try:
        buses = monitor.execute("query-pci")
    except CommandError:
        return frozenset()  # a machine without PCI
    there = {place for place, _ in _placed(buses)}
    return frozenset(owners - there)


def chains(buses: object) -> dict[str, str]:
    """Return where the bridges are that have an id, by it; of what ``query-pci`` returned."""
    return {
        str(device["qdev_id"]): chain
        for chain, device in _placed(buses)
        if device.get("qdev_id") and "pci_bridge" in device
    }


def _placed(buses: object) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield all devices, each with its place."""
    for bus in buses if isinstance(buses, list) else []:
        number = bus.get("bus") if isinstance(bus, dict) else None
        if isinstance(number, int):
            yield from _devices(bus, f"0000:{number:02x}", 0)


def _devices(bus: object, above: str, depth: int) -> Iterator[tuple[str, dict[str, object]]]:
    devices = bus.get("devices", []) if isinstance(bus, dict) else []
    for device in devices if isinstance(devices, list) and depth < _DEPTH_MAX else []:
        slot, function = device.get("slot"), device.get("function")
        if not isinstance(slot, int) or not isinstance(function, int):
            continue  # no device that QEMU would list
        chain = f"{above}:{slot:02x}.{function}"
        yield chain, device
        yield from _devices(device.get("pci_bridge"), chain, depth + 1)
