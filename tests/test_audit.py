"""The audit: what does not balance, why an object is alive, and what changed."""

from __future__ import annotations

import pytest
from audits import audit, book, kinds, only, quiet
from fakes import FakeMachine, FakeObject

from qmrinspect.audit import components, orphan_groups, why
from qmrinspect.audit.diff import diff
from qmrinspect.audit.graph import adjacency
from qmrinspect.ledger import POLICIES

pytestmark = pytest.mark.unit

NAMES = [policy.name for policy in POLICIES]
SHARED = ("no-ref", "owner-shared", "subregion-ref")


# Balances


@pytest.mark.parametrize("extra", (1, 3))
def test_a_reference_too_many_is_unexplained(extra: int) -> None:
    machine = FakeMachine()
    machine.serial.ref += extra
    report = audit(machine)
    assert kinds(report) == {"unexplained"}
    finding = only(report, "unexplained")
    assert finding.address == machine.serial.address
    assert finding.observed - finding.expected == extra
    assert "/machine/peripheral/serial0" in finding.text
    assert report.exact == report.objects - 1
    assert report.observed - report.explained - report.by_rule == extra
    assert report.failed


def test_a_reference_too_few_is_an_underflow_with_its_holders() -> None:
    machine = FakeMachine()
    machine.serial.ref -= 1
    report = audit(machine)
    assert kinds(report) == {"underflow"}
    finding = only(report, "underflow")
    assert (finding.address, finding.severity) == (machine.serial.address, "error")
    assert finding.expected - finding.observed == 1
    assert {edge.kind for edge in finding.references} >= {"child", "bus-child"}
    assert report.explained <= report.observed


@pytest.mark.parametrize("sign", (1, -1))
def test_every_object_is_watched(sign: int) -> None:
    """A change of one count is found on that object, with its sign, and on no other."""
    machine = FakeMachine()
    for obj in machine.objects:
        if obj.ref + sign == 0:
            continue
        obj.ref += sign
        report = audit(machine)
        wrong = {
            f.address: f.observed - f.expected
            for f in report.findings
            if f.kind in ("unexplained", "underflow")
        }
        assert wrong == {obj.address: sign}, obj.type
        obj.ref -= sign


def test_a_holder_of_something_freed_is_dangling() -> None:
    machine = FakeMachine()
    rng = machine.new("rng")
    machine.set_link(machine.nic, "rng", rng)
    machine.objects.remove(rng)
    report = audit(machine)
    assert kinds(report) == {"dangling"}
    finding = only(report, "dangling")
    assert finding.address == rng.address
    assert "/machine/peripheral/nic0" in finding.text


# Orphans and cycles


def leak(machine: FakeMachine, *links: tuple[FakeObject, FakeObject]) -> None:
    for holder, target in links:
        machine.set_link(holder, f"to-{target.address:x}", target)


def test_an_island_is_an_orphan_and_a_cycle() -> None:
    machine = FakeMachine()
    one, two = machine.new("rng"), machine.new("rng")
    leak(machine, (one, two), (two, one))
    machine.unref(one)
    machine.unref(two)
    report = audit(machine)
    assert kinds(report) == {"orphan", "cycle"}
    cycle = only(report, "cycle")
    assert cycle.severity == "error"
    assert {edge.target for edge in cycle.references} == {one.address, two.address}
    assert report.exact == report.objects, "an island balances: that is why it leaks"


def test_a_cycle_within_a_live_device_is_no_finding() -> None:
    machine = FakeMachine()
    part = machine.add_child(machine.nic, "part", machine.new("rng"))
    machine.set_link(part, "host", machine.nic)
    report = audit(machine)
    assert not report.findings
    graph = {n: [e.target for e in es] for n, es in adjacency(report.book).items()}
    groups = components(sorted(graph), graph)
    assert any({part.address, machine.nic.address} <= set(group) for group in groups)


def test_orphans_are_grouped_under_the_one_that_explains_them() -> None:
    machine = FakeMachine()
    machine.nic.ref += 1
    machine.unparent(machine.nic)
    inner = machine.add_child(machine.nic, "rng", machine.new("rng"))
    groups = orphan_groups(book(machine))
    assert [group.root for group in groups] == [machine.nic.address]
    parts = {machine.nic, machine.bar, machine.msix, machine.pba, inner}
    assert set(groups[0].members) == {part.address for part in parts}
    assert not groups[0].delayed


def test_what_only_a_stale_view_holds_is_delayed() -> None:
    machine = FakeMachine(policy="owner-shared")
    view = machine.view(machine.io, [machine.bar], [machine.bar])
    machine.retire(view)
    machine.views[0].ranges = [machine.ram, machine.bios]
    machine.views[0].sections = [machine.unassigned, machine.ram]
    machine.del_subregion(machine.bar)
    machine.nic.ref -= 3  # of the first view
    machine.unparent(machine.nic)
    report = audit(machine)
    assert kinds(report) == {"orphan"}
    finding = only(report, "orphan")
    assert finding.severity == "note" and not report.failed
    assert "ends by itself" in finding.text


