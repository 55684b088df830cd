"""The audit: what does not balance, why an object is alive, and what changed."""

from __future__ import annotations

import pytest
from fakeimage import LINK_STRONG
from fakes import FakeMachine, FakeObject

from qmrinspect.audit import Finding, Report, check, choose, components, orphan_groups, why
from qmrinspect.audit.cause import causes
from qmrinspect.audit.diff import diff
from qmrinspect.audit.graph import adjacency
from qmrinspect.hunt.judge import judge
from qmrinspect.index import Index
from qmrinspect.ledger import POLICIES, Book, open_book

pytestmark = pytest.mark.unit

NAMES = [policy.name for policy in POLICIES]
SHARED = ("no-ref", "owner-shared", "subregion-ref")


def audit(machine: FakeMachine) -> Report:
    return check(machine.snapshot())


def book(machine: FakeMachine) -> Book:
    """The books under the policy that the machine really follows."""
    return open_book(Index(machine.snapshot()), machine.policy)


def only(report: Report, kind: str) -> Finding:
    (finding,) = [f for f in report.findings if f.kind == kind]
    return finding


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


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
    assert [group.head for group in groups] == [machine.nic.address]
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


def quiet(machine: FakeMachine) -> None:
    """Take the network card out of the flat views, as deleting its BAR does."""
    for view in machine.views:
        for regions in (view.ranges, view.sections):
            for region in [r for r in regions if r.owner is machine.nic]:
                regions.remove(region)
                machine.unref(machine.nic)
    if machine.bar.container is machine.pci_memory:
        machine.del_subregion(machine.bar)


def unplug(machine: FakeMachine, device: FakeObject) -> tuple[Book, Book, Book]:
    """Return the books before the device was there, with it, and after its unplug."""
    bare = FakeMachine(policy=machine.policy.name)
    plugged = book(machine)
    machine.unparent(device)
    return book(bare), plugged, book(machine)


def device_with_regions(machine: FakeMachine) -> FakeObject:
    device = machine.device("dut", "core")
    machine.container = machine.region("mmio", device)  # type: ignore[attr-defined]
    for name in ("vbe", "qext"):
        machine.region(name, device, machine.container)  # type: ignore[attr-defined]
    return device


@pytest.mark.parametrize("policy", NAMES)
def test_p1_same_owner_subregions(policy: str) -> None:
    """A device whose container holds its own subregions leaks until 10.1, not later."""
    if policy == "strict":
        return test_p1_strict()
    machine = FakeMachine(policy=policy)
    device = device_with_regions(machine)
    before, plugged, after = unplug(machine, device)
    verdict = judge(before, plugged, after, device.address)
    if policy in SHARED:
        assert (verdict.outcome, verdict.cause) == ("clean", "")
        return None
    assert (verdict.outcome, verdict.cause) == ("leak", "same-owner-subregions")
    assert "vbe, qext" in verdict.text and "twice" in verdict.text
    (own,) = [left for left in verdict.left if left.address == device.address]
    assert (own.observed, own.expected) == (2, 2)
    assert own.was == "/machine/peripheral/dut"
    assert {edge.kind for edge in own.references} == {"subregion"}
    report = check(machine.snapshot())
    assert kinds(report) == {"orphan", "cycle"}
    assert only(report, "cycle").address == device.address
    return None


def test_p1_strict() -> None:
    """Before 2.5 it is the same cycle: nothing is finalized, so that nothing asserts."""
    machine = FakeMachine(policy="strict")
    device = device_with_regions(machine)
    verdict = judge(*unplug(machine, device), device.address)
    assert (verdict.outcome, verdict.cause) == ("leak", "same-owner-subregions")


@pytest.mark.parametrize("policy", NAMES)
def test_p2_a_child_links_to_its_parent(policy: str) -> None:
    machine = FakeMachine(policy=policy)
    device = machine.device("dut", "core")
    core = machine.add_child(device, "xhci-core", machine.new("core"))
    machine.set_link(core, "host", device, LINK_STRONG)
    verdict = judge(*unplug(machine, device), device.address)
    assert (verdict.outcome, verdict.cause) == ("leak", "link-cycle")
    assert 'link "host"' in verdict.text
    found = why(book(machine), device.address)
    assert set(found.cycle) == {device.address, core.address}


@pytest.mark.parametrize("policy", NAMES)
def test_p3_an_address_space_of_its_own_is_not_destroyed(policy: str) -> None:
    machine = FakeMachine(policy=policy)
    device = machine.device("dut", "core")
    root = machine.region("dma", device)
    machine.space("dut-dma", root, machine.view(root, ()))
    verdict = judge(*unplug(machine, device), device.address)
    assert (verdict.outcome, verdict.cause) == ("leak", "address-space-root")
    assert only(check(machine.snapshot()), "orphan").address == device.address
    assert "dut-dma" in verdict.text


