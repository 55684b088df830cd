"""Which policy, and which rule, balances the books."""

from __future__ import annotations

import pytest
from fakes import NEWEST, FakeMachine, FakeObject, books
from faketarget import BASE, BSS
from scenarios import chardev

from qmrinspect.audit import check, choose
from qmrinspect.index import Index
from qmrinspect.ledger import POLICIES

pytestmark = pytest.mark.unit


# Policies


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_the_policy_is_found_by_the_books(policy: object) -> None:
    name = getattr(policy, "name", "")
    machine = FakeMachine(policy=name)
    snapshot = machine.snapshot()
    verdict, book = choose(Index(snapshot))
    # Counts tell what is referenced, not what finalizing does: two pairs of policies count alike.
    alike = {"strict": {"owner-ref", "strict"}, "no-ref": {"owner-shared", "no-ref"}}
    alike.update({"owner-ref": alike["strict"], "owner-shared": alike["no-ref"]})
    assert {policy.name for policy in verdict.candidates} == alike.get(name, {name})
    assert verdict.policy in verdict.candidates and verdict.decided
    assert verdict.votes[name] == (2, 0)
    assert not verdict.mixed
    assert all(book.residual(a) == 0 for a in snapshot.objects)
    rules = (machine.policy.same_owner, machine.policy.same_none)
    for other, its_book in books(snapshot):
        balanced = all(its_book.residual(a) == 0 for a in snapshot.objects)
        assert balanced == ((other.same_owner, other.same_none) == rules)


def test_a_mixed_machine_is_told_as_such() -> None:
    machine = FakeMachine()
    # A second device whose regions follow another rule: a backport in the middle.
    other = machine.device("other", "core")
    bar = machine.region("other-bar", other, machine.pci_memory)
    machine.region("inner", other, bar)
    other.ref -= 1
    verdict, book = choose(Index(machine.snapshot()))
    assert verdict.mixed
    assert verdict.policy.name == "owner-ref"
    assert (verdict.supporting, verdict.opposing) == (2, 1)
    assert book.residual(other.address) == -1


def test_no_evidence_is_no_vote() -> None:
    machine = FakeMachine()
    machine.del_subregion(machine.msix)
    machine.del_subregion(machine.pba)
    verdict, _ = choose(Index(machine.snapshot()))
    assert (verdict.supporting, verdict.opposing, verdict.undecided) == (0, 0, 0)
    assert not verdict.decided
    # Pairs of regions without an owner are referenced by one policy alone, and here by none.
    left = {policy.name for policy in verdict.candidates}
    assert left == {policy.name for policy in POLICIES} - {"subregion-ref"}


# Where the structure is the same and the rule is not


@pytest.mark.parametrize("counted", (True, False))
@pytest.mark.parametrize("outputs", (1, 3))
def test_output_clocks_are_counted_where_that_balances(counted: bool, outputs: int) -> None:
    machine = FakeMachine()
    for i in range(outputs):
        clock = machine.add_child(machine.serial, f"out{i}", machine.new("clock"))
        clock.ref += counted
        at = machine.allocate(machine.layout.size("NamedClockList"))
        machine.serial.clocks.append((at, f"out{i}", clock, True, False))
    report = check(machine.snapshot())
    assert not report.findings
    assert report.exact == report.objects


def _io_watch(machine: FakeMachine, counted: bool) -> FakeObject:
    machine.know("IOWatchPoll", ioc=0x60)
    socket = chardev(machine)
    source = machine.make("IOWatchPoll", ioc=socket.address)
    machine.poke("_GSource", source, source_funcs=BASE + BSS, ref_count=1, context=source)
    socket.ref += counted
    return socket


@pytest.mark.parametrize("counted", (True, False))
def test_a_character_devices_watch_is_counted_where_that_balances(counted: bool) -> None:
    machine = FakeMachine()
    _io_watch(machine, counted)
    second = machine.new("qio-channel-socket")
    chardev = machine.add_child(machine.objects_container, "serial1", machine.new("chardev-socket"))
    machine.poke("SocketChardev", chardev.address, sioc=second.address)
    source = machine.make("IOWatchPoll", ioc=second.address)
    machine.poke("_GSource", source, source_funcs=BASE + BSS, ref_count=1, context=source)
    second.ref += counted
    assert not check(machine.snapshot()).findings


def test_one_leaked_reference_does_not_overrule_what_came_with_the_release() -> None:
    machine = FakeMachine()
    socket = _io_watch(machine, True)  # a leak, in a QEMU whose irqs have no observer yet
    assert not machine.layout.has("IRQState", "observer")
    assert [(f.kind, f.address) for f in check(machine.snapshot()).findings] == [
        ("unexplained", socket.address)
    ]


def test_what_lacks_a_holder_that_was_not_searched_for_overrules_nothing() -> None:
    machine = FakeMachine(layout=NEWEST.without({"SocketChardev.sioc"}))
    machine.know("IOWatchPoll", ioc=0x60)
    # Three are held by the field that this layout lacks, one by another.
    channels = [machine.new("qio-channel-socket") for _ in range(4)]
    machine.add_child(machine.objects_container, "serial0", machine.new("chardev-socket"))
    tls = machine.add_child(machine.objects_container, "tls", machine.new("qio-channel-tls"))
    machine.poke("QIOChannelTLS", tls.address, master=channels[3].address)
    for channel in channels:
        source = machine.make("IOWatchPoll", ioc=channel.address)
        machine.poke("_GSource", source, source_funcs=BASE + BSS, ref_count=1, context=source)
    report = check(machine.snapshot())
    assert not report.findings
    assert {row.address for row in report.not_judged} == {c.address for c in channels[:3]}


def test_an_irq_that_is_a_child_handed_its_first_reference_on() -> None:
    machine = FakeMachine()
    embedded = machine.add_child(machine.serial, "irq[0]", machine.new("irq", machine.serial))
    line = machine.new("irq", machine.serial)
    machine.add_child(machine.unattached, "non-qdev-gpio[0]", line)
    line.ref += 1
    report = check(machine.snapshot())
    assert not report.findings
    assert [e.kind for e in report.book.on[embedded.address]] == ["child"]
    assert [e.rule for e in report.book.on[line.address]] == ["", "irq-embedded"]
