"""Everything that the distribution's QEMU can hotplug, hunted as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

#: What leaks, and why; the first eleven are devices that are never finalized.
LEAKS = {
    "bochs-display": ["same-owner-subregions"],
    "cxl-downstream": ["same-owner-subregions"],
    "cxl-type3": ["same-owner-subregions"],
    "cxl-upstream": ["same-owner-subregions"],
    "i82801b11-bridge": ["foreign-container"],
    "ich9-intel-hda": ["same-owner-subregions"],
    "intel-hda": ["same-owner-subregions"],
    "nec-usb-xhci": ["link-cycle", "same-owner-subregions"],
    "qemu-xhci": ["link-cycle", "same-owner-subregions"],
    "qemu64-x86_64-cpu": ["same-owner-subregions", "address-space-root"],
    "qxl": ["held-by-link"],
}
PARTIAL_LEAKS = {
    "ich9-ahci": ["unbalanced"],
    "piix3-usb-uhci": ["unbalanced"],
    "piix4-usb-uhci": ["unbalanced"],
    "sdhci-pci": ["unbalanced"],
    "x-pci-proxy-dev": ["unbalanced"],
}
#: What outlives the device, told right after the unplug.
STALE = {
    **dict.fromkeys(
        "i82550 i82551 i82557a i82557b i82557c i82558a i82558b i82559a i82559b i82559c i82559er "
        "i82562 i82801".split(),
        "reset-handler",
    ),
    # hw/ipmi/ipmi_bt.c, ipmi_kcs.c: the region has no owner.
    "pci-ipmi-bt": "child",
    "pci-ipmi-kcs": "child",
    # backends/vhost-user.c vhost_user_backend_finalize() does not call vhost_dev_cleanup().
    "vhost-user-input-pci": "memory-listener",
    "chardev:braille": "fd-handler",
    # ui/vdagent.c vdagent_chr_fini() only deactivates its input handler.
    "chardev:qemu-vdagent": "input-handler",
}
CRASHES = {"rocker", "object:colo-compare", "object:x-remote-object"}

#: What QEMU itself does not release, whatever the machine.
KEPT = {
    "nvdimm",
    "virtio-mem-pci",
    "virtio-pmem-pci",
    "object:can-bus",
    "object:main-loop",
    "chardev:mux",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return the rows of the whole hunt by driver."""
    place = tmp_path_factory.mktemp("everything")
    (place / "tmp").mkdir()
    command = [sys.executable, "-m", "qmrinspect", "hunt", "--json"]
    done = subprocess.run(
        [*command, "--campaign", str(place / "c.sqlite")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(place / "tmp")},
    )
    # Neither a VM nor a program behind a backend leaves anything.
    assert not list((place / "tmp").iterdir())
    assert done.returncode == 1, done.stderr
    *found, summary = (json.loads(line) for line in done.stdout.splitlines())
    assert "not_done" not in summary
    return {row["device"]: row for row in found}


@pytest.mark.timeout(300)
def test_every_candidate_has_a_verdict_or_a_reason(rows: dict[str, dict[str, Any]]) -> None:
    tried = {name: row for name, row in rows.items() if row["hotpluggable"]}
    assert len(tried) > 350
    for name, row in tried.items():
        if row["outcome"] == "refused":
            assert name in KEPT or row["outside"].startswith("needs "), row["text"]
    assert not {row["outcome"] for row in tried.values()} & {"hang", "not-acked", "delayed"}


def test_what_leaks_is_found_with_its_causes(rows: dict[str, dict[str, Any]]) -> None:
    for outcome, expected in (("leak", LEAKS), ("partial-leak", PARTIAL_LEAKS)):
        found = {n: row["causes"] for n, row in rows.items() if row["outcome"] == outcome}
        assert {n: c for n, c in found.items() if n not in models(rows)} == expected
    assert {n for n, row in rows.items() if row["outcome"] == "crash"} == CRASHES
    stale = {n: row["cause"] for n, row in rows.items() if row["outcome"] == "stale"}
    assert stale.items() <= STALE.items()
    # No policy decides over a callback: the device itself goes under each.
    assert all(set(rows[n]["under"].values()) == {"clean"} for n in stale if n.startswith("i82"))
    # Memory that was used again hides one: there is less of it to tell them by.
    assert len(stale) >= len(STALE) - 3


def models(rows: dict[str, dict[str, Any]]) -> set[str]:
    """Return the CPU models that have a VM of their own."""
    return {name for name in rows if name.endswith("-cpu")} - {"qemu64-x86_64-cpu"}


def test_every_cpu_model_leaks_as_the_machines_own_does(rows: dict[str, dict[str, Any]]) -> None:
    # As TCG's do; "host" is KVM's alone.
    found = models(rows) - {"host-x86_64-cpu"}
    assert len(found) > 100
    assert {tuple(rows[name]["causes"]) for name in found} == {tuple(LEAKS["qemu64-x86_64-cpu"])}


def test_the_control_group_is_clean(rows: dict[str, dict[str, Any]]) -> None:
    buses = {"PCI", "usb-bus", "SCSI", "virtio-serial-bus", "ccid-bus", ""}
    clean = {n for n, r in rows.items() if r["outcome"] == "clean" and r["bus"] in buses}
    assert len(clean) >= 95
    assert {"virtio-net-pci", "e1000e", "nvme", "megasas", "usb-tablet", "scsi-hd"} <= clean
    assert all(not rows[name]["objects_left"] for name in clean)


def test_crashes_come_with_a_backtrace(rows: dict[str, dict[str, Any]]) -> None:
    frames = "\n".join(rows["rocker"]["backtrace"])
    assert "abort" in frames or "raise" in frames or "msix" in frames