@pytest.mark.parametrize("policy", NAMES)
def test_p5_a_reference_that_nothing_known_holds(policy: str) -> None:
    """memory_region_find or a mapping without its end."""
    machine = FakeMachine(policy=policy)
    device = machine.device("dut", "core")
    device.ref += 1
    verdict = judge(*unplug(machine, device), device.address)
    assert (verdict.outcome, verdict.cause) == ("leak", "unbalanced")
    assert "1 reference that no known structure holds" in verdict.text


@pytest.mark.parametrize("policy", NAMES)
def test_p7_a_subregion_of_a_foreign_container_is_not_deleted(policy: str) -> None:
    machine = FakeMachine(policy=policy)
    device = machine.device("dut", "core")
    machine.region("dut-ports", device, machine.io, 0x510, 2)
    verdict = judge(*unplug(machine, device), device.address)
    assert verdict.outcome == "leak"
    assert "foreign-container" in {cause.name for cause in verdict.causes}
    assert "memory_region_del_subregion" in verdict.text
    assert only(check(machine.snapshot()), "orphan").address == device.address


@pytest.mark.parametrize("policy", NAMES)
@pytest.mark.parametrize("child_first", (True, False))
def test_a_container_with_a_region_of_its_child_device(policy: str, child_first: bool) -> None:
    """The thread's case: A has C_A and the child B, B has R_B, and C_A contains R_B.

    C_A references B under every policy, and nothing of B references A: no cycle.
    """
    machine = FakeMachine(policy=policy)
    a = machine.device("a", "core")
    if child_first:
        b = machine.add_child(a, "b", machine.new("core"))
        c_a = machine.region("C_A", a)
    else:
        c_a = machine.region("C_A", a)
        b = machine.add_child(a, "b", machine.new("core"))
    r_b = machine.region("R_B", b, c_a)
    plugged = book(machine)
    held = [e.target for e in plugged.edges if (e.kind, e.holder) == ("subregion", c_a.address)]
    assert held == [b.address]
    if policy == "strict":
        # A region must be empty when it is finalized: A has to let go of R_B first.
        machine.del_subregion(r_b)
    verdict = judge(*unplug(machine, a), a.address)
    assert verdict.outcome == "clean", verdict.text
    assert not ({a, b, c_a, r_b} & set(machine.objects))


@pytest.mark.parametrize("policy", NAMES)
def test_the_same_with_a_reference_back_is_a_cycle(policy: str) -> None:
    machine = FakeMachine(policy=policy)
    a = machine.device("a", "core")
    c_a = machine.region("C_A", a)
    b = machine.add_child(a, "b", machine.new("core"))
    machine.region("R_B", b, c_a)
    machine.set_link(b, "back", a)
    after = unplug(machine, a)
    verdict = judge(*after, a.address)
    assert (verdict.outcome, verdict.cause) == ("leak", "link-cycle")
    assert set(why(after[2], a.address).cycle) >= {a.address, b.address}


def test_a_part_that_outlives_its_device_is_a_partial_leak() -> None:
    machine = FakeMachine()
    device = machine.device("dut", "core")
    part = machine.add_child(device, "backend", machine.new("rng"))
    part.ref += 1
    verdict = judge(*unplug(machine, device), device.address)
    assert (verdict.outcome, verdict.cause) == ("partial-leak", "unbalanced")
    assert [left.address for left in verdict.left] == [part.address]


def test_remains_without_a_reference_did_not_come_with_the_device() -> None:
    """What was finalized long ago may look alive when its memory is used again."""
    machine = FakeMachine()
    device = machine.device("dut", "core")
    remains = machine.new("core")
    remains.ref = 0
    before, plugged, after = unplug(machine, device)
    assert remains.address in plugged.index.snapshot.objects
    verdict = judge(before, plugged, after, device.address)
    assert verdict.outcome == "clean", verdict.text


def test_an_unplug_that_nobody_acknowledged() -> None:
    machine = FakeMachine()
    device = machine.device("dut", "core")
    plugged = book(machine)
    verdict = judge(book(FakeMachine()), plugged, book(machine), device.address)
    assert verdict.outcome == "not-acked"


def test_the_causes_of_a_leak_name_their_references() -> None:
    machine = FakeMachine()
    device = device_with_regions(machine)
    machine.unparent(device)
    _, books = choose(Index(machine.snapshot()))
    (group,) = orphan_groups(books)
    (cause,) = causes(books, group.head, group.members)
    assert cause.name == "same-owner-subregions"
    assert len(cause.edges) == 2
