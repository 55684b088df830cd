"""What hunts found of device types, and how it is made of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from qmrinspect.audit.known import CPUS, DATA, breaks_its_cycles, known_trouble

pytestmark = pytest.mark.unit


def test_what_is_known_to_leak_depends_on_the_policy() -> None:
    assert known_trouble("intel-hda", "owner-ref") == "same-owner-subregions"
    assert not known_trouble("intel-hda", "owner-shared")
    assert known_trouble("qemu-xhci", "owner-shared") == "link-cycle"
    assert known_trouble("rocker", "owner-shared") == "crash"
    assert not known_trouble("e1000e", "owner-ref")
    # Hunts of many cycles see more: what only grows, and what QEMU does not take a second time.
    assert known_trouble("nvme", "owner-shared") == "grows-in-tree"
    assert known_trouble("dc390", "owner-ref") == "crash"
    assert known_trouble("athlon-x86_64-cpu", "owner-ref").startswith("address-space-root")


@pytest.mark.parametrize(
    ("driver", "policy", "breaks"),
    [
        ("e1000e", "owner-ref", True),
        ("e1000e", "owner-shared", True),
        ("intel-hda", "owner-ref", False),
        ("intel-hda", "strict", False),
        ("qemu-xhci", "owner-shared", False),
        # What stays of these is no cycle of theirs.
        ("piix3-usb-uhci", "owner-ref", True),
        ("qxl", "owner-ref", True),
        # QEMU dies when this one is plugged once more, and its end was seen before.
        ("dc390", "owner-ref", True),
        # QEMU did not live to show it; and nobody hunted that.
        ("rocker", "owner-ref", None),
        ("my-own-device", "owner-ref", None),
        ("e1000e", "a-new-policy", None),
    ],
)
def test_hunts_tell_whose_cycles_an_unplug_breaks(
    driver: str, policy: str, breaks: bool | None
) -> None:
    assert breaks_its_cycles(driver, policy) is breaks


def test_what_is_known_is_made_of_what_hunts_printed() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
    from make_known import known

    def row(device: str, outcome: str, *causes: str, policy: str = "owner-ref") -> dict[str, Any]:
        more = {"policy": policy, "qemu_version": "9.0 (X)", "machine": "pc", "cycle": 1}
        more["text"] = "killed by SIGSEGV"
        return {"device": device, "outcome": outcome, "causes": list(causes), **more}

    found = known(
        [
            [row("a", "clean"), row("b", "leak", "link-cycle"), row("c", "refused", policy="")],
            [row("a", "crash", policy=""), row("d", "stale"), row("x-cpu", "partial-leak", "held")],
        ]
    )
    assert found["hunts"] == [["9.0", "pc", "owner-ref", 2], ["9.0", "pc", "owner-ref", 3]]
    # What went well once and badly once counts as bad.
    wanted = {"": "d", "crash": "a", "held": CPUS, "link-cycle": "b"}
    assert found["found"] == {"owner-ref": wanted}
    # What is known before stays; a later cycle that crashes is told from the first, and who was
    # ended from outside did not crash.
    again = {**row("d", "crash"), "cycle": 2}
    ended = {**row("e", "crash"), "text": "exit status 0: terminating on signal 15"}
    more = known([[row("b", "leak", "unbalanced", "delayed"), again, ended]], found)
    assert more["hunts"] == [["9.0", "pc", "owner-ref", n] for n in (2, 2, 3)]
    wanted = {"crash": "a", "crash-again": "d", "held": CPUS, "link-cycle, unbalanced": "b"}
    assert more["found"] == {"owner-ref": wanted}
    # And the file that ships is of whole hunts under both rules that were released.
    hunts = json.loads(DATA.read_text())["hunts"]
    assert {policy for _, _, policy, _ in hunts} >= {"owner-ref", "owner-shared"}
    assert min(judged for *_, judged in hunts) > 100
