"""The forecast: what an unplug would do under each policy, on machines that follow each."""

from __future__ import annotations

import functools
import random
import time
from collections import Counter
from typing import NamedTuple

import pytest
from audits import book, cross_owner, same_owner
from fakes import FakeMachine, FakeObject
from make_golden import GOLDEN

from qmrinspect.audit import orphan_groups
from qmrinspect.audit.forecast import Forecast, Forecaster, all_policies, forecast
from qmrinspect.audit.outcome import Ended, outcome_of
from qmrinspect.audit.unrealize import learn, prospects, ties
from qmrinspect.hunt.foretell import UNKNOWN, implied
from qmrinspect.hunt.judge import judge
from qmrinspect.index import Index
from qmrinspect.ledger import POLICIES, Book, open_book
from qmrinspect.ledger.policies import by_name
from qmrinspect.store import load

pytestmark = pytest.mark.unit

NAMES = [policy.name for policy in POLICIES]


@functools.cache
def bare(policy: str) -> Book:
    return book(FakeMachine(policy=policy))


class Truth(NamedTuple):
    """What a machine really did: the assertion that failed, or outcome, cause and what is left."""

    abort: str
    outcome: str = ""
    cause: str | None = None
    left: frozenset[int] = frozenset()


def truth(
    machine: FakeMachine, device: FakeObject, link: str | None = None, plugged: Book | None = None
) -> Truth:
    """Unplug a device, or drop the link that held it, and judge what came of it."""
    before, plugged = bare(machine.policy.name), plugged or book(machine)
    try:
        if link:
            target, _ = machine.nic.links.pop(link)
            machine.unref(target)
        else:
            machine.unparent(device)
    except AssertionError as error:
        return Truth(str(error).split("\n")[0] or "an assertion")
    verdict = judge(before, plugged, book(machine), device.address)
    left = frozenset(row.address for row in verdict.left)
    return Truth("", verdict.outcome, verdict.cause, left)


def told(found: Forecast) -> Truth:
    if found.abort is not None:
        assert found.outcome.outcome == "crash"
        return Truth(str(found.abort))
    return Truth("", found.outcome.outcome, found.outcome.cause, frozenset(found.left))


def agrees(foretold: Truth, fact: Truth) -> bool:
    if fact.abort or foretold.abort:
        return bool(fact.abort) == bool(foretold.abort)
    return foretold == fact


# Machines --------------------------------------------------------------------------


@pytest.mark.parametrize("built", ("owner-ref", "strict"))
@pytest.mark.parametrize("policy", NAMES)
@pytest.mark.parametrize("container_first", (True, False))
def test_from_what_a_leak_left(built: str, policy: str, container_first: bool) -> None:
    machine = FakeMachine(policy=built)
    device = same_owner(machine, container_first)
    assert truth(machine, device).outcome == "leak"
    found = forecast(book(machine), by_name(policy), device.address)
    assert found.source == "after"
    other = FakeMachine(policy=policy)
    fact = truth(other, same_owner(other, container_first))
    assert agrees(told(found), fact), (found.outcome, fact)
    if policy == "no-ref":
        # The property that comes first decides whether QEMU lives.
        assert bool(found.abort) != container_first
    if found.abort:
        assert str(found.abort) == "memory_region_finalize: Assertion `!mr->container' failed."
        assert '"vbe" of core dut' in found.outcome.text and '"mmio" of core' in found.outcome.text
        assert machine.snapshot().regions[found.abort.object].name == "vbe"


def pinned(machine: FakeMachine, device: FakeObject) -> None:
    machine.set_link(machine.nic, "pin", device)
    machine.unparent(device)


@pytest.mark.parametrize("built", NAMES)
@pytest.mark.parametrize("policy", NAMES)
@pytest.mark.parametrize("first", (True, False))
def test_the_case_of_the_thread_from_a_pinned_device(built: str, policy: str, first: bool) -> None:
    machine = FakeMachine(policy=built)
    device = cross_owner(machine, first)
    pinned(machine, device)
    here = book(machine)
    pins = [p for p in here.index.snapshot.props if p.name == "pin"]
    found = forecast(here, by_name(policy), device.address, (), pins)
    assert found.source == "pinned"
    if policy != "strict":
        assert told(found) == Truth("", "clean")
        return
    assert found.abort is not None
    assert found.abort.expression == "QTAILQ_EMPTY(&mr->subregions)"
    assert '"C_A" of core dut' in found.outcome.text
    assert 'still has "R_B" of' in found.outcome.text


