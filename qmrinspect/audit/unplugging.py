"""Unplugs that wait
-----------------

The sentence on a device that was asked to go and that the guest has not released, the same
in every verb.
"""

from __future__ import annotations

from typing import NamedTuple

from ..index import Index
from ..snapshot import Unplugging

__all__ = ["WAYS", "death_by_reset", "unplugging_json", "unplugging_of", "unplugging_text"]


class Way(NamedTuple):
    """How a guest is asked, and what ends its time.

    :param reset: whether ``system_reset`` takes the device out.
    :param ours: whether ``unplug`` can do the guest's part.
    """

    asked: str
    does: str
    reset: bool
    ours: bool = True


#: By :attr:`Unplugging.way`.
WAYS = {
    # hw/acpi/pcihp.c acpi_pcihp_device_unplug_request_cb, acpi_pcihp_reset
    "acpi-pci": Way("by ACPI PCI hotplug", "ejects its slot", True),
    # hw/pci/pcie.c pcie_cap_slot_unplug_request_cb, pcie_cap_slot_write_config
    "pcie-button": Way("by the PCIe attention button", "switches the slot off", False),
    # hw/pci/shpc.c shpc_device_unplug_request_cb, shpc_slot_command
    "shpc": Way(
        "by the button of a Standard Hot-Plug Controller", "switches the slot off", False, False
    ),
    # hw/acpi/memory_hotplug.c acpi_memory_unplug_request_cb
    "dimm": Way("by ACPI memory hotplug", "ejects the module", False),
    # hw/acpi/cpu.c acpi_cpu_unplug_request_cb
    "cpu": Way("by ACPI CPU hotplug", "ejects the CPU", False),
}


def unplugging_of(index: Index, address: int) -> Unplugging | None:
    """Return what is known of the unplug of a device, None when none was asked for."""
    rows = index.snapshot.unplugging
    return next((row for row in rows if row.device == address), None)


def unplugging_json(index: Index, address: int) -> dict[str, str] | None:
    """Return the unplug of a device as answers have it, None when none was asked for."""
    row = unplugging_of(index, address)
    if row is None:
        return None
    return {"way": row.way, "by": f"{row.by:#x}", "text": unplugging_text(index, row)}


def unplugging_text(index: Index, row: Unplugging) -> str:
    """Return in a sentence what a device waits for, and what would end it."""
    way = WAYS[row.way]
    by = f" of {index.label(row.by)}" if row.by else ""
    death = death_by_reset(index, row)
    reset = ", or system_reset" if way.reset and not death else ""
    name = _id(index, row)
    ours = f", or qmr unplug {name} in its place" if name and way.ours else ""
    text = (
        f"its unplug was requested {way.asked}{by}, and waits for the guest: no leak; it goes "
        f"when the guest {way.does}{reset}{ours}"
    )
    return f"{text}; system_reset would kill QEMU: {death}" if death else text


def death_by_reset(index: Index, row: Unplugging) -> str:
    """Say why a reset that takes the device out kills QEMU; empty where none is known to.

    An entry of the container of resets goes with the device, and the reset that walks the
    container asserts that none does (hw/core/resetcontainer.c, since 9.1).
    """
    if not WAYS[row.way].reset or not row.reset:
        return ""
    name = _id(index, row) or index.label(row.device)
    return (
        f"the reset ejects {name}, whose reset handler <{row.reset:#x}> is on the list that the "
        "reset walks, and that must not change meanwhile (resettable_container_child_foreach)"
    )


def _id(index: Index, row: Unplugging) -> str:
    device = index.snapshot.devices.get(row.device)
    return device.id if device is not None and device.id else ""
