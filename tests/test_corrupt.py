"""Damaged memory: the walk goes on around it, in bounded time, and says what it skipped."""

from __future__ import annotations

import pytest
from damage import has_others, read, texts
from fakes import FakeMachine
from faketarget import (
    BASE,
    DATA,
    RAM_LIST,
    RCU_HEAD,
    SPACE_MEMORY,
    SPACES,
)

from qmrinspect.audit import check, why
from qmrinspect.errors import QmrError
from qmrinspect.index import Index

pytestmark = pytest.mark.unit

WILD = 0x7FFFDEADBEE8


# Lists


def test_subregions_that_loop() -> None:
    machine = FakeMachine()
    target = machine.build()
    link = target.field("MemoryRegion", "subregions_link", machine.pba.address)
    snapshot = read(target.corrupt(link, machine.msix.address.to_bytes(8, "little")))
    assert snapshot.regions[machine.bar.address].subregions == (
        machine.msix.address,
        machine.pba.address,
    )
    assert f"subregions of {machine.bar.address:#x}: the list does not end" in texts(snapshot)
    has_others(machine, snapshot)


def test_a_container_inside_itself() -> None:
    machine = FakeMachine()
    target = machine.build()
    target = target.set("MemoryRegion", "container", machine.bar.address, machine.msix.address)
    snapshot = read(target)
    has_others(machine, snapshot)
    report = check(snapshot)
    assert all(why(report.book, address) for address in snapshot.objects)


@pytest.mark.parametrize("value", (WILD, 1, (1 << 64) - 8), ids=("wild", "odd", "negative"))
def test_a_list_that_leads_out_of_memory(value: int) -> None:
    machine = FakeMachine()
    target = machine.build()
    link = target.field("MemoryRegion", "subregions_link", machine.msix.address)
    snapshot = read(target.corrupt(link, value.to_bytes(8, "little")))
    assert "the list leads out of memory" in texts(snapshot)
    assert snapshot.regions[machine.bar.address].subregions[0] == machine.msix.address
    has_others(machine, snapshot)


def test_bus_children_that_loop() -> None:
    machine = FakeMachine()
    target = machine.build()
    first, last = machine.pci.kids
    link = target.field("BusChild", "sibling", last.address)
    snapshot = read(target.corrupt(link, first.address.to_bytes(8, "little")))
    assert len(snapshot.buses[machine.pci.address].children) == 2
    assert "bus children: the list does not end" in texts(snapshot)
    has_others(machine, snapshot)


def test_address_spaces_that_loop() -> None:
    machine = FakeMachine()
    target = machine.build()
    last = machine.spaces[-1].address
    link = target.field("AddressSpace", "address_spaces_link", last)
    first = BASE + SPACE_MEMORY
    snapshot = read(target.corrupt(link, first.to_bytes(8, "little")))
    assert len(snapshot.spaces) == 2
    assert "address spaces: the list does not end" in texts(snapshot)


@pytest.mark.parametrize("value", (0, WILD, BASE + SPACES))
def test_a_damaged_link_of_the_first_address_space(value: int) -> None:
    machine = FakeMachine()
    target = machine.build()
    link = target.field("AddressSpace", "address_spaces_link", BASE + SPACE_MEMORY)
    try:
        snapshot = read(target.corrupt(link + 8, value.to_bytes(8, "little")))
    except QmrError as error:
        assert "address spaces" in error.text
    else:
        has_others(machine, snapshot)


def test_guest_ram_list_that_loops_is_refused() -> None:
    machine = FakeMachine()
    target = machine.build()
    block = target.u64(target.field("RAMList", "blocks", BASE + RAM_LIST))
    with pytest.raises(QmrError, match="RAM blocks does not end"):
        read(target.set("RAMBlock", "next", block, block))


def test_an_rcu_queue_that_loops() -> None:
    machine = FakeMachine()
    machine.retire(machine.view(machine.io, [machine.window]))
    target = machine.build()
    node = machine.pending[0]
    broken = target.set("rcu_head", "next", node, node)
    broken = broken.corrupt(BASE + RCU_HEAD, node.to_bytes(8, "little"))
    has_others(machine, read(broken))
    # A tail that the list never comes to: the queue is not believed.
    tail = (BASE + DATA + 0x300).to_bytes(8, "little")
    snapshot = read(broken.corrupt(BASE + RCU_HEAD - 8, tail))
    assert "the queue of RCU callbacks was not found" in texts(snapshot)
    has_others(machine, snapshot)


