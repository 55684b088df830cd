"""The walk, on machines built from bytes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from fakeimage import LINK_DIRECT, LINK_STRONG
from fakes import LAYOUTS, FakeMachine
from faketarget import GUEST, FakeTarget

from qmrinspect.audit import check
from qmrinspect.index import Index
from qmrinspect.layout import Layout
from qmrinspect.records.enclosing import Enclosing
from qmrinspect.records.glib import HASH_VARIANTS, HashVariant, entries, open_table, probe
from qmrinspect.search.pointers import find_pointers
from qmrinspect.snapshot import Obj, TypeInfo
from qmrinspect.walk import take

pytestmark = pytest.mark.unit


# What is decoded


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.source)
@pytest.mark.parametrize("glib", HASH_VARIANTS, ids=lambda glib: glib.name)
@pytest.mark.parametrize("low", (False, True), ids=("wide", "4-byte-entries"))
def test_every_object_is_found_and_every_reference_explained(
    layout: Layout, glib: HashVariant, low: bool
) -> None:
    machine = FakeMachine(layout=layout, glib=glib, low=low)
    snapshot = machine.snapshot()
    assert not snapshot.notes
    assert {(o.address, o.type, o.ref) for o in snapshot.objects.values()} == {
        (o.address, o.type, o.ref) for o in machine.objects
    }
    report = check(snapshot)
    assert not report.findings
    assert report.exact == report.objects == len(machine.objects)
    assert report.observed == sum(o.ref for o in machine.objects)
    assert report.explained + report.by_rule == report.observed


def test_what_encloses_an_address_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Counted(Enclosing):
        def __init__(self, types: Mapping[str, TypeInfo], objects: Mapping[int, Obj]) -> None:
            made.append(len(objects))
            super().__init__(types, objects)

    monkeypatch.setattr("qmrinspect.records.context.Enclosing", Counted)
    machine = FakeMachine()
    snapshot, context = take(machine.build(), machine.layout)
    find_pointers(context, snapshot.objects, {machine.nic.address}, ())
    assert made == [len(snapshot.objects)]
    # What was left out since encloses nothing any more.
    inside = machine.nic.address + 8
    objects = dict(snapshot.objects)
    assert context.enclosing(objects)(inside) == machine.nic.address
    del objects[machine.nic.address]
    assert context.enclosing(objects)(inside) != machine.nic.address


def test_structures_are_decoded() -> None:
    machine = FakeMachine()
    machine.clock(machine.serial, "clk")
    snapshot = machine.snapshot()
    index = Index(snapshot)
    assert snapshot.target.machine == "pc"
    assert snapshot.target.qemu_version == "10.0.13 (fake)"
    assert index.path(machine.nic.address) == "/machine/peripheral/nic0"
    assert index.path(machine.msix.address) == "/machine/peripheral/nic0/msix-table[1]"
    assert index.resolve("nic0").address == machine.nic.address
    assert index.containing(machine.bar.address + 8) == machine.bar.address
    assert index.containing(machine.nic.address + 0x300) == machine.nic.address
    device = snapshot.devices[machine.nic.address]
    assert (device.id, device.realized, device.parent_bus) == ("nic0", True, machine.pci.address)
    bus = snapshot.buses[machine.pci.address]
    assert [k.child for k in bus.children] == [machine.serial.address, machine.nic.address]
    bar = snapshot.regions[machine.bar.address]
    assert bar.name == "nic-bar" and bar.owner == machine.nic.address
    assert bar.subregions == (machine.msix.address, machine.pba.address)
    assert (bar.addr, bar.size) == (0xFEB00000, 0x1000)
    assert snapshot.regions[machine.system.address].size == 1 << 64
    assert snapshot.regions[machine.low_ram.address].kind == "alias"
    memory, ports = snapshot.spaces.values()
    assert (memory.name, ports.name) == ("memory", "I/O")
    assert memory.root == machine.system.address
    assert [snapshot.listeners[a].name for a in memory.listeners] == ["memory-listener"]
    view = snapshot.views[memory.view]
    assert [r.mr for r in view.ranges] == [
        o.address for o in (machine.ram, machine.msix, machine.pba, machine.bios)
    ]
    assert view.ranges[1].start == 0x4000000
    assert view.sections[0] == machine.unassigned.address
    (gpio,) = snapshot.gpios
    assert gpio.device == machine.serial.address and len(gpio.inputs) == 2
    assert [c.name for c in snapshot.clocks] == ["clk"]


def test_guest_memory_is_not_captured() -> None:
    machine = FakeMachine()
    snapshot = machine.snapshot()
    assert not any(GUEST <= address < GUEST + 0x4000 for address in snapshot.objects)
    target = machine.build()
    held = sum(len(data) for start, data in target.memory.items() if start != GUEST)
    assert snapshot.capture.bytes <= held


def test_link_roles_and_levels() -> None:
    machine = FakeMachine()
    machine.set_link(machine.nic, "strong", machine.serial)
    machine.set_link(machine.nic, "weak", machine.serial, 0)
    machine.set_link(machine.nic, "direct", machine.serial, LINK_STRONG | LINK_DIRECT)
    props = [p for p in machine.snapshot().props if p.holder == machine.nic.address]
    links = {p.name: (p.target, p.role, p.level) for p in props if p.role != "child"}
    serial = machine.serial.address
    assert links == {
        "strong": (serial, "strong", "instance"),
        "direct": (serial, "strong", "instance"),
        "weak": (serial, "weak", "instance"),
        "parent_bus": (machine.pci.address, "weak", "class"),
    }


def test_an_unparented_object_is_still_found() -> None:
    machine = FakeMachine()
    machine.nic.ref += 1
    machine.unparent(machine.nic)
    snapshot = machine.snapshot()
    assert snapshot.objects[machine.nic.address].parent == 0
    assert Index(snapshot).path(machine.nic.address) == ""


def test_a_class_link_needs_no_instance_property() -> None:
    machine = FakeMachine()
    at = machine.layout.offset("DeviceState", "parent_bus")
    machine.class_links["core"] = [("again", LINK_STRONG | 4, at)]
    machine.pci.ref += 1
    report = check(machine.snapshot())
    assert not report.findings
    (edge,) = [e for e in report.book.on[machine.pci.address] if e.kind == "link"]
    assert edge.holder == machine.serial.address and "again" in edge.field


# GLib


@pytest.mark.parametrize("glib", HASH_VARIANTS, ids=lambda glib: glib.name)
def test_the_glib_variant_is_probed(glib: HashVariant) -> None:
    machine = FakeMachine(glib=glib)
    target = machine.build()
    image, _ = target.capture([(m.start, m.end - m.start) for m in target.mappings()])
    properties = _word(target, "Object", "properties", machine.machine.address)
    found = probe(image, properties)
    table = open_table(image, found, properties)
    assert table is not None
    assert len(entries(image, table)) == table.nnodes == len(machine.machine.children) + 1
    # The two newest differ in where the destroy functions are: only that may be confused.
    assert found._replace(name="", value_destroy=0, bytes=0) == glib._replace(
        name="", value_destroy=0, bytes=0
    )


def _word(target: FakeTarget, struct_name: str, name: str, address: int) -> int:
    return target.u64(target.field(struct_name, name, address))


def test_tables_of_sets_share_their_array() -> None:
    machine = FakeMachine()
    target = machine.build()
    table = open_table(
        target.capture([(m.start, m.end - m.start) for m in target.mappings()])[0],
        machine.glib,
        _word(target, "Object", "properties", machine.accel.address),
    )
    assert table is not None and table.keys == table.values and table.nnodes == 0
