"""Verdicts on unplugs, from machines built from bytes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from audits import book, kinds, only
from fakeimage import LINK_STRONG
from fakes import FakeMachine, FakeObject

from qmrinspect.audit import book_of, check, choose, orphan_groups, why
from qmrinspect.audit.cause import causes
from qmrinspect.audit.growth import Growth
from qmrinspect.errors import UsageError
from qmrinspect.hotplug.kinds import Recipe
from qmrinspect.hunt.again import judge_again, rendered_anew, still_there
from qmrinspect.hunt.judge import judge
from qmrinspect.index import Index
from qmrinspect.ledger import POLICIES, Book
from qmrinspect.snapshot import Space, Unknown
from qmrinspect.verbs import plug

pytestmark = pytest.mark.unit

NAMES = [policy.name for policy in POLICIES]
SHARED = ("no-ref", "owner-shared", "subregion-ref")


def unplug(machine: FakeMachine, device: FakeObject) -> tuple[Book, Book, Book]:
    """Return the books before the device was there, with it, and after its unplug."""
    bare = FakeMachine(policy=machine.policy.name)
    plugged = book(machine)
    machine.unparent(device)
    return book(bare), plugged, book(machine)


def test_a_verdict_waits_until_it_is_known_what_is_live() -> None:
    """While a thread was in malloc, any word that points to an irq passes for its holder."""
    machine = FakeMachine(policy="no-ref")
    device = machine.device("dut", "core")
    device.ref += 1
    before, plugged, after = unplug(machine, device)
    unknown = (Unknown("liveness", "a thread was in malloc"),)
    snapshot = after.index.snapshot
    snapshot = snapshot._replace(capture=snapshot.capture._replace(quiescent=True))
    granting, after = (book_of(snapshot._replace(unknown=u)) for u in (unknown, ()))
    readings = [granting, granting, after]
    driver: Any = SimpleNamespace(stale=lambda *_: [], drive=lambda step: None)
    taken, _ = judge_again(driver, before, plugged, device.address, lambda: readings.pop(0))
    assert taken is after and not readings


def test_only_new_flat_views_tell_that_the_topology_changed() -> None:
    """Otherwise what only a cached view holds was taken for a leak: a change was not to be had."""
    snapshot = FakeMachine().snapshot()

    def views(*rows: tuple[int, int]) -> Book:
        spaces = {at: Space(at, "memory", 0x10, view, ()) for at, view in rows}
        return book_of(snapshot._replace(spaces=spaces))

    before = views((1, 0x100), (2, 0x200))
    assert rendered_anew(before, views((1, 0x300), (2, 0x400)))
    assert rendered_anew(before, views((1, 0x300)))
    assert not rendered_anew(before, before)
    assert not rendered_anew(before, views((2, 0x200), (3, 0x300)))  # one came, another went


def test_another_one_is_plugged_only_where_none_of_its_type_leaked() -> None:
    """What leaked keeps the names of its RAM blocks and of its migration state."""
    machine = FakeMachine()
    device = machine.device("dut", "core")
    kind = machine.snapshot().objects[device.address].type
    same, other = (Recipe(driver, bus="USB") for driver in (kind, "usb-tablet"))
    _, plugged, after = unplug(machine, device)
    assert still_there(after, same) is None  # it was finalized
    machine = FakeMachine()
    device = machine.device("dut", "core")
    device.ref += 1
    _, plugged, after = unplug(machine, device)
    assert still_there(plugged, same) is None
    assert "that leaked is still in memory" in (still_there(after, same) or "")
    assert still_there(after, other) is None
    plug.check_leaked(plugged, same, "new")
    with pytest.raises(UsageError, match="that leaked is still in memory"):
        plug.check_leaked(after, same, "new")
    plug.check_leaked(after, same._replace(bus="PCI"), "new")


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
        assert (verdict.outcome, verdict.cause) == ("clean", None)
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
        # A region must be empty when it is finalized: A has to release R_B first.
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


@pytest.mark.parametrize("released", [True, False])
def test_a_backend_that_is_released_and_lives_is_no_growth_in_the_tree(released: bool) -> None:
    """The last one is in the tree when a cycle is judged, and released after that."""
    machine = FakeMachine()
    growth = Growth()
    growth.begin(book(machine))
    last = machine.device("c0", "core")
    last.ref += 1
    for number in range(1, 5):
        growth.add(book(machine))
        if released:
            machine.unparent(last)
        last = machine.device(f"c{number}", "core")
        last.ref += 1
    stays = growth.stays()
    assert stays is not None
    cause, text = stays
    if released:
        assert cause == "unbalanced"
        assert text.startswith("1 core more is left by every cycle: core ")
        assert text.endswith("has 1 reference that no known structure holds")
    else:
        assert cause == "grows-in-tree"
        assert "1 core more is in the tree after every cycle: /machine/peripheral/c0" in text


def test_backends_that_end_are_no_growth() -> None:
    machine = FakeMachine()
    growth = Growth()
    growth.begin(book(machine))
    for number in range(4):
        device = machine.device(f"c{number}", "core")
        growth.add(book(machine))
        machine.unparent(device)
    assert growth.stays() is None


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
    (cause,) = causes(books, group.root, group.members)
    assert cause.name == "same-owner-subregions"
    assert len(cause.edges) == 2
