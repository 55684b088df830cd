"""What outlives a device, as people have reported it, on each release of QEMU."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from conftest import DEVICES, RELEASES, Qmr, release

from qmrinspect.hotplug.kinds import Recipe
from qmrinspect.hotplug.vm import Vm
from qmrinspect.hunt.cycle import Hunt
from qmrinspect.hunt.own_vm import OwnVm
from qmrinspect.hunt.pool import Job, Settings, VmPool
from qmrinspect.monitor.base import CommandError

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module", params=RELEASES)
def version(request: pytest.FixtureRequest) -> str:
    """Return the release that is tried."""
    return str(request.param)


@pytest.fixture
def fresh(version: str) -> Iterator[Vm]:
    """Return a VM that a test may plug into and leak in."""
    with Vm(release(version), machine="pc", extra=DEVICES) as vm:
        yield vm


@pytest.fixture(scope="module")
def shared(version: str) -> Iterator[Vm]:
    """Return a VM that tests leave with what their own devices leak."""
    with Vm(release(version), machine="pc", extra=DEVICES) as vm:
        yield vm


def test_one_leak_has_one_verdict(fresh: Vm, here: Qmr) -> None:
    """UHCI never frees its irq; what points to it afterwards lies in freed memory."""
    pid = fresh.pid
    assert here(pid, "plug", "piix3-usb-uhci", "id=u").code == 0
    unplugged = here(pid, "unplug", "u", "--json")
    assert unplugged.code == 1
    judged = unplugged.json
    assert (judged["outcome"], judged["cause"]) == ("partial-leak", "unbalanced")
    (left,) = judged["objects_left"]
    assert [edge["field"] for edge in left["undropped"]] == ["UHCIState.irq"]
    sentence = f"irq <{left['address']}> has 1 reference that no known structure holds"
    assert sentence in judged["text"]

    checked = here(pid, "check", "--json")
    (finding,) = checked.json["findings"]
    assert finding["object"]["address"] == left["address"]
    assert finding["text"].startswith(sentence)
    assert "no word of live memory points to it" in finding["text"]
    assert not checked.json["unknown"]
    (orphan,) = here(pid, "orphans", "--json").json["orphans"]
    assert [cause["text"] for cause in orphan["causes"]] == [finding["text"]]
    assert finding["text"] in here(pid, "why", left["address"]).out
    assert finding["text"] in here(pid, "orphans").out

    # A hunt on the same VM leaks another one, and says of it what a check says.
    hunted = here(pid, "hunt", "piix3-usb-uhci", "--yes", "--json").out.splitlines()
    row = json.loads(hunted[0])
    assert (row["outcome"], row["cause"]) == ("partial-leak", "unbalanced")
    (case,) = row["case"]
    texts = [f["text"] for f in here(pid, "check", "--json").json["findings"]]
    assert sorted([finding["text"], case["text"]]) == sorted(texts)


def test_a_reset_handler_outlives_its_device(fresh: Vm, here: Qmr) -> None:
    """EEPRO100 never takes its reset handler back: the next system_reset uses freed memory."""
    pid = fresh.pid
    assert here(pid, "plug", "i82559a", "id=e").code == 0
    device = int(here(pid, "show", "e", "--json").json["object"]["address"], 16)
    plugged = here(pid, "show", hex(device + 24), "--json").json
    assert plugged["object"]["id"] == "e"
    place = plugged["place"]
    assert (place["state"], place["start"], place["offset"]) == ("live", hex(device), 24)
    assert place["field"] == "Object.ref"
    assert "object" in [row["place"] for row in plugged["pointers"] if row["memory"] == "live"]

    unplugged = here(pid, "unplug", "e", "--json")
    assert unplugged.code == 1
    assert (unplugged.json["outcome"], unplugged.json["cause"]) == ("stale", "reset-handler")
    (stale,) = unplugged.json["stale"]
    assert (stale["target"], stale["freed"]) == (hex(device), True)
    assert "would call" in unplugged.json["text"]
    assert "at the next system reset" in unplugged.json["text"]

    freed = here(pid, "show", hex(device + 8), "--json").json
    assert freed["object"] is None
    assert freed["place"]["state"] == "freed"
    # The entry of the list of reset handlers, an object since 9.1.
    left = [row for row in freed["pointers"] if row["memory"] == "live"]
    assert any(row["container"] == stale["address"] for row in left)

    (finding,) = here(pid, "check", "--json").json["findings"]
    assert (finding["kind"], finding["severity"]) == ("stale", "error")
    assert stale["address"] in finding["text"] and hex(device) in finding["text"]


def test_a_vm_change_handler_outlives_a_device_that_leaked(
    fresh: Vm, version: str, here: Qmr
) -> None:
    """QXL had no exit: the link that holds it and the handler are both told."""
    pid = fresh.pid
    assert here(pid, "plug", "qxl", "id=x").code == 0
    unplugged = here(pid, "unplug", "x", "--json").json
    assert (unplugged["outcome"], unplugged["cause"]) == ("leak", "held-by-link")
    checked = here(pid, "check", "--json").json["findings"]
    (orphan,) = [f for f in checked if f["kind"] == "orphan"]
    assert orphan["object"]["type"] == "qxl" and 'by link "device"' in orphan["text"]
    if version != "7.2":
        # It has one since 10.0, which takes the handler back; the console holds it still.
        assert not unplugged["stale"]
        return
    (stale,) = unplugged["stale"]
    assert (stale["kind"], stale["freed"]) == ("vm-change-handler", False)
    assert stale["function"].startswith("hw-display-qxl.so")
    assert stale["target"] == unplugged["objects_left"][0]["address"]
    assert [f["object"]["type"] for f in checked if f["kind"] == "stale"] == ["qxl"]


def test_a_bus_outlives_its_bridge_on_its_parents_list(fresh_vm: Vm, here: Qmr) -> None:
    """The bridge has no exit: the next unplug that is acknowledged by ACPI may die of its bus."""
    pid = fresh_vm.pid
    assert here(pid, "plug", "i82801b11-bridge", "id=b").code == 0
    sound = here(pid, "check", "--json")
    # What only looks stale is told apart, and fails nothing.
    assert sound.code == 0 and not sound.json["findings"]
    assert {row["kind"] for row in sound.json["candidates"]} <= {"candidate"}
    unplugged = here(pid, "unplug", "b", "--json").json
    assert (unplugged["outcome"], unplugged["cause"]) == ("leak", "foreign-container")
    (stale,) = unplugged["stale"]
    assert (stale["kind"], stale["freed"]) == ("bus-list", False)
    assert stale["address"] == here(pid, "show", "pci.0", "--json").json["object"]["address"]
    findings = here(pid, "check", "--json").json["findings"]
    (told,) = [f["text"] for f in findings if f["kind"] == "stale"]
    assert told.startswith(f"the list of buses <{stale['address']}> leads to i82801b11-bridge")


def test_a_flat_view_that_counts_too_much_explains_what_it_keeps(fresh: Vm, here: Qmr) -> None:
    """``info mtree -f`` takes a reference for each address space, and drops one for each view."""
    pid = fresh.pid
    assert here(pid, "check").out.rstrip().endswith("nothing found")
    here(pid, "hmp", "info mtree -f")
    before = here(pid, "check", "--json").json["findings"]
    assert before and all("flat view <" in finding["text"] for finding in before)
    here(pid, "plug", "pci-testdev", "id=t")
    after = here(pid, "check", "--json").json["findings"]
    assert all(f["kind"] == "unexplained" and "flat view <" in f["text"] for f in after)
    (lost,) = [f for f in after if "none of them held by anything known" in f["text"]]
    assert lost["object"]["address"] in {f["object"]["address"] for f in before}
    assert "/objects/pc.ram" in lost["text"]


def _findings(here: Qmr, vm: Vm) -> set[str]:
    return {finding["text"] for finding in here(vm.pid, "check", "--json").json["findings"]}


def test_a_realize_that_fails_is_told_by_a_check(shared: Vm, version: str, here: Qmr) -> None:
    """virtio-pci makes an address space before it realizes, and destroys it in exit alone."""
    before = _findings(here, shared)
    with shared.monitor() as monitor, pytest.raises(CommandError, match="rx_queue_size"):
        monitor.execute("device_add", {"driver": "virtio-net-pci", "id": "f", "rx_queue_size": 0})
    found = {text for text in _findings(here, shared) - before if "in a cycle of" not in text}
    if version == "7.2":
        assert not found
    else:
        (told,) = found
        assert told.startswith("virtio-net-pci f <")
        assert 'AddressSpace "virtio-pci-cfg-mem-as".root: the address space was not' in told


def test_what_a_leaked_display_still_owns_is_told_first(
    shared: Vm, version: str, here: Qmr
) -> None:
    """Where it leaks, QEMU would abort; where it goes, its console stays and is used again."""
    sound = _findings(here, shared)
    consoles = []
    for _ in range(2):
        plugged = here(shared.pid, "plug", "bochs-display", "id=d", "addr=0x18")
        if consoles and version != "11.1":
            assert plugged.code == 2 and "leaked" in plugged.err and "--force" in plugged.err
            assert shared.alive()
            return
        assert plugged.code == 0
        unplugged = here(shared.pid, "unplug", "d", "--json").json
        leaks = version != "11.1"
        assert unplugged["outcome"] == ("leak" if leaks else "clean")
        types = [row["type"] for row in here(shared.pid, "tree", "--json").json["objects"]]
        consoles.append(types.count("qemu-graphic-console"))
    assert consoles[0] == consoles[1] > 0
    assert _findings(here, shared) == sound


def test_what_a_device_held_and_did_not_drop_is_named(shared: Vm, here: Qmr) -> None:
    """The channel of x-pci-proxy-dev is closed, and AHCI's irqs are those of its ports."""
    sound = _findings(here, shared)
    for driver, field, count in (
        ("x-pci-proxy-dev", "PCIProxyDev.ioc", 1),
        ("ich9-ahci", "IDEBus.irq", 6),
    ):
        assert here(shared.pid, "plug", driver, "id=dut").code == 0
        if field == "PCIProxyDev.ioc":
            # Nothing of it is unexplained while it is plugged.
            assert _findings(here, shared) == sound
        unplugged = here(shared.pid, "unplug", "dut", "--json").json
        assert (unplugged["outcome"], unplugged["cause"]) == ("partial-leak", "unbalanced")
        left = unplugged["objects_left"]
        fields = [e["field"] for row in left for e in row["undropped"]]
        assert fields == [field] * count
        assert all(
            e["holder_path"].startswith("/machine/peripheral/dut") for e in left[0]["undropped"]
        )
        # A check has the same sentence on each.  An old word may lead to one of many.
        found = _findings(here, shared)
        assert count - 1 <= len(found - sound) <= len(left) == count
        assert all(any(row["address"] in text for row in left) for text in found - sound)
        sound = found