# Parents


def test_parents_that_loop() -> None:
    machine = FakeMachine()
    target = machine.build()
    target = target.set("Object", "parent", machine.nic.address, machine.msix.address)
    target = target.set("Object", "parent", machine.msix.address, machine.nic.address)
    snapshot = read(target)
    has_others(machine, snapshot)
    index = Index(snapshot)
    for address in snapshot.objects:
        index.path(address)
        index.label(address)


def test_a_machine_that_is_its_own_parent_is_refused() -> None:
    machine = FakeMachine()
    target = machine.build()
    with pytest.raises(QmrError, match="do not lead to a root"):
        read(target.set("Object", "parent", machine.machine.address, machine.machine.address))


# Sizes


@pytest.mark.parametrize("count", (1 << 31, 0xFFFFFFFF, 60000))
def test_a_view_with_absurdly_many_ranges(count: int) -> None:
    machine = FakeMachine()
    view = machine.views[0].address
    snapshot = read(machine.build().set("FlatView", "nr", view, count))
    assert "flat view" in texts(snapshot)
    assert machine.views[1].address in snapshot.views
    has_others(machine, snapshot)


@pytest.mark.parametrize("count", (1 << 31, 0xFFFFFFFF, 60000))
def test_a_dispatch_table_with_absurdly_many_sections(count: int) -> None:
    machine = FakeMachine()
    target = machine.build()
    dispatch = target.u64(target.field("FlatView", "dispatch", machine.views[0].address))
    table = target.field("AddressSpaceDispatch", "map", dispatch)
    snapshot = read(target.set("PhysPageMap", "sections_nb", table, count))
    assert "dispatch table claims" in texts(snapshot) or "flat view cannot" in texts(snapshot)
    has_others(machine, snapshot)


@pytest.mark.parametrize("count", (-1, 1 << 30, 65000))
def test_a_gpio_list_with_absurdly_many_inputs(count: int) -> None:
    machine = FakeMachine()
    at = machine.serial.gpios[0][0]
    snapshot = read(machine.build().set("NamedGPIOList", "num_in", at, count))
    assert "a GPIO list" in texts(snapshot)
    has_others(machine, snapshot)


@pytest.mark.parametrize("size", (0, 1, 7, 12, 1 << 31, (1 << 64) - 1))
def test_a_hash_table_of_an_absurd_size(size: int) -> None:
    machine = FakeMachine()
    target = machine.build()
    table = target.u64(target.field("Object", "properties", machine.nic.address))
    snapshot = read(target.corrupt(table, size.to_bytes(8, "little")))
    # Without a property table it is no object any more; what it held is.
    assert machine.nic.address not in snapshot.objects
    has_others(machine, snapshot, machine.nic)


def test_a_type_of_an_absurd_size() -> None:
    machine = FakeMachine()
    target = machine.build()
    snapshot = read(target.set("TypeImpl", "instance_size", machine.type_at["nic"], 1 << 60))
    assert "type nic claims" in texts(snapshot)
    has_others(machine, snapshot)


@pytest.mark.parametrize("ref", (0x7FFFFFFF, 0xFFFFFFFF))
def test_a_count_that_is_none(ref: int) -> None:
    machine = FakeMachine()
    snapshot = read(machine.build().set("Object", "ref", machine.nic.address, ref))
    assert machine.nic.address not in snapshot.objects
    has_others(machine, snapshot, machine.nic)


# The remains of a region that was finalized, at which malloc has put a header since.
HEADER = 0x35


def test_remains_with_a_table_that_was_freed_are_no_object() -> None:
    machine = FakeMachine()
    remains = machine.new("memory-region")
    remains.ref = HEADER
    target = machine.build()
    table = target.u64(target.field("Object", "properties", remains.address))
    snapshot = read(target.corrupt(table + machine.glib.ref_count, bytes(4)))
    assert remains.address not in snapshot.objects
    has_others(machine, snapshot, remains)


@pytest.mark.parametrize("kind", ("region", "parentless", "device", "irq"))
def test_remains_whose_table_is_of_another_by_now_are_no_object(kind: str) -> None:
    machine = FakeMachine()
    heir = {
        "region": machine.bar,
        "parentless": machine.new("memory-region"),
        "device": machine.nic,
        "irq": machine.add_child(machine.nic, "line", machine.new("irq")),
    }[kind]
    remains = machine.new(heir.type)
    remains.ref = HEADER
    target = machine.build()
    table = target.u64(target.field("Object", "properties", heir.address))
    snapshot = read(target.set("Object", "properties", remains.address, table))
    assert remains.address not in snapshot.objects
    has_others(machine, snapshot, remains)


