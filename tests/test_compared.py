"""Campaigns compared: with a baseline, with what is expected, with another policy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from campaigns import ROOT, found, lines
from conftest import Qmr

from qmrinspect.campaign.expect import Expectations
from qmrinspect.campaign.store import compare
from qmrinspect.errors import UsageError

# Compared --------------------------------------------------------------------------


def test_findings_are_new_fixed_or_known() -> None:
    before = [found("a", "leak", "x"), found("b", "crash"), found("c"), found("d", "clean")]
    now = [found("a", "leak", "x"), found("b", "clean"), found("d", "leak", "y"), found("e")]
    compared = compare(now, before)
    assert [row["device"] for row in compared["known"]] == ["a"]
    assert [row["device"] for row in compared["fixed"]] == ["b"]  # c was not hunted again
    assert [row["device"] for row in compared["new"]] == ["d", "e"]


def test_only_new_findings_fail(campaign: Path, qmr: Qmr) -> None:
    for baseline in ("c.sqlite", "hunt.jsonl"):
        known = qmr("hunt", "intel-hda", "--json", "--baseline", campaign / baseline)
        rows = lines(known.out)
        assert rows[0]["status"] == "known"
        assert rows[-1]["compared"]["new"] == []
        assert known.code == 0
    new = qmr("hunt", "bochs-display", "--baseline", campaign / "c.sqlite")
    assert new.code == 1
    assert "1 new" in new.out


def test_expected_findings_have_a_reason_and_unused_rules_are_reported(
    tmp_path: Path, qmr: Qmr
) -> None:
    rules = tmp_path / "expect.json"
    rules.write_text(
        json.dumps(
            [
                {"device": "intel-*", "cause": "same-owner-*", "reason": "fixed by ac7a892fd3"},
                {"device": "gone", "reason": "was fixed long ago"},
            ]
        )
    )
    done = qmr("hunt", "intel-hda", "--expect", rules)
    assert done.code == 0
    assert "expected: fixed by ac7a892fd3" in done.out
    assert "was fixed long ago" in done.out
    assert done.out.count("no finding matches") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("{}", "no list"),
        ('[{"device": "x"}]', "has no reason"),
        ('[{"devise": "x", "reason": "y"}]', "no use for devise"),
    ],
)
def test_a_wrong_rule_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "rules"
    file.write_text(text)
    with pytest.raises(UsageError, match=words):
        Expectations(str(file))


# The three policies ----------------------------------------------------------------

SAME_OWNER = {"intel-hda", "bochs-display", "cxl-downstream", "qemu64-x86_64-cpu"}
#: They leak for other reasons, or not at all.
ALIKE = {"piix3-usb-uhci", "i82801b11-bridge", "e1000e", "usb-kbd"}


def built(policy: str) -> str:
    """Return a QEMU 10.0 that follows a policy."""
    tool = [sys.executable, str(ROOT / "tools" / "build_qemu.py"), "10.0", "--policy", policy]
    made = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return made.stdout.split()[-1]


@pytest.mark.timeout(150)
def test_two_campaigns_compared_say_what_a_policy_fixes(tmp_path: Path, qmr: Qmr) -> None:
    names = sorted(SAME_OWNER | ALIKE)
    before = tmp_path / "owner-ref.sqlite"
    first = qmr("hunt", *names, "--qemu", built("owner-ref"), "--campaign", before, "--jobs", 2)
    assert first.code == 1
    for policy in ("subregion-ref", "owner-shared"):
        second = qmr(
            *("hunt", *names, "--qemu", built(policy), "--jobs", 2, "--json"),
            *("--baseline", before),
        )
        compared = lines(second.out)[-1]["compared"]
        assert {device for device, *_ in compared["fixed"]} == SAME_OWNER
        # A CPU that goes leaves its notifier in machine_init_done_notifiers: nobody calls
        # qemu_remove_machine_init_done_notifier() for what tcg_cpu_realizefn() adds
        # (target/i386/tcg/system/tcg-cpu.c), and the next CPU's entry writes to the freed one.
        # And bochs-display, which goes now, leaves a timer each time (ui/console.c).
        memory = ["bochs-display", "partial-leak", "unreachable-memory"]
        assert [row for row in compared["new"] if row != memory] == [
            ["qemu64-x86_64-cpu", "stale", ""]
        ]
        assert {device for device, *_ in compared["known"]} == {
            "piix3-usb-uhci",
            "i82801b11-bridge",
        }
        assert second.code == 1
        (cpu,) = [row for row in lines(second.out) if row.get("device", "").endswith("-cpu")]
        (stale,) = cpu["stale"]
        assert (stale["kind"], stale["function"]) == ("notifier", "tcg_cpu_machine_done")
        assert stale["freed"]
        assert cpu["states"]["finalized_us"]
        if policy == "owner-shared":
            # Only the cache of flat views held it, until the topology was changed.
            assert "it went when the topology changed" in cpu["text"]


def test_a_refused_device_may_leave_something_behind(qmr: Qmr) -> None:
    # virtio_pci_realize() of 10.0 makes an address space that its error path forgets.
    found = qmr("hunt", "virtio-input-host-pci", "--qemu", built("owner-ref"), "--json")
    row = lines(found.out)[0]
    assert row["outcome"] == "leak"
    assert row["causes"] == ["address-space-root"]
    assert row["step"] == "device_add"
    assert "was refused" in row["note"]
    assert found.code == 1