def test_a_reset_that_kills_qemu_is_told_before_and_after(version: str, here: Qmr) -> None:
    """Since 9.1 a reset asserts that no entry of its list goes while it walks it."""
    drivers = {"s": "pci-serial", "b": "virtio-balloon-pci", "t": "pci-testdev"}
    with Vm(release(version), machine="pc") as vm:
        with vm.monitor() as monitor:
            for id, driver in drivers.items():
                monitor.execute("device_add", {"driver": driver, "id": id})
            for id in drivers:
                monitor.execute("device_del", {"id": id})
        said = {
            id: here(vm.pid, "show", id, "--json").json["device"]["unplugging"]["text"]
            for id in drivers
        }
        assert all("waits for the guest: no leak" in text for text in said.values())
        dies = {id for id, text in said.items() if "system_reset would kill QEMU" in text}
        assert dies == (set() if version == "7.2" else {"s", "b"})
        assert {id for id, text in said.items() if "or system_reset" in text} == set("sbt") - dies
        reset = here(vm.pid, "qmp", "system_reset")
        assert reset.code == (2 if dies else 0)
        for id in dies:
            assert f"the reset ejects {id}, whose reset handler <0x" in reset.err
        if dies:
            assert vm.wait(20)
            assert "resettable_container_child_foreach" in (vm.exit_text() or "")
        else:
            assert here(vm.pid, "show", "s").code == 2


def test_each_release_is_told_by_one_hunt(version: str) -> None:
    """What people have reported of each, by the hunt that has no options."""
    qemu = release(version)
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


@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
def test_what_malloc_keeps_for_a_thread_is_no_block_of_a_device(version: str) -> None:
    """A worker that a disk needs has one: it was told as what scsi-cd leaves with each cycle."""
    with OwnVm(("PCI",), release(version)) as vm:
        blocks = vm.blocks(vm.read())
        threads = len(os.listdir(f"/proc/{vm.vm.pid}/task"))
    assert blocks is not None
    left_out = blocks.sizes().keys() - blocks.live.keys()
    caches = [at for at in left_out if blocks.sizes()[at] in (648, 760)]
    assert 0 < len(caches) <= threads