@pytest.mark.parametrize("size", (1, 2, 7, 3000))
def test_tarjan_finds_rings(size: int) -> None:
    ring = {i: [(i + 1) % size] for i in range(size)}
    tail = {size + i: [i % size] for i in range(5)}
    assert components([*ring, *tail], {**ring, **tail}) == [list(range(size))]


def test_tarjan_tells_groups_apart() -> None:
    graph = {1: [2], 2: [1, 3], 3: [4], 4: [3, 5], 5: [6], 6: []}
    assert sorted(components(graph, graph)) == [[1, 2], [3, 4]]
    assert components([5, 6], graph) == []


# Why


def test_why_gives_the_shortest_chain_from_a_root() -> None:
    machine = FakeMachine()
    found = why(book(machine), machine.nic.address)
    assert not found.cycle
    targets = [edge.target for edge in found.chain]
    assert targets[0] == found.root
    assert targets[-1] == machine.nic.address
    for before, edge in zip(found.chain, found.chain[1:]):
        assert edge.owner == before.target
    # machine (a variable), its peripheral container, the device.
    assert len(found.chain) == 3


def test_why_gives_the_cycle_when_there_is_no_chain() -> None:
    machine = FakeMachine(policy="owner-shared")
    core = machine.add_child(machine.nic, "core", machine.new("rng"))
    machine.set_link(core, "host", machine.nic)
    quiet(machine)
    machine.unparent(machine.nic)
    for obj in (machine.nic, core):
        found = why(book(machine), obj.address)
        assert found.root == 0
        assert {machine.nic.address, core.address} <= set(found.cycle)
        path = [edge.target for edge in found.chain]
        assert path[-1] == obj.address
        assert [edge.kind for edge in found.chain if edge.target == core.address] == ["child"]


def test_why_of_what_hangs_on_a_cycle_names_the_cycle() -> None:
    machine = FakeMachine()
    one, two, end = (machine.new("rng") for _ in range(3))
    leak(machine, (one, two), (two, one), (two, end))
    for obj in (one, two, end):
        machine.unref(obj)
    found = why(book(machine), end.address)
    assert set(found.cycle) == {one.address, two.address}
    assert found.chain[-1].target == end.address


def test_why_of_what_only_rcu_holds() -> None:
    machine = FakeMachine()
    ghost = machine.new("nic")
    machine.retire(machine.view(machine.io, [machine.region("ghost-bar", ghost)]))
    machine.unref(ghost)
    found = why(book(machine), ghost.address)
    assert (found.root, found.cycle) == (0, ())
    assert [edge.kind for edge in found.chain] == ["flat-range"]


def test_why_of_what_nothing_known_holds() -> None:
    machine = FakeMachine()
    rng = machine.new("rng")
    found = why(book(machine), rng.address)
    assert found == (0, (), ())


# Differences


def test_diff_of_the_same_machine_is_empty() -> None:
    machine = FakeMachine()
    assert diff(book(machine), book(machine)) == ((), (), ())


def test_diff_names_what_came_and_went() -> None:
    machine = FakeMachine()
    before = book(machine)
    rng = machine.add_child(machine.objects_container, "rng0", machine.new("rng"))
    machine.set_link(machine.nic, "rng", rng)
    during = book(machine)
    found = diff(before, during)
    assert (found.appeared, found.gone) == ((rng.address,), ())
    machine.set_link(machine.serial, "peer", machine.nic)
    after = book(machine)
    (change,) = diff(during, after).changed
    assert change.address == machine.nic.address
    assert (change.after - change.before, change.unparented) == (1, False)
    assert [(e.kind, e.holder) for e in change.gained] == [("link", machine.serial.address)]
    (back,) = diff(after, during).changed
    assert [e.kind for e in back.lost] == ["link"] and not back.gained


def test_diff_tells_an_unparented_object() -> None:
    machine = FakeMachine()
    before = book(machine)
    quiet(machine)
    machine.unparent(machine.nic)
    found = diff(before, book(machine))
    (change,) = [c for c in found.changed if c.address == machine.nic.address]
    assert change.unparented
    assert {e.kind for e in change.lost} >= {"child", "bus-child"}
    assert not found.gone


@pytest.mark.parametrize("other", ("rng", "iothread"))
def test_a_reused_address_is_another_object(other: str) -> None:
    """malloc gives the same address again: neither a type nor a name says it is the same."""
    machine = FakeMachine()
    old = machine.add_child(machine.objects_container, "first", machine.new("rng"))
    before = book(machine)
    machine.unparent(old)
    new = machine.new(other, at=old.address)
    new.heap = True
    machine.add_child(machine.objects_container, "second", new)
    found = diff(before, book(machine))
    assert found.appeared == found.gone == (old.address,)
    assert old.address not in {c.address for c in found.changed}


def test_a_reused_address_of_a_device_with_another_id() -> None:
    machine = FakeMachine()
    before = book(machine)
    machine.nic.id = "other"
    machine.peripheral.children["other"] = machine.peripheral.children.pop("nic0")
    found = diff(before, book(machine))
    assert machine.nic.address in found.appeared
    assert machine.nic.address in found.gone


# Causes
