"""Who took each reference that a leaked device keeps, as QEMU's source says it.

The devices are plugged and unplugged once on the stock QEMU, which is stripped, and on
builds of 10.0 and 11.1 with symbols.  ``make soak`` repeats it.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from qmrinspect.hotplug.kinds import Driver
from qmrinspect.hotplug.recipes import recipe_for
from qmrinspect.hotplug.unplug import drivers
from qmrinspect.hunt.cycle import Hunt, Hunted
from qmrinspect.hunt.own_vm import OwnVm

ROOT = Path(__file__).resolve().parent.parent


class Taken(NamedTuple):
    """References of one kind that remain on objects of one type, and who took them.

    :param edge: the reference's kind; that of an irq is granted by a rule or unexplained.
    :param function: the innermost one of the device, or what serves it; nameless ones of a
        stripped program are passed over.
    :param file: of a program with symbols.
    """

    type: str
    edge: str
    times: int
    function: str
    file: str = ""


#: The irq inside a device that is no more (10.0): its memory may be taken for a live one.
EMBEDDED = ("irq", "", "pci_ich9_ahci_init", "hw/ide/ich.c")

# hw/audio/intel-hda.c intel_hda_realize; hw/display/bochs-display.c bochs_display_realize (the
# edid region in a tail call); hw/usb/hcd-xhci.c usb_xhci_realize, hw/usb/hcd-xhci-pci.c
# usb_xhci_pci_realize; hw/usb/hcd-uhci.c usb_uhci_common_realize; hw/ide/ahci.c ahci_realize;
# hw/pci/pci_bridge.c pci_bridge_initfn and what it calls; ui/console.c graphic_console_init;
# hw/display/qxl.c qxl_realize_primary, which ends in a tail call of qxl_realize_common;
# hw/pci/pci.c pci_qdev_realize: do_pci_register_device, pci_init_bus_master, pci_add_option_rom.

_CHILD = ("memory-region", "child")
_REALIZE = "PCIDeviceClass.realize"
_PCI = "pci-device:DeviceClass.realize"
_XHCI = "base-xhci:DeviceClass.realize"
#: The stock QEMU is stripped: what it does not export is called after classes that have it.
STOCK = {
    "intel-hda": [
        Taken("intel-hda", "subregion", 2, f"intel-hda-generic:{_REALIZE}"),
        Taken(*_CHILD, 3, f"intel-hda-generic:{_REALIZE}"),
        Taken(*_CHILD, 2, _PCI),
    ],
    "bochs-display": [
        Taken("bochs-display", "subregion", 3, f"bochs-display:{_REALIZE}"),
        Taken(*_CHILD, 5, f"bochs-display:{_REALIZE}"),
        Taken(*_CHILD, 3, _PCI),
    ],
    "qemu-xhci": [
        Taken("qemu-xhci", "link", 1, f"pci-xhci:{_REALIZE}"),
        Taken("base-xhci", "child", 1, "pci-xhci:instance_init"),
        Taken("base-xhci", "subregion", 12, _XHCI),
        Taken(*_CHILD, 13, _XHCI),
        Taken(*_CHILD, 2, "msix_init"),
        Taken(*_CHILD, 2, _PCI),
    ],
    "piix3-usb-uhci": [Taken("irq", "", 1, "usb_uhci_common_realize")],
    "ich9-ahci": [Taken("irq", "", 6, "ahci_realize")],
    "qxl": [
        Taken("qxl", "link", 1, "graphic_console_init"),
        Taken(*_CHILD, 1, f"qxl:{_REALIZE}"),
        Taken(*_CHILD, 6, _PCI),
    ],
    # Last: its finalized bus stays on the list of the parent's buses, since it has no exit, and
    # the next unplug by ACPI reads it (acpi_pcihp_get_bsel()): SIGSEGV, now and then.
    "i82801b11-bridge": [
        Taken("i82801b11-bridge", "subregion", 3, "pci_bridge_initfn"),
        Taken(*_CHILD, 8, "pci_bridge_initfn"),
        Taken(*_CHILD, 2, _PCI),
    ],
}
_BOCHS, _HDA = "hw/display/bochs-display.c", "hw/audio/intel-hda.c"
_BRIDGE, _REGISTER = "hw/pci/pci_bridge.c", "hw/pci/pci.c"
_MASTER = [
    Taken(*_CHILD, 1, "do_pci_register_device", _REGISTER),
    Taken(*_CHILD, 1, "pci_init_bus_master", _REGISTER),
]
_QXL = "hw/display/qxl.c"
_QXL_REGIONS = [
    Taken(*_CHILD, 1, "qxl_realize_secondary", _QXL),
    Taken(*_CHILD, 4, "qxl_realize_common", _QXL),
    *_MASTER,
]
#: With symbols, since 10.2: a region takes no reference on its own owner any more.  The
#: "host" link of qemu-xhci is cleared by usb_xhci_pci_exit() of 10.0.13 and 11.1.1.
SHARED = {
    "intel-hda": [],
    "bochs-display": [],
    "qemu-xhci": [],
    "piix3-usb-uhci": [Taken("irq", "", 1, "usb_uhci_common_realize", "hw/usb/hcd-uhci.c")],
    "ich9-ahci": [Taken("irq", "", 6, "ahci_realize", "hw/ide/ahci.c")],
    "qxl": [
        Taken("qxl", "link", 1, "qemu_graphic_console_create", "ui/console.c"),
        *_QXL_REGIONS,
    ],
    "i82801b11-bridge": [
        Taken("i82801b11-bridge", "subregion", 3, "pci_bridge_region_init", _BRIDGE),
        Taken("i82801b11-bridge", "address-space-root", 2, "pci_bridge_initfn", _BRIDGE),
        Taken(*_CHILD, 2, "pci_bridge_initfn", _BRIDGE),
        Taken(*_CHILD, 3, "pci_bridge_init_alias", _BRIDGE),
        Taken(*_CHILD, 3, "pci_bridge_init_vga_aliases", _BRIDGE),
        *_MASTER,
    ],
}
#: With symbols.
DEBUG = {
    **SHARED,
    "intel-hda": [
        Taken("intel-hda", "subregion", 2, "intel_hda_realize", _HDA),
        Taken(*_CHILD, 3, "intel_hda_realize", _HDA),
        *_MASTER,
    ],
    "bochs-display": [
        Taken("bochs-display", "subregion", 3, "bochs_display_realize", _BOCHS),
        Taken(*_CHILD, 5, "bochs_display_realize", _BOCHS),
        Taken(*_CHILD, 1, "pci_add_option_rom", _REGISTER),
        *_MASTER,
    ],
    "qxl": [Taken("qxl", "link", 1, "graphic_console_init", "ui/console.c"), *_QXL_REGIONS],
}
TABLES = {"stock": STOCK, "10.0": DEBUG, "11.1": SHARED}


class Machine(NamedTuple):
    """A QEMU to leak in, and the table for it."""

    vm: OwnVm
    table: Mapping[str, list[Taken]]


@pytest.fixture(scope="module", params=TABLES)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Return the stock QEMU and two with symbols."""
    qemu = "qemu-system-x86_64"
    if request.param != "stock":
        tool = [sys.executable, str(ROOT / "tools" / "build_qemu.py"), request.param]
        qemu = subprocess.run(tool, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    vm = OwnVm(("PCI",), qemu)
    yield Machine(vm, TABLES[request.param])
    vm.close()


def cycle(hunt: Hunt, known: Mapping[str, Driver], driver: str, id: str) -> Hunted:
    """Trace one plug and unplug from birth."""
    hunted = hunt.one(recipe_for(driver, known), id)
    assert hunted.trace is not None
    assert hunted.trace.recording.lost == 0
    assert hunted.trace.recording.method == "execution"
    return hunted


def takers(hunted: Hunted) -> Counter[tuple[str, str, str, str]]:
    """Count all that remains by object type, kind, and function and file of who took it."""
    out: Counter[tuple[str, str, str, str]] = Counter()
    assert hunted.trace is not None and hunted.after is not None
    for address, balance in hunted.trace.balances.items():
        type = hunted.after.index.snapshot.objects[address].type
        steps = [(held.edge.kind, held.step) for held in balance.held]
        for kind, step in [*steps, *(("", step) for step in balance.unexplained)]:
            named = (f for f in step.frames if not f.plumbing and f.how != "address")
            frame = next(named)
            out[type, kind if type != "irq" else "", frame.name, frame.file or ""] += 1
    return out


@pytest.mark.timeout(120)
def test_each_remaining_reference_has_its_taker(machine: Machine) -> None:
    known = machine.vm.drive(drivers)
    hunt = Hunt(machine.vm, trace=True)
    for number, (driver, rows) in enumerate(machine.table.items()):
        hunted = cycle(hunt, known, driver, f"dut{number}")
        assert hunted.outcome in (("leak", "partial-leak") if rows else ("clean",)), driver
        found = takers(hunted)
        found.pop(EMBEDDED, None)
        assert found == {(r.type, r.edge, r.function, r.file): r.times for r in rows}, driver
        check(hunted)
        told = [cause.text for cause in hunted.judgement.causes]
        assert all("taken in" in text and text.endswith(", never dropped") for text in told)
        for row in rows[:1]:
            place = f"{row.function} ({row.file}:" if row.file else row.function
            assert any("taken in" in text and place in text for text in told), told


def check(hunted: Hunted) -> None:
    """Check what holds for every trace: it adds up, and everything has a name."""
    assert hunted.trace is not None
    for one in hunted.trace.balances.values():
        assert not one.life.refused
        assert not one.unnamed
        assert not one.choice
        assert not one.denied
        assert sum(step.event.by for step in one.life.steps) == one.life.count
