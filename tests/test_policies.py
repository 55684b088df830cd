"""Forecast beside fact, on QEMUs that follow each of the five policies."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import Qmr

from qmrinspect.audit.agreement import agreement
from qmrinspect.errors import UsageError
from qmrinspect.hotplug.vm import Vm
from qmrinspect.verbs import policies

ROOT = Path(__file__).resolve().parent.parent

POLICIES = ("strict", "owner-ref", "no-ref", "subregion-ref", "owner-shared")


def built(*words: str) -> str:
    """Return a QEMU of tools/build_qemu.py."""
    tool = [sys.executable, str(ROOT / "tools" / "build_qemu.py"), *words]
    made = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return made.stdout.split()[-1]


def tool() -> ModuleType:
    """Return tools/agreement.py."""
    spec = importlib.util.spec_from_file_location("agreement", ROOT / "tools" / "agreement.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# What each does, by policy in that order.
FACTS = {
    "bochs-display": ("leak", "leak", "crash", "clean", "clean"),
    "cxl-downstream": ("leak", "leak", "crash", "clean", "clean"),
    "intel-hda": ("leak", "leak", "clean", "clean", "clean"),
    "i82801b11-bridge": ("leak",) * 5,
    "piix3-usb-uhci": ("partial-leak",) * 5,
    "usb-kbd": ("clean",) * 5,
}


@pytest.mark.timeout(400)
def test_what_is_foretold_on_each_build_is_what_each_build_does() -> None:
    builds = [built("10.0", "--policy", policy) for policy in POLICIES]
    command = [sys.executable, "-m", "qmrinspect", "hunt", *FACTS, "--policies", "--json"]
    command += ["--builds", ",".join(builds), "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=390, check=False)
    assert done.returncode == 0, done.stderr
    *rows, last = [json.loads(line) for line in done.stdout.splitlines()]
    by_build: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_build.setdefault(row["build"], {})[row["device"]] = row
    assert len(by_build) == 5
    for policy, found in zip(POLICIES, by_build.values()):
        did = {device: row["outcome"] for device, row in found.items()}
        place = POLICIES.index(policy)
        assert did == {device: facts[place] for device, facts in FACTS.items()}
        for device, row in found.items():
            # One build knows what all do, and says so in the row.
            assert tuple(row["under"][name] for name in POLICIES) == FACTS[device]
            assert row["forecast"]["source"] == "pinned"
    cells = last["agreement"]["cells"]
    assert sum(cell["source"] == "pinned" for cell in cells) == 25
    assert all(cell["right"] == cell["total"] > 0 and not cell["wrong"] for cell in cells)
    # Counts leave two policies; what a QEMU does tells which.
    told = [build["policies"] for build in last["agreement"]["builds"]]
    assert told[2:] == [["no-ref"], ["subregion-ref"], ["owner-shared"]]
    sure = [build["sure"] for build in last["agreement"]["builds"]]
    assert all(cell["right"] == cell["total"] > 0 for cell in sure)
    # The page of all devices is made so.
    page = "\n".join(tool().lines([{**row, "machine": "pc"} for row in rows], "0"))
    assert page.count("| 6/6 | 6/6 | 6/6 | 6/6 | 6/6 |") == 5
    assert "Where they differ" not in page and "| 10.0.13 no-ref | `no-ref` | 6 |" in page


@pytest.mark.unit
def test_builds_that_nobody_names_are_those_of_the_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="takes two builds or more"):
        policies._builds("")
    places = ("10.0.13+ds-1-abc/no-ref-12", "10.0.13+ds-1-abc/subregion-ref-v7-3")
    places += ("10.0.13+ds-1-def/no-ref-45", "10.2.2+ds-1-abc/owner-ref-as-is")
    for age, place in enumerate(places):
        program = tmp_path / "qmr" / "qemu" / "bin" / place / "qemu-system-x86_64"
        program.parent.mkdir(parents=True)
        program.touch()
        os.utime(program, (age, age))
    found = {name: program for name, program in policies._builds("")}
    # The newest of each policy; v7 is none, and dies of every unplug.
    assert list(found) == ["10.0.13 no-ref", "10.2.2"]
    assert places[2] in found["10.0.13 no-ref"]


@pytest.mark.unit
def test_the_page_of_all_devices_explains_each_difference() -> None:
    text = (ROOT / "docs" / "agreement.md").read_text()
    assert re.search(r"on \d{4}-\d\d-\d\d, commit [0-9a-f]{7,}", text)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["pc", "q35"]
    cells = [(int(right), int(total)) for right, total in re.findall(r" (\d+)/(\d+) ", text)]
    assert len(cells) > 2 * 7 * 7 and max(total for _, total in cells) > 130
    # No policy is at fault: the devices' own code differs between the versions.
    told = re.findall(r"^- (\d+) x (.*)$", text, re.MULTILINE)
    assert sum(int(times) for times, _ in told) == sum(total - right for right, total in cells)
    assert all(re.search(r"\(.*\b[0-9.]+.*\)$", difference) for _, difference in told)
    sure = re.findall(r"\| (\d+) of (\d+) \|$", text, re.MULTILINE)
    assert len(sure) >= 2 * 7 and all(right == total for right, total in sure)


def test_a_disagreement_is_told() -> None:
    forecast = {
        "source": "pinned",
        "policies": [
            {"policy": name, "outcome": "clean", "cause": "", "assertion": None}
            for name in POLICIES
        ],
        "plugged": [{"policy": "owner-shared", "certainty": "sure", "outcome": "clean"}],
    }
    row = {"device": "d", "policy": "owner-shared", "outcome": "clean", "cause": "", "text": ""}
    died = "memory.c:1806: memory_region_finalize: Assertion `!mr->container' failed."
    found = agreement(
        [
            {**row, "build": "good", "forecast": forecast},
            {**row, "build": "bad", "outcome": "crash", "text": died, "forecast": forecast},
        ]
    )
    assert found.cells["pinned", "good", "good"].right == 1
    cell = found.cells["pinned", "good", "bad"]
    assert (cell.right, cell.total) == (0, 1) and "d: foretold clean, did crash" in cell.wrong[0]
    assert found.sure["bad"].wrong and not found.sure["good"].wrong
    # A callback that outlives it is the device's own, under whatever policy.
    stale = {**row, "build": "b", "outcome": "stale", "cause": "timer", "forecast": forecast}
    found = agreement([stale])
    assert found.cells["pinned", "b", "b"].right == found.sure["b"].right == 1
    forecast["policies"][2] = {
        **{"policy": "no-ref", "outcome": "crash", "cause": ""},
        "assertion": {"function": "memory_region_finalize", "expression": "!mr->container"},
    }
    found = agreement(
        [{**row, "build": "b", "outcome": "crash", "text": died, "forecast": forecast}]
    )
    assert found.policies["b"] == ["no-ref"]
    assert found.cells["pinned", "b", "b"].right == 1


# Boards ----------------------------------------------------------------------------

# Owner of the containers to the devices below it whose regions they hold.
BOARDS = {
    ("qemu-system-arm", "mcimx7d-sabre"): {"/machine/soc/a7mpcore": {"/machine/soc/a7mpcore/gic"}},
    ("qemu-system-arm", "sabrelite"): {
        "/machine/soc/a9mpcore": {
            f"/machine/soc/a9mpcore/{name}" for name in ("scu", "gic", "gtimer", "mptimer", "wdt")
        }
    },
    ("qemu-system-aarch64", "raspi3b"): {
        "/machine/soc/peripherals": {"/machine/soc/peripherals/mphi"}
    },
}


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board[1])
def test_the_case_of_the_thread_on_boards(board: tuple[str, str], qmr: Qmr) -> None:
    """A container of A holds a region of B below A: only the ideal of 2.4 does not survive it."""
    with Vm(*board) as vm:
        data = qmr(vm.pid, "forecast", "--boot", "--json").json
    found = {
        pairs["owner"]["path"]: pairs for pairs in data["pairs"] if pairs["sort"] == "child-region"
    }
    for owner, inner in BOARDS[board].items():
        pairs = found[owner]
        assert inner <= {pair["region_owner"] for pair in pairs["pairs"]}
        outcomes = {one["policy"]: one["outcome"] for one in pairs["policies"]}
        assert outcomes == {**dict.fromkeys(POLICIES, "clean"), "strict": "crash"}
        (strict,) = [one for one in pairs["policies"] if one["policy"] == "strict"]
        assert strict["assertion"]["expression"] == "QTAILQ_EMPTY(&mr->subregions)"
    own = [pairs for pairs in data["pairs"] if pairs["sort"] == "same-owner"]
    outcomes = {one["policy"]: one["outcome"] for one in own[0]["policies"]}
    assert (outcomes["owner-ref"], outcomes["owner-shared"]) == ("leak", "clean")


# device-list-properties ------------------------------------------------------------


def introspected(qemu: str, *types: str) -> list[dict[str, Any]]:
    # The debug information of an emulator with 800 types is read once, and takes its time.
    command = [sys.executable, "-m", "qmrinspect", "hunt", "--introspect", "--json"]
    command += ["--qemu", qemu, *types]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=230, check=False)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_the_crash_of_imx7_analog_is_foretold_by_a_stock_qemu() -> None:
    types = ("imx7.analog", "imx6.ccm", "a15mpcore_priv")
    *rows, last = introspected("qemu-system-arm", *types)
    found = {row["device"]: row for row in rows}
    assert set(found) == {"imx7.analog", "imx6.ccm"}
    (total,) = last["summary"]
    assert (total["types"], total["clean"], total["leak"]) == (3, 1, 2)
    row = found["imx7.analog"]
    assert (row["outcome"], row["cause"]) == ("leak", "same-owner-subregions")
    assert row["under"]["no-ref"] == "crash" and row["under"]["owner-shared"] == "clean"
    (crash,) = [one for one in row["forecast"]["policies"] if one["policy"] == "no-ref"]
    assert crash["assertion"]["expression"] == "!mr->container"
    assert crash["assertion"]["others"][0]["name"] == "imx7.analog"
    # The same number of regions, in another order of the properties.
    assert found["imx6.ccm"]["under"]["no-ref"] == "clean"


@pytest.mark.timeout(240)
def test_a_qemu_without_references_within_an_owner_dies_of_it() -> None:
    qemu = built("10.0", "--target", "aarch64", "--policy", "no-ref")
    *rows, _ = introspected(qemu, "imx7.analog", "imx6.ccm")
    assert [(row["device"], row["outcome"]) for row in rows] == [("imx7.analog", "crash")]
    assert "memory_region_finalize: Assertion `!mr->container' failed" in rows[0]["text"]
