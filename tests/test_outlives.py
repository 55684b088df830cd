"""What outlives a device, as people have reported it, on the distribution's QEMU."""

from __future__ import annotations

import json

import pytest
from conftest import Qmr, stock_qemu

from qmrinspect.hotplug.kinds import Recipe
from qmrinspect.hotplug.vm import Vm
from qmrinspect.hunt.cycle import Hunt
from qmrinspect.hunt.own_vm import OwnVm
from qmrinspect.hunt.pool import Job, Settings, VmPool

pytestmark = pytest.mark.timeout(150)


def test_one_leak_has_one_verdict(fresh_vm: Vm, qmr: Qmr) -> None:
    """UHCI never frees its irq; what points to it afterwards lies in freed memory."""
    pid = fresh_vm.pid
    assert qmr(pid, "plug", "piix3-usb-uhci", "id=u").code == 0
    unplugged = qmr(pid, "unplug", "u", "--json")
    assert unplugged.code == 1
    judged = unplugged.json
    assert (judged["outcome"], judged["cause"]) == ("partial-leak", "unbalanced")
    (left,) = judged["objects_left"]
    sentence = f"irq <{left['address']}> has 1 reference that no known structure holds"
    assert sentence in judged["text"]

    checked = qmr(pid, "check", "--json")
    (finding,) = checked.json["findings"]
    assert finding["object"]["address"] == left["address"]
    assert finding["text"].startswith(sentence)
    assert "no word of live memory points to it" in finding["text"]
    assert not checked.json["unknown"]
    (orphan,) = qmr(pid, "orphans", "--json").json["orphans"]
    assert [cause["text"] for cause in orphan["causes"]] == [finding["text"]]
    assert finding["text"] in qmr(pid, "why", left["address"]).out
    assert finding["text"] in qmr(pid, "orphans").out

    # A hunt on the same VM leaks another one, and says of it what a check says.
    hunted = qmr(pid, "hunt", "piix3-usb-uhci", "--yes", "--json").out.splitlines()
    row = json.loads(hunted[0])
    assert (row["outcome"], row["cause"]) == ("partial-leak", "unbalanced")
    (case,) = row["case"]
    texts = [f["text"] for f in qmr(pid, "check", "--json").json["findings"]]
    assert sorted([finding["text"], case["text"]]) == sorted(texts)


def test_a_reset_handler_outlives_its_device(fresh_vm: Vm, qmr: Qmr) -> None:
    """EEPRO100 never takes its reset handler back: the next system_reset uses freed memory."""
    pid = fresh_vm.pid
    assert qmr(pid, "plug", "i82559a", "id=e").code == 0
    device = int(qmr(pid, "show", "e", "--json").json["object"]["address"], 16)
    plugged = qmr(pid, "show", hex(device + 24), "--json").json
    assert plugged["object"]["id"] == "e"
    place = plugged["place"]
    assert (place["state"], place["start"], place["offset"]) == ("live", hex(device), 24)
    assert place["field"] == "Object.ref"
    assert "object" in [row["place"] for row in plugged["pointers"] if row["memory"] == "live"]

    unplugged = qmr(pid, "unplug", "e", "--json")
    assert unplugged.code == 1
    assert (unplugged.json["outcome"], unplugged.json["cause"]) == ("stale", "reset-handler")
    (stale,) = unplugged.json["stale"]
    assert (stale["target"], stale["freed"]) == (hex(device), True)
    assert "would call" in unplugged.json["text"]
    assert "at the next system reset" in unplugged.json["text"]

    freed = qmr(pid, "show", hex(device + 8), "--json").json
    assert freed["object"] is None
    assert freed["place"]["state"] == "freed"
    # The entry of the list of reset handlers: its link, the function, the device.
    left = [row for row in freed["pointers"] if row["memory"] == "live"]
    assert any((row["container"], row["offset"]) == (stale["address"], 24) for row in left)

    (finding,) = qmr(pid, "check", "--json").json["findings"]
    assert (finding["kind"], finding["severity"]) == ("stale", "error")
    assert stale["address"] in finding["text"] and hex(device) in finding["text"]


def test_a_vm_change_handler_outlives_a_device_that_leaked(fresh_vm: Vm, qmr: Qmr) -> None:
    """QXL has no exit: the link that holds it and the handler are both told."""
    pid = fresh_vm.pid
    assert qmr(pid, "plug", "qxl", "id=x").code == 0
    unplugged = qmr(pid, "unplug", "x", "--json").json
    assert (unplugged["outcome"], unplugged["cause"]) == ("leak", "held-by-link")
    (stale,) = unplugged["stale"]
    assert (stale["kind"], stale["freed"]) == ("vm-change-handler", False)
    assert stale["function"].startswith("hw-display-qxl.so")
    assert stale["target"] == unplugged["objects_left"][0]["address"]
    findings = qmr(pid, "check", "--json").json["findings"]
    assert [f["object"]["type"] for f in findings if f["kind"] == "stale"] == ["qxl"]