def anything(machine: FakeMachine, seed: int) -> FakeObject:
    """A device with parts, regions in each other's containers, and links, drawn by lot."""
    lot = random.Random(seed)
    device = machine.device("dut", "core")
    owners = [device]
    for i in range(lot.randrange(3)):
        owners.append(machine.add_child(lot.choice(owners), f"part{i}", machine.new("core")))
    regions = [machine.region(f"r{i}", lot.choice(owners)) for i in range(lot.randrange(1, 6))]
    lot.shuffle(regions)
    for i, region in enumerate(regions[1:], 1):
        if lot.random() < 0.7:
            # A tree of regions, whose order has nothing to do with that of their making.
            machine.add_subregion(regions[lot.randrange(i)], region)
    if lot.random() < 0.2:
        machine.set_link(lot.choice(owners), "to", lot.choice(owners))
    if lot.random() < 0.2:
        lot.choice(owners).ref += 1
    if lot.random() < 0.2:
        machine.add_subregion(machine.io, machine.region("port", lot.choice(owners)))
    return device


SEEDS = range(24)


@functools.cache
def held(policy: str, seed: int) -> tuple[FakeMachine, FakeObject, Book]:
    """A machine on which a device was unplugged and a link holds it, and its book."""
    machine = FakeMachine(policy=policy)
    device = anything(machine, seed)
    pinned(machine, device)
    return machine, device, book(machine)


@functools.cache
def fact_of(policy: str, seed: int) -> Truth:
    machine, device, plugged = held(policy, seed)
    return truth(machine, device, link="pin", plugged=plugged)


@pytest.mark.parametrize("built", NAMES)
def test_whatever_is_pinned_is_foretold_for_every_policy(built: str) -> None:
    """Against a model that does it, on machines that differ only in their policy."""
    outcomes = set()
    for seed in SEEDS:
        _, device, plugged = held(built, seed)
        forecaster = Forecaster(plugged)
        pins = [p for p in forecaster.book.index.snapshot.props if p.name == "pin"]
        for policy in POLICIES:
            found = told(forecaster.of(policy, device.address, (), pins))
            assert agrees(found, fact_of(policy.name, seed)), (seed, policy.name, found)
            outcomes.add(found.abort or found.outcome)
    assert len(outcomes) == 5, outcomes


@pytest.mark.parametrize("container_first", (True, False))
def test_what_is_left_of_a_device_that_went_is_foretold(container_first: bool) -> None:
    """The device goes under every policy; what its part holds of itself decides over that."""

    def made(policy: str) -> tuple[FakeMachine, FakeObject]:
        machine = FakeMachine(policy=policy)
        device = machine.device("dut", "core")
        part = machine.add_child(device, "part", machine.new("core"))
        names = ("mmio", "vbe") if container_first else ("vbe", "mmio")
        regions = {name: machine.region(name, part) for name in names}
        machine.add_subregion(regions["mmio"], regions["vbe"])
        return machine, device

    machine, device = made("owner-ref")
    plugged = book(machine)
    came = Forecaster(plugged).family(device.address)
    machine.unparent(device)
    after = book(machine)
    left = [row.address for row in judge(bare("owner-ref"), plugged, after, device.address).left]
    candidates = [by_name("owner-ref"), by_name("strict")]
    found = implied(candidates, plugged, device.address, came, after, left)
    assert sorted(found) == sorted(NAMES)
    assert found["owner-ref"] == "partial-leak" and found["owner-shared"] == "clean"
    for name in NAMES:
        fact = truth(*made(name))
        assert found[name] in (UNKNOWN, "crash" if fact.abort else fact.outcome), name
    assert [name for name in NAMES if found[name] == UNKNOWN] == ["strict"]


# A device that is plugged ----------------------------------------------------------


def certainties(machine: FakeMachine, device: FakeObject) -> dict[str, str]:
    _, found = prospects(Forecaster(book(machine)), all_policies(), device.address)
    return {prospect.policy.name: prospect.certainty for prospect in found}


def test_where_nothing_decides_the_answer_is_sure() -> None:
    machine = FakeMachine()
    device = machine.device("dut", "core")
    machine.region("bar", device)
    assert set(certainties(machine, device).values()) == {"sure"}
    (prospect,) = prospects(Forecaster(book(machine)), [by_name("no-ref")], device.address)[1]
    assert prospect.forecast is not None and prospect.forecast.outcome.outcome == "clean"
    assert prospect.forecast.source == "plugged"


