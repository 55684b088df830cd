"""The verb forecast, and what a report shows of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from audits import cross_owner, same_owner
from conftest import Qmr
from fakes import FakeMachine
from make_golden import GOLDEN

from qmrinspect.store import save

pytestmark = pytest.mark.unit

ROWS = {
    "bochs-display": ("leak", "leak", "crash", "clean", "clean"),
    "intel-hda": ("leak", "leak", "clean", "clean", "clean"),
    "qemu-xhci": ("leak", "leak", "leak", "leak", "leak"),
}
ORDER = ["strict", "owner-ref", "no-ref", "subregion-ref", "owner-shared"]


def test_all_that_was_unplugged_is_foretold_from_one_snapshot(here: Qmr) -> None:
    ran = here("--snapshot", GOLDEN / "stock-7.2-unplugged.jsonl.gz", "forecast", "--json")
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
    text = here("--snapshot", GOLDEN / "stock-7.2-unplugged.jsonl.gz", "forecast", "dut1").out
    assert "dut1 (bochs-display) was unplugged and is still there" in text
    assert "no-ref         crash: memory_region_finalize: !mr->container" in text


def test_a_plugged_device_gets_no_answer_from_nothing(here: Qmr, tmp_path: Path) -> None:
    machine = FakeMachine()
    same_owner(machine, False)
    file = tmp_path / "plugged.jsonl"
    save(machine.snapshot(), file)
    (one,) = here("--snapshot", file, "forecast", "dut", "--json").json["objects"]
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
    (one,) = here(*arguments, "--json").json["objects"]
    assert {(f["outcome"], f["certainty"]) for f in one["policies"]} == {("clean", "learned")}
    text = here("--snapshot", file, "forecast", "dut").out
    assert "region vbe[0] in mmio[2]" in text
    learned.write_text("[1, 2]\nno JSON\n")
    assert here(*arguments).code == 2
    assert here("--snapshot", file, "forecast", "dut", "--boot").code == 2
    assert here("--snapshot", file, "forecast", "/machine").code == 2


def test_the_pairs_of_a_machine_are_listed_with_what_each_policy_makes_of_them(
    here: Qmr, tmp_path: Path
) -> None:
    machine = FakeMachine(policy="owner-shared")
    cross_owner(machine, True)
    file = tmp_path / "boot.jsonl"
    save(machine.snapshot(), file)
    data = here("--snapshot", file, "forecast", "--boot", "--json").json
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
    text = here("--snapshot", file, "forecast", "--boot").out
    assert '"R_B" of /machine/peripheral/dut/b in "C_A"' in text
    assert "strict: crash: memory_region_finalize: QTAILQ_EMPTY(&mr->subregions)" in text


def test_the_report_shows_what_would_remain(here: Qmr, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    golden = GOLDEN / "stock-7.2-unplugged.jsonl.gz"
    assert here("--snapshot", golden, "report", "-o", page).code == 1
    text = page.read_text()
    section = text[text.index("Under each policy") :]
    assert section.count("<svg") >= 3
    assert "What would remain under strict and owner-ref" in section
    assert "memory_region_finalize: !mr-&gt;container" in section
