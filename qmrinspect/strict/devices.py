"""Devices, buses, clocks, GPIOs and irqs
-------------------------------------
"""

from __future__ import annotations

from ..snapshot import Snapshot
from .memory import plain_name
from .tally import Tally

__all__ = ["relate"]

_BUSES_MAX = 256
_LINES_MAX = 1 << 16
_FUNCTIONS = 256  # PCI_DEVFN_MAX
_MOST = 0.5


def relate(tally: Tally, snapshot: Snapshot) -> None:
    """Count what holds between devices and what they consist of."""
    _devices(tally, snapshot)
    _buses(tally, snapshot)
    _clocks(tally, snapshot)
    _gpios(tally, snapshot)
    _irqs(tally, snapshot)
    _places(tally, snapshot)


def _devices(tally: Tally, snapshot: Snapshot) -> None:
    homes = {p.target for p in snapshot.props if p.role == "child" and p.name == "peripheral"}
    names = {p.target: p.name for p in snapshot.props if p.role == "child" and p.holder in homes}
    ident = tally.asks("a device in /machine/peripheral has the name as its id", "DeviceState.id")
    for address, device in snapshot.devices.items():
        if ident and address in names:
            ident(device.id == names[address])
    for flag in ("realized", "pending_deleted_event", "hotplugged"):
        put = tally.asks(f"a device's {flag} is a bool", f"DeviceState.{flag}", False)
        for address in snapshot.devices:
            record = tally.record("DeviceState", address)
            if put and record is not None:
                put(record[flag] < 2)
    most = tally.asks("most devices are realized", "DeviceState.realized")
    if most and snapshot.devices:
        realized = sum(device.realized for device in snapshot.devices.values())
        most(realized > len(snapshot.devices) * _MOST)
    started = tally.asks(
        "few devices wait to be deleted", "DeviceState.pending_deleted_event", False
    )
    if started and snapshot.devices:
        waiting = sum(device.pending_deleted for device in snapshot.devices.values())
        started(waiting < len(snapshot.devices) * _MOST)


def _buses(tally: Tally, snapshot: Snapshot) -> None:
    count = tally.asks("a bus counts its children", "BusState.num_children BusState.children")
    name = tally.asks("a bus has the name of the child that it is", "BusState.name")
    index = tally.asks("each child of a bus has an index of its own", "BusChild.index")
    listed = tally.asks(
        "a bus is on its parent's list", "DeviceState.child_bus BusState.sibling BusState.parent"
    )
    names = {p.target: p.name for p in snapshot.props if p.role == "child"}
    for bus in snapshot.buses.values():
        record = tally.record("BusState", bus.address)
        if record is None:
            continue
        if count:
            count(record.signed("num_children") == len(bus.children))
        # The main system bus is made before it is given a parent, under another name.
        system = snapshot.objects[bus.address].type == "System"
        if name and bus.address in names and not system:
            name(plain_name(names[bus.address]) == plain_name(bus.name))
        if index and bus.children:
            numbers = {child.number for child in bus.children}
            index(len(numbers) == len(bus.children) and min(numbers) >= 0)
        if listed and bus.parent:
            listed(bus.address in _buses_of(tally, bus.parent))


def _buses_of(tally: Tally, device: int) -> list[int]:
    out: list[int] = []
    at = tally.word(device + tally.offset("DeviceState.child_bus"))
    while at and at not in out and len(out) < _BUSES_MAX:
        out.append(at)
        at = tally.word(at + tally.offset("BusState.sibling"))
    return out


def _clocks(tally: Tally, snapshot: Snapshot) -> None:
    lists = "DeviceState.clocks NamedClockList.node"
    clock = tally.asks("a list of clocks leads to clocks", f"{lists} NamedClockList.clock")
    name = tally.asks("a clock has the name of the child that it is", "NamedClockList.name")
    names = {(p.holder, p.target): p.name for p in snapshot.props if p.role == "child"}
    for row in snapshot.clocks:
        obj = snapshot.objects.get(row.clock)
        if clock:
            clock(obj is not None and obj.type == "clock")
        if name and (row.device, row.clock) in names:
            name(names[row.device, row.clock] == row.name)
        for flag in ("output", "alias"):
            put = tally.asks(f"a clock's {flag} is a bool", f"NamedClockList.{flag}", False)
            record = tally.record("NamedClockList", row.address)
            if put and record is not None:
                put(record[flag] < 2)


def _gpios(tally: Tally, snapshot: Snapshot) -> None:
    """A list of GPIO lines has inputs or outputs, and its place in a QLIST closes."""
    counts = tally.asks(
        "a list of GPIO lines has some",
        "NamedGPIOList.num_in NamedGPIOList.num_out DeviceState.gpios",
    )
    link = tally.asks("a list of GPIO lines is linked", "NamedGPIOList.node DeviceState.gpios")
    name = tally.asks("a list of GPIO lines has a name or none", "NamedGPIOList.name")
    for row in snapshot.gpios:
        record = tally.record("NamedGPIOList", row.address)
        if record is None:
            continue
        if counts:
            ins, outs = record.signed("num_in"), record.signed("num_out")
            counts(0 <= ins < _LINES_MAX and 0 <= outs < _LINES_MAX and ins + outs > 0)
        if link:
            # QLIST_ENTRY is {next, address of the pointer that leads here}.
            link(tally.word(tally.word(record.at("node") + 8)) == row.address)
        if name and record["name"]:
            name((tally.text(record["name"]) or "\0").isprintable())


def _irqs(tally: Tally, snapshot: Snapshot) -> None:
    start, end = tally.context.statics.program
    handler = tally.asks("an irq's handler is code", "IRQState.handler")
    number = tally.asks("an irq's number is small", "IRQState.n", False)
    order = tally.asks("a GPIO input has its place as its number", "IRQState.n NamedGPIOList.in")
    for address, obj in snapshot.objects.items():
        record = tally.record("IRQState", address) if obj.type == "irq" else None
        if record is None:
            continue
        if handler:
            # A module has code of its own; it is no data of the program's.
            low, high = tally.context.statics.data
            handler(start <= record["handler"] < end and not low <= record["handler"] < high)
        if number:
            number(record["n"] < _LINES_MAX)
    for row in snapshot.gpios:
        for i, irq in enumerate(row.inputs):
            record = tally.record("IRQState", irq) if irq in snapshot.objects else None
            if order and record is not None and (i or record["n"]):
                order(record["n"] == i)


def _places(tally: Tally, snapshot: Snapshot) -> None:
    """A function has its own number on its bus (hw/pci/pci.c do_pci_register_device)."""
    put = tally.asks("a function has a number of its own on its bus", "PCIDevice.devfn", False)
    taken: set[tuple[int, int]] = set()
    for address, device in snapshot.devices.items() if put else ():
        record = tally.record("PCIDevice", address) if device.realized else None
        if (
            put is None
            or record is None
            or not tally.context.is_a(snapshot.objects[address].type, "pci-device")
        ):
            continue
        place = device.parent_bus, record.signed("devfn")
        put(0 <= place[1] < _FUNCTIONS and place not in taken)
        taken.add(place)
