"""The forecast: what an unplug would do under each policy, on machines that follow each."""

from __future__ import annotations

import functools
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import Qmr
from fakes import FakeMachine, FakeObject
from make_golden import GOLDEN

from qmrinspect.audit import orphan_groups
from qmrinspect.audit.forecast import Forecast, Forecaster, all_policies, forecast
from qmrinspect.audit.outcome import Ended, outcome_of
from qmrinspect.audit.unrealize import learn, prospects, ties
from qmrinspect.hunt.judge import judge
from qmrinspect.index import Index
from qmrinspect.ledger import POLICIES, Book, open_book
from qmrinspect.ledger.policies import by_name
from qmrinspect.store import save

pytestmark = pytest.mark.unit

NAMES = [policy.name for policy in POLICIES]


def book(machine: FakeMachine) -> Book:
    return open_book(Index(machine.snapshot()), machine.policy)


@functools.cache
def bare(policy: str) -> Book:
    return book(FakeMachine(policy=policy))


class Truth(NamedTuple):
    """What a machine really did: the assertion that failed, or outcome, cause and what is left."""

    abort: str
    outcome: str = ""
    cause: str = ""
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


def same_owner(machine: FakeMachine, container_first: bool) -> FakeObject:
    """A container and two subregions of one device, as in hw/display/bochs-display.c."""
    device = machine.device("dut", "core")
    if container_first:
        container = machine.region("mmio", device)
    regions = [machine.region(name, device) for name in ("vbe", "qext")]
    if not container_first:
        container = machine.region("mmio", device)
    for region in regions:
        machine.add_subregion(container, region)
    return device


def cross_owner(machine: FakeMachine, child_first: bool) -> FakeObject:
    """The thread's case: A has C_A and the child B, B has R_B, and C_A contains R_B."""
    a = machine.device("dut", "core")
    if child_first:
        b = machine.add_child(a, "b", machine.new("core"))
        c_a = machine.region("C_A", a)
    else:
        c_a = machine.region("C_A", a)
        b = machine.add_child(a, "b", machine.new("core"))
    machine.region("R_B", b, c_a)
    return a


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


# The verb --------------------------------------------------------------------------

ROWS = {
    "bochs-display": ("leak", "leak", "crash", "clean", "clean"),
    "intel-hda": ("leak", "leak", "clean", "clean", "clean"),
    "qemu-xhci": ("leak", "leak", "leak", "leak", "leak"),
}
ORDER = ["strict", "owner-ref", "no-ref", "subregion-ref", "owner-shared"]


def test_all_that_was_unplugged_is_foretold_from_one_snapshot(qmr: Qmr) -> None:
    ran = qmr("--snapshot", GOLDEN / "stock-7.2-unplugged.jsonl.gz", "forecast", "--json")
    assert ran.code == 0
    data = ran.json
    assert data["format"] == "qmr-forecast/1"
    assert data["policy"]["candidates"] == ["owner-ref", "strict"]
    objects = {one["object"]["type"]: one for one in data["objects"]}
    assert set(objects) == set(ROWS)
    for name, outcomes in ROWS.items():
        one = objects[name]
        assert one["source"] == "after" and not one["decides"]
        assert [found["policy"] for found in one["policies"]] == ORDER
        assert tuple(found["outcome"] for found in one["policies"]) == outcomes
        assert {found["certainty"] for found in one["policies"]} == {"exact"}
        for found in one["policies"]:
            assert bool(found["left"]) == ("leak" in found["outcome"])
            assert bool(found["assertion"]) == (found["outcome"] == "crash")
    crash = objects["bochs-display"]["policies"][2]["assertion"]
    assert (crash["function"], crash["expression"]) == ("memory_region_finalize", "!mr->container")
    assert crash["region"]["name"] in ("bochs dispi interface", "qemu extended regs", "edid")
    assert crash["others"][0]["name"] == "bochs-display-mmio"
    # Without their subregions' references the regions still hold the 7.2's xhci by its link.
    xhci = {found["policy"]: found for found in objects["qemu-xhci"]["policies"]}
    kinds = [
        {edge["kind"] for left in xhci[policy]["left"] for edge in left["references"]}
        for policy in ("owner-ref", "owner-shared")
    ]
    assert "subregion" in kinds[0] and "subregion" not in kinds[1]
    text = qmr("--snapshot", GOLDEN / "stock-7.2-unplugged.jsonl.gz", "forecast", "dut1").out
    assert "dut1 (bochs-display) was unplugged and is still there" in text
    assert "no-ref         crash: memory_region_finalize: !mr->container" in text