def test_where_pairs_decide_they_are_named_and_nothing_is_claimed() -> None:
    machine = FakeMachine()
    device = same_owner(machine, False)
    assert certainties(machine, device) == {
        "strict": "open",
        "owner-ref": "open",
        "no-ref": "open",
        "subregion-ref": "either way",
        "owner-shared": "either way",
    }
    found, rows = prospects(Forecaster(book(machine)), all_policies(), device.address)
    assert [tie.text for tie in found] == [
        "region vbe[0] in mmio[2]",
        "region qext[1] in mmio[2]",
    ]
    for prospect in rows:
        assert (prospect.forecast is None) == (prospect.certainty == "open")
        assert prospect.everything.outcome.outcome == "clean"
    none = {row.policy.name: row.nothing.outcome.outcome for row in rows}
    assert (none["owner-ref"], none["no-ref"]) == ("leak", "crash")


def test_what_one_cycle_showed_is_used_on_another_machine() -> None:
    """Of two regions the device takes one out itself."""
    elsewhere = FakeMachine(policy="owner-shared")
    device = same_owner(elsewhere, False)
    (vbe,) = [o for o in elsewhere.objects if o.name == "vbe"]
    elsewhere.del_subregion(vbe)
    pinned(elsewhere, device)
    there = Forecaster(book(elsewhere))
    keys = learn(
        there.book, device.address, there.family(device.address), {(elsewhere.nic.address, "pin")}
    )
    assert keys == [("subregion", "qext[1]", "mmio[2]")]
    machine = FakeMachine(policy="subregion-ref")
    device = same_owner(machine, False)
    _, rows = prospects(Forecaster(book(machine)), POLICIES, device.address, (), keys)
    told_now = {row.policy.name: row for row in rows}
    assert {row.certainty for row in rows} == {"learned"}
    owner_ref, no_ref = told_now["owner-ref"].forecast, told_now["no-ref"].forecast
    assert owner_ref is not None and no_ref is not None
    assert owner_ref.outcome.cause == "same-owner-subregions"
    assert "once" in owner_ref.outcome.text and "qext" in owner_ref.outcome.text
    assert no_ref.abort is not None and '"qext"' in no_ref.outcome.text


def test_ties_of_every_sort() -> None:
    machine = FakeMachine()
    device = machine.device("dut", "core")
    part = machine.add_child(device, "part", machine.new("core"))
    machine.set_link(part, "host", device)
    root = machine.region("dma", device)
    machine.space("dut-dma", root, machine.view(root, ()))
    machine.region("port", part, machine.io)
    part.ref += 1
    here = book(machine)
    found = ties(here, device.address, Forecaster(here).family(device.address))
    assert sorted(tie.key[0] for tie in found) == [
        "address-space-root",
        "link",
        "subregion",
        "unbalanced",
    ]


# The words are those of a verdict --------------------------------------------------


def test_the_outcome_is_told_as_a_hunt_tells_it() -> None:
    machine = FakeMachine()
    device = same_owner(machine, True)
    before, plugged = book(FakeMachine()), book(machine)
    machine.unparent(device)
    after = book(machine)
    verdict = judge(before, plugged, after, device.address)
    lost = [row.address for row in verdict.left]
    told_so = outcome_of(after, device.address, lost, "core")
    assert told_so == Ended(verdict.outcome, verdict.cause, verdict.causes, verdict.text)
    foretold = forecast(after, machine.policy, device.address)
    assert foretold.outcome == told_so


def test_one_device_is_foretold_within_50_ms() -> None:
    here = open_book(Index(load(GOLDEN / "stock-7.2-unplugged.jsonl.gz")), by_name("owner-ref"))
    group = orphan_groups(here)[0]
    took = []
    for _ in range(3):
        begin = time.process_time()
        forecaster = Forecaster(here)
        for policy in POLICIES:
            forecaster.of(policy, group.root, group.members)
        took.append(time.process_time() - begin)
    assert min(took) < 0.05


def test_fifty_leaked_devices_are_foretold_within_a_second() -> None:
    machine = FakeMachine()
    for number in range(50):
        device = machine.device(f"dut{number}", "core")
        container = machine.region("mmio", device)
        for name in ("vbe", "qext", "edid"):
            machine.region(name, device, container)
        machine.unparent(device)
    here = book(machine)
    groups = orphan_groups(here)
    assert len(groups) == 50
    begin = time.process_time()
    forecaster = Forecaster(here)
    found = [
        forecaster.of(policy, group.root, group.members) for group in groups for policy in POLICIES
    ]
    assert time.process_time() - begin < 1.0
    assert Counter(one.outcome.outcome for one in found) == {"leak": 100, "clean": 150}
