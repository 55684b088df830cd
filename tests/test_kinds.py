"""Every kind explains a reference that nothing else does."""

from __future__ import annotations

import pytest
from fakes import FakeMachine
from faketarget import BASE, BSS, CONSOLES
from scenarios import COMPANY, SOLE, ghost_ram

from qmrinspect.audit import check
from qmrinspect.index import Index
from qmrinspect.ledger import KINDS, Kind, open_book
from qmrinspect.walk import take

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_kind_is_the_only_explanation_of_a_reference(kind: Kind) -> None:
    assert kind.name in SOLE, f"no fake shows the kind {kind.name}: add one to SOLE"
    machine = FakeMachine()
    obj = SOLE[kind.name](machine)
    snapshot = machine.snapshot()
    book = open_book(Index(snapshot), machine.policy)
    edges = book.on[obj.address]
    assert {edge.kind for edge in edges} == {kind.name} | COMPANY.get(kind.name, set())
    assert not any(edge.rule for edge in edges), "a rule is no explanation"
    assert all(edge.field for edge in edges)
    assert snapshot.objects[obj.address].ref == book.expected(obj.address) > 0
    # And nothing else in the machine lost its balance by it.
    assert {a: book.residual(a) for a in snapshot.objects if book.residual(a)} == {}


@pytest.mark.parametrize("magic", (0xB4017CEB4FFE12ED, ~0xB4017CEB4FFE12ED & (1 << 64) - 1))
def test_a_bounce_buffer_holds_its_region_until_it_is_freed(magic: int) -> None:
    machine = FakeMachine()
    ghost = ghost_ram(machine)
    machine.know("BounceBuffer", magic=0, mr=8)
    buffer = machine.make("BounceBuffer", magic=magic, mr=machine.ram.address)
    held = [
        e for e in check(machine.snapshot()).book.on.get(ghost.address, ()) if e.kind == "dma-map"
    ]
    freed = magic != 0xB4017CEB4FFE12ED
    assert [(e.holder, e.field) for e in held] == ([] if freed else [(buffer, "BounceBuffer.mr")])


def test_every_scenario_is_of_a_kind() -> None:
    assert set(SOLE) <= {kind.name for kind in KINDS}


def test_named_variables_hold_first_references() -> None:
    machine = FakeMachine()
    machine.symbols["main_system_bus"] = BSS + 0x800
    machine.symbols["root"] = BSS + 0x808
    machine.symbols["io_mem_unassigned"] = machine.unassigned.address - BASE
    target = machine.build()
    target = target.corrupt(BASE + BSS + 0x800, machine.sysbus.address.to_bytes(8, "little"))
    target = target.corrupt(BASE + BSS + 0x808, machine.root.address.to_bytes(8, "little"))
    report = check(take(target, machine.layout)[0])
    assert not report.findings
    assert report.by_rule == 0 and not report.rules
    fields = {e.field for e in report.book.edges if e.kind == "initial"}
    assert {"main_system_bus", "root", "current_machine", "io_mem_unassigned"} <= fields


def test_rules_are_counted_apart() -> None:
    machine = FakeMachine()
    machine.array(machine.new("irq").address)
    report = check(machine.snapshot())
    assert not report.findings
    assert report.rules == {
        "static-root": 1,
        "main-system-bus": 1,
        "static-region": 1,
        "irq-allocated": 1,
    }
    assert report.by_rule == 4


def test_no_rule_speaks_for_an_irq_that_nothing_points_to() -> None:
    machine = FakeMachine()
    irq = machine.new("irq")
    report = check(machine.snapshot())
    assert [(f.kind, f.address) for f in report.findings] == [("unexplained", irq.address)]


def test_consoles_hold_each_other() -> None:
    machine = FakeMachine()
    for i in range(2):
        console = machine.new("qemu-graphic-console")
        machine.add_child(machine.objects_container, f"console[{i}]", console)
        console.ref += 1
        machine.consoles.append(console)
    report = check(machine.snapshot())
    assert not report.findings
    holders = [
        (e.holder, e.field)
        for console in machine.consoles
        for e in report.book.on[console.address]
        if e.kind != "child"
    ]
    assert [field for _, field in holders] == ["consoles", "QemuConsole.next"]
    assert holders[1][0] == machine.consoles[0].address
    assert CONSOLES > BSS


def _board() -> FakeMachine:
    """A machine that is none of x86."""
    machine = FakeMachine()
    machine.define("virt-machine", "machine", machine.machine.size)
    machine.machine.type = "virt-machine"
    return machine


def _found(machine: FakeMachine) -> list[tuple[str, int]]:
    return [(f.kind, f.address) for f in check(machine.snapshot()).findings]


def test_a_board_keeps_a_container_that_it_made() -> None:
    machine = _board()
    soc = machine.add_child(machine.machine, "soc", machine.new("container"))
    soc.ref += 1
    report = check(machine.snapshot())
    assert not report.findings
    assert report.rules["board-object"] == 1


def test_no_rule_speaks_for_the_containers_of_every_machine() -> None:
    machine = _board()
    for container in (machine.peripheral, machine.objects_container):
        container.ref += 1
        assert _found(machine) == [("unexplained", container.address)]
        container.ref -= 1


@pytest.mark.parametrize("x86", (False, True))
def test_a_card_that_a_board_hid_from_the_tree_is_no_orphan(x86: bool) -> None:
    machine = FakeMachine() if x86 else _board()
    machine.define("sd-card", "device")
    card = machine.new("sd-card")
    card.ref += 1
    machine.poke("DeviceState", card.address, realized=0)
    found = _found(machine)
    assert found == ([("unexplained", card.address), ("orphan", card.address)] if x86 else [])