def test_a_bus_outlives_its_bridge_on_its_parents_list(fresh_vm: Vm, qmr: Qmr) -> None:
    """The bridge has no exit: the next unplug that is acknowledged by ACPI may die of its bus."""
    pid = fresh_vm.pid
    assert qmr(pid, "plug", "i82801b11-bridge", "id=b").code == 0
    sound = qmr(pid, "check", "--json")
    # What only looks stale is told apart, and fails nothing.
    assert sound.code == 0 and not sound.json["findings"]
    assert {row["kind"] for row in sound.json["candidates"]} <= {"candidate"}
    unplugged = qmr(pid, "unplug", "b", "--json").json
    assert (unplugged["outcome"], unplugged["cause"]) == ("leak", "foreign-container")
    (stale,) = unplugged["stale"]
    assert (stale["kind"], stale["freed"]) == ("bus-list", False)
    assert stale["address"] == qmr(pid, "show", "pci.0", "--json").json["object"]["address"]
    findings = qmr(pid, "check", "--json").json["findings"]
    (told,) = [f["text"] for f in findings if f["kind"] == "stale"]
    assert told.startswith(f"the list of buses <{stale['address']}> leads to i82801b11-bridge")


def test_a_flat_view_that_counts_too_much_explains_what_it_keeps(fresh_vm: Vm, qmr: Qmr) -> None:
    """``info mtree -f`` takes a reference for each address space, and drops one for each view."""
    pid = fresh_vm.pid
    assert qmr(pid, "check").out.rstrip().endswith("nothing found")
    qmr(pid, "hmp", "info mtree -f")
    before = qmr(pid, "check", "--json").json["findings"]
    assert before and all("flat view <" in finding["text"] for finding in before)
    qmr(pid, "plug", "pci-testdev", "id=t")
    after = qmr(pid, "check", "--json").json["findings"]
    assert all(f["kind"] == "unexplained" and "flat view <" in f["text"] for f in after)
    (lost,) = [f for f in after if "none of them held by anything known" in f["text"]]
    assert lost["object"]["address"] in {f["object"]["address"] for f in before}
    assert "/objects/pc.ram" in lost["text"]


@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
def test_each_release_is_told_by_one_hunt(version: str) -> None:
    """What people have reported of each, by the hunt that has no options."""
    qemu = "qemu-system-x86_64" if version == "7.2" else stock_qemu(version)
    with VmPool(Settings(start_options=(), qemu=qemu, sure=True)) as pool:
        rows = {
            name: list(pool.do(Job(name)))[-1]
            for name in ("virtio-net-pci", "nvme", "piix3-usb-uhci", "i82559a", "qxl")
        }
    told = {name: (row["outcome"], row["cause"]) for name, row in rows.items()}
    assert told["virtio-net-pci"] == ("clean", "")
    # An irq that nobody frees.
    assert told["piix3-usb-uhci"] == ("partial-leak", "unbalanced")
    assert "no word of live memory points to it" in rows["piix3-usb-uhci"]["text"]
    # Its handler is an object since 9.1, and leads to freed memory all the same.
    assert told["i82559a"] == ("stale", "reset-handler")
    assert told["qxl"] == ("leak", "held-by-link")
    # Since 10.0 it takes its handler back, and the console holds it still.
    handlers = {row["kind"] for row in rows["qxl"]["stale"]}
    assert ("vm-change-handler" in handlers) is (version == "7.2")
    # NVMe makes a subsystem that nobody drops, since 10.0; it balances, and none is an orphan.
    if version == "7.2":
        assert told["nvme"] == ("clean", "")
    else:
        assert told["nvme"] == ("partial-leak", "grows-in-tree")
        assert "1 nvme-subsys more is in the tree after every cycle" in rows["nvme"]["text"]
        assert "/machine/unattached/device[" in rows["nvme"]["text"]
    # A realize that fails leaves everything behind, since 9.2.
    with OwnVm([], qemu) as vm:
        failed = Hunt(vm).one(Recipe("virtio-rng-pci", "PCI", {"period": 0}), "dut")
    assert "expects a positive integer" in (failed.cycle.refused or "")
    left = ("refused", None) if version == "7.2" else ("leak", "address-space-root")
    assert (failed.outcome, failed.judgement.cause) == left