def test_a_plugged_device_gets_no_answer_from_nothing(qmr: Qmr, tmp_path: Path) -> None:
    machine = FakeMachine()
    same_owner(machine, False)
    file = tmp_path / "plugged.jsonl"
    save(machine.snapshot(), file)
    (one,) = qmr("--snapshot", file, "forecast", "dut", "--json").json["objects"]
    assert one["source"] == "plugged"
    assert [tie["kind"] for tie in one["decides"]] == ["subregion", "subregion"]
    by = {found["policy"]: found for found in one["policies"]}
    assert by["no-ref"]["outcome"] is None and by["no-ref"]["certainty"] == "open"
    assert by["no-ref"]["if_nothing"]["outcome"] == "crash"
    assert by["no-ref"]["if_everything"]["outcome"] == "clean"
    assert by["owner-shared"]["certainty"] == "either way"
    learned = tmp_path / "learned.jsonl"
    row = {"device": "core", "forecast": {"source": "pinned", "outlived": []}}
    learned.write_text(json.dumps(row) + "\n" + json.dumps({"summary": {}}) + "\n")
    arguments = ("--snapshot", file, "forecast", "dut", "--learned", learned)
    (one,) = qmr(*arguments, "--json").json["objects"]
    assert {(f["outcome"], f["certainty"]) for f in one["policies"]} == {("clean", "learned")}
    text = qmr("--snapshot", file, "forecast", "dut").out
    assert "region vbe[0] in mmio[2]" in text
    learned.write_text("[1, 2]\nno JSON\n")
    assert qmr(*arguments).code == 2
    assert qmr("--snapshot", file, "forecast", "dut", "--boot").code == 2
    assert qmr("--snapshot", file, "forecast", "/machine").code == 2


def test_the_pairs_of_a_machine_are_listed_with_what_each_policy_makes_of_them(
    qmr: Qmr, tmp_path: Path
) -> None:
    machine = FakeMachine(policy="owner-shared")
    cross_owner(machine, True)
    file = tmp_path / "boot.jsonl"
    save(machine.snapshot(), file)
    data = qmr("--snapshot", file, "forecast", "--boot", "--json").json
    found = {(pairs["owner"]["id"], pairs["sort"]): pairs for pairs in data["pairs"]}
    # The card's region in the space of the bus, which belongs to the host bridge.
    foreign = found.pop(("", "foreign"))
    assert not foreign["policies"] and foreign["pairs"][0]["region_owner"].endswith("/nic0")
    assert set(found) == {("dut", "child-region"), ("nic0", "same-owner")}
    pairs = found["dut", "child-region"]
    assert [(p["region_name"], p["container_name"]) for p in pairs["pairs"]] == [("R_B", "C_A")]
    assert pairs["pairs"][0]["region_owner"] == "/machine/peripheral/dut/b"
    assert pairs["pairs"][0]["references"] == dict.fromkeys(ORDER, "owner")
    outcomes = {one["policy"]: one["outcome"] for one in pairs["policies"]}
    assert outcomes == {**dict.fromkeys(ORDER, "clean"), "strict": "crash"}
    own = found["nic0", "same-owner"]
    assert {p["references"]["subregion-ref"] for p in own["pairs"]} == {"region"}
    assert {p["references"]["owner-shared"] for p in own["pairs"]} == {"nothing"}
    outcomes = {one["policy"]: one["outcome"] for one in own["policies"]}
    assert (outcomes["owner-ref"], outcomes["owner-shared"]) == ("leak", "clean")
    assert sum(item["regions"] for item in data["mapped"]) >= 1
    text = qmr("--snapshot", file, "forecast", "--boot").out
    assert '"R_B" of /machine/peripheral/dut/b in "C_A"' in text
    assert "strict: crash: memory_region_finalize: QTAILQ_EMPTY(&mr->subregions)" in text


def test_the_report_shows_what_would_remain(qmr: Qmr, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    golden = GOLDEN / "stock-7.2-unplugged.jsonl.gz"
    assert qmr("--snapshot", golden, "report", "-o", page).code == 1
    text = page.read_text()
    section = text[text.index("Under each policy") :]
    assert section.count("<svg") >= 3
    assert "What would remain under strict and owner-ref" in section
    assert "memory_region_finalize: !mr-&gt;container" in section


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
        forecaster.of(policy, group.head, group.members) for group in groups for policy in POLICIES
    ]
    assert time.process_time() - begin < 1.0
    assert Counter(one.outcome.outcome for one in found) == {"leak": 100, "clean": 150}