def test_two_that_nothing_tells_apart_are_both_shown() -> None:
    machine = FakeMachine()
    one, other = machine.new("irq"), machine.new("irq")
    target = machine.build()
    table = target.u64(target.field("Object", "properties", one.address))
    snapshot = read(target.set("Object", "properties", other.address, table))
    has_others(machine, snapshot)


def test_a_property_table_whose_count_is_wrong() -> None:
    machine = FakeMachine()
    target = machine.build()
    table = target.u64(target.field("Object", "properties", machine.nic.address))
    count = int.from_bytes(target.peek(table + machine.glib.nnodes, 4) or b"", "little")
    at = table + machine.glib.nnodes
    snapshot = read(target.corrupt(at, (count - 1).to_bytes(4, "little")))
    assert "a hash table is damaged" in texts(snapshot)
    has_others(machine, snapshot)


def test_a_property_that_leads_out_of_memory() -> None:
    machine = FakeMachine()
    target = machine.build()
    table = target.u64(target.field("Object", "properties", machine.nic.address))
    values = target.u64(table + machine.glib.values)
    snapshot = read(target.corrupt(values + 8, WILD.to_bytes(8, "little")))
    assert "a property cannot be read" in texts(snapshot)
    has_others(machine, snapshot)


def test_a_child_that_is_no_object_is_dangling() -> None:
    machine = FakeMachine()
    machine.add_child(machine.nic, "gone", machine.new("rng"))
    gone = machine.objects.pop()
    report = check(machine.snapshot())
    (finding,) = [f for f in report.findings if f.kind == "dangling"]
    assert finding.address == gone.address
    assert finding.references[0].holder == machine.nic.address


# Wild pointers, one at a time, in every pointer of every structure


FIELDS = [
    ("Object", "class"), ("Object", "properties"), ("Object", "parent"),
    ("DeviceState", "id"), ("DeviceState", "parent_bus"), ("DeviceState", "gpios"),
    ("DeviceState", "clocks"), ("MemoryRegion", "owner"), ("MemoryRegion", "container"),
    ("MemoryRegion", "alias"), ("MemoryRegion", "name"), ("MemoryRegion", "subregions"),
    ("MemoryRegion", "subregions_link"), ("BusState", "name"), ("BusState", "parent"),
    ("BusState", "children"), ("FlatView", "ranges"), ("FlatView", "dispatch"),
    ("FlatView", "root"), ("AddressSpace", "name"), ("AddressSpace", "root"),
    ("AddressSpace", "current_map"), ("AddressSpace", "listeners"),
    ("NamedGPIOList", "in"), ("NamedGPIOList", "name"), ("NamedGPIOList", "node"),
    ("TypeImpl", "name"), ("TypeImpl", "parent"), ("TypeImpl", "class"),
    ("ObjectClass", "properties"), ("ObjectClass", "type"),
]  # fmt: skip


@pytest.mark.parametrize("value", (WILD, 0, 3, (1 << 64) - 1), ids=("wild", "null", "odd", "-1"))
@pytest.mark.parametrize(("name", "member"), FIELDS, ids=lambda part: part)
def test_a_wild_pointer_ends_nothing_else(name: str, member: str, value: int) -> None:
    machine = FakeMachine()
    target = machine.build()
    victims = {
        "Object": machine.nic.address,
        "DeviceState": machine.serial.address,
        "MemoryRegion": machine.bar.address,
        "BusState": machine.pci.address,
        "FlatView": machine.views[1].address,
        "AddressSpace": machine.spaces[1].address,
        "NamedGPIOList": machine.serial.gpios[0][0],
        "TypeImpl": machine.type_at["nic"],
        "ObjectClass": machine.class_at["nic"],
    }
    offset = target.layout.offset(name, member)
    try:
        snapshot = read(
            target.corrupt(victims[name] + offset, (value & (1 << 64) - 1).to_bytes(8, "little"))
        )
    except QmrError as error:
        # Only the table of types is needed for anything at all.
        assert name in ("TypeImpl", "ObjectClass"), error
    else:
        has_others(machine, snapshot, machine.nic, machine.pci, machine.bar, machine.serial)
