"""The hunt: candidates, recipes, verdicts on a real QEMU, growth, and a guest."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Qmr, release
from test_policies import built

from qmrinspect.campaign.candidates import candidates
from qmrinspect.errors import TargetError, UsageError
from qmrinspect.hotplug.guest import find_guest
from qmrinspect.hotplug.recipes import START_OPTIONS, recipe_for
from qmrinspect.hotplug.vm import Vm
from qmrinspect.hunt.attached import Attached
from qmrinspect.hunt.cycle import Hunt
from qmrinspect.hunt.own_vm import OwnVm
from qmrinspect.hunt.pool import VmPool
from qmrinspect.hunt.settings import Job, Settings
from qmrinspect.monitor.base import Monitor, MonitorLost
from qmrinspect.monitor.plain import PlainMonitor
from qmrinspect.peers import PEERS, open_peer
from qmrinspect.reading import Reader
from qmrinspect.snapshot import Snapshot
from qmrinspect.target.process import Process

EVERY = tuple(option.name for option in START_OPTIONS)


@pytest.fixture(scope="module")
def pool() -> Iterator[VmPool]:
    with VmPool(Settings(start_options=EVERY)) as opened:
        yield opened


def do(pool: VmPool, driver: str) -> dict[str, Any]:
    (row,) = pool.do(Job(driver))
    return row


# Candidates ------------------------------------------------------------------------


def test_the_candidates_come_from_qemu_itself() -> None:
    with Vm(extra=["-smp", "1,maxcpus=2"]) as vm, vm.monitor() as monitor:
        found = candidates(monitor)
    names = set(found.names)
    assert {"virtio-net-pci", "usb-tablet", "scsi-hd", "virtserialport", "pc-dimm"} <= names
    assert {"object:iothread", "chardev:pty", "netdev:user", "block:throttle"} <= names
    assert "qemu64-x86_64-cpu" in names
    assert "EPYC-x86_64-cpu" in found.models
    assert "EPYC-x86_64-cpu" not in names
    assert "hpet" not in names  # not creatable by a user
    assert len(names) == len(found.names)


# Verdicts --------------------------------------------------------------------------

CLEAN = [
    "virtio-net-pci",
    "virtio-9p-pci",
    "virtio-crypto-pci",
    "vhost-user-blk-pci",
    "vhost-user-fs-pci",
    "kvaser_pci",
    "usb-mtp",
    "usb-storage",
    "scsi-hd",
    "virtserialport",
    "ccid-card-passthru",
    "pc-dimm",
    "object:iothread",
    "object:memory-backend-ram",
    "object:filter-mirror",
    "chardev:pty",
    "netdev:vhost-user",
    "block:throttle",
    # Last: its descriptor handlers outlive it, and may hit who comes next.
    "ivshmem-doorbell",
]


@pytest.mark.parametrize("driver", CLEAN)
def test_a_sound_one_is_clean(pool: VmPool, driver: str) -> None:
    row = do(pool, driver)
    assert (row["outcome"], row["text"]) == (
        "clean",
        f"{driver} was finalized with all that came with it",
    )
    assert not row["kept"]
    times = row["states"]
    assert 0 < times["requested_us"] <= times["unparented_us"]
    assert times["requested_us"] <= times["finalized_us"]


LEAKS = {
    "intel-hda": ("leak", {"same-owner-subregions"}),
    "bochs-display": ("leak", {"same-owner-subregions"}),
    "cxl-downstream": ("leak", {"same-owner-subregions"}),
    "cxl-type3": ("leak", {"same-owner-subregions"}),
    "qemu-xhci": ("leak", {"link-cycle", "same-owner-subregions"}),
    "i82801b11-bridge": ("leak", {"foreign-container"}),
    "qxl": ("leak", {"held-by-link"}),
    "piix3-usb-uhci": ("partial-leak", {"unbalanced"}),
}


@pytest.mark.parametrize("driver", LEAKS)
def test_a_leak_is_found_with_its_cause(pool: VmPool, driver: str) -> None:
    row = do(pool, driver)
    outcome, causes = LEAKS[driver]
    assert row["outcome"] == outcome
    assert causes <= set(row["causes"])
    assert all(left["expected"] == len(left["references"]) for left in row["objects_left"])
    assert row["objects_left"]
    assert row["states"]["unparented_us"]
    if outcome == "leak":
        assert not row["event"]
        assert not row["states"]["finalized_us"]


@pytest.mark.parametrize("driver", ["pci-ipmi-bt", "pci-ipmi-kcs"])
def test_a_child_whose_memory_was_freed_is_stale(pool: VmPool, driver: str) -> None:
    # Its region has no owner (ipmi_bt_init_one(), hw/ipmi/ipmi_bt.c), so that it is a child of
    # /machine/unattached for good; the next one of the kind would kill QEMU.
    row = do(pool, driver)
    assert (row["outcome"], row["cause"]) == ("stale", "child")
    assert f'the child property "{driver[4:]}[0]"' in row["text"]
    (stale,) = row["stale"]
    assert (stale["kind"], stale["function"], stale["freed"]) == ("child", "", True)
    assert do(pool, driver)["outcome"] == "stale"


def test_a_crash_is_a_result_and_the_hunt_goes_on(pool: VmPool) -> None:
    row = do(pool, "rocker")
    assert row["outcome"] == "crash"
    assert "SIGABRT" in row["text"]
    assert "msix_vector_unuse" in row["text"]
    assert do(pool, "edu")["outcome"] == "clean"


def test_who_dies_of_what_was_there_before_is_cleared(pool: VmPool) -> None:
    # A dc390 leaves its EEPROM's migration state behind (eeprom93xx_new()), and QEMU
    # aborts when the next one registers the same.
    assert do(pool, "dc390")["outcome"] == "clean"
    assert do(pool, "edu")["outcome"] == "clean"
    row = do(pool, "dc390")
    assert row["outcome"] == "clean"
    assert "dc390 came before" in row["note"]
    assert "vmstate_register" in row["note"]
    assert row["after"] == ["dc390"]


def test_what_qemu_refuses_has_a_named_reason(pool: VmPool) -> None:
    row = do(pool, "vfio-pci")
    assert row["outcome"] == "refused"
    assert row["text"].startswith("needs a PCI device of the host (QEMU says: ")
    assert row["hotpluggable"]
    assert not do(pool, "isa-serial")["hotpluggable"]
    unplug = do(pool, "nvdimm")
    assert (unplug["outcome"], unplug["step"]) == ("refused", "device_del")
    assert do(pool, "edu")["outcome"] == "clean"


def test_what_the_newest_qemu_added_has_recipes() -> None:
    with VmPool(Settings(qemu=built("11.1"), machine="q35", start_options=("PCI",))) as newest:
        for driver in (
            "vhost-user-rtc-pci",
            "vhost-user-spi-pci",
            "vhost-user-test-device-pci",
            "cxl-switch-mailbox-cci",
            "object:monitor-qmp",
        ):
            row = do(newest, driver)
            assert row["outcome"] == "clean", row["text"]
        # QEMU says now why: no device but its own can be on such a bus.
        row = do(newest, "virtio-rng-device")
        assert "virtio-bus" in row["text"]
        assert not row["hotpluggable"]


def test_a_cpu_comes_and_goes(pool: VmPool) -> None:
    row = do(pool, "qemu64-x86_64-cpu")
    assert row["acknowledged_by"] == "acpi"
    assert row["states"]["unparented_us"]
    # On 7.2 a CPU's own containers hold it; later the flat view's cache does, for a while.
    assert row["outcome"] in ("leak", "delayed", "clean")


def test_a_cpu_model_has_a_vm_of_its_own(pool: VmPool) -> None:
    (row,) = pool.do(Job("EPYC-x86_64-cpu", "EPYC"))
    assert row["outcome"] == "leak"
    assert "same-owner-subregions" in row["causes"]
    # The model of this processor is KVM's.  The containers that hold the other models are
    # TCG's alone (tcg_cpu_realizefn() in target/i386/tcg/sysemu/tcg-cpu.c): under KVM QEMU
    # reports the end of the CPU from device_finalize().
    (row,) = pool.do(Job("host-x86_64-cpu", "host"))
    if row["outcome"] == "refused":
        assert row["outside"].startswith("needs KVM")
    else:
        assert (row["outcome"], row["event"], row["objects_left"]) == ("clean", True, [])
    assert do(pool, "edu")["outcome"] == "clean"


# Growth ----------------------------------------------------------------------------


def test_what_only_a_cached_flat_view_holds_is_no_leak_in_a_second_cycle() -> None:
    """A VM that stands still changes its topology only once for dirty logging."""
    with VmPool(Settings(qemu=release("11.1"), start_options=(), cycles=2)) as pool:
        rows = list(pool.do(Job("Nehalem-v1-x86_64-cpu", "Nehalem-v1")))
    assert {row["outcome"] for row in rows} <= {"stale", "delayed"}


def test_growth_tells_once_from_every_time() -> None:
    with VmPool(Settings(start_options=(), cycles=4)) as pool:
        row = list(pool.do(Job("bochs-display")))[-1]
        sound = list(pool.do(Job("virtio-net-pci")))[-1]
    growth = row["growth"]
    assert growth["cycles"] == 4
    assert growth["types"]["bochs-display"] == {
        "total": 4,
        "once": 0,
        "per_cycle": 1,
        "exact": True,
    }
    assert growth["types"]["qemu-console"]["per_cycle"] == 0
    assert growth["types"]["qemu-console"]["once"] == 1
    assert growth["references"]["subregion"]["per_cycle"] == 3
    assert [sample[0] for sample in growth["samples"]] == [0, 1, 2, 3, 4]
    assert sound["outcome"] == "clean"
    assert sound["cycle"] == 4
    assert not sound["growth"]["types"]


# Peers -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PEERS)
def test_a_peer_is_there_and_goes(kind: str) -> None:
    peer = open_peer(kind)
    assert peer.path
    assert peer.directory.is_dir()
    peer.close()
    peer.close()
    assert not peer.directory.exists()


def test_a_vhost_user_backend_answers_and_closes_on_nonsense() -> None:
    peer = open_peer("vhost-user")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect(peer.path)
        client.sendall(struct.pack("=III", 1, 1, 0))
        request, flags, size = struct.unpack("=III", client.recv(12, socket.MSG_WAITALL))
        assert (request, flags, size) == (1, 5, 8)
        assert struct.unpack("=Q", client.recv(8))[0] & 1 << 30
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    peer.close()


# The monitor ------------------------------------------------------------------------


class Failing(PlainMonitor):
    """Fails at ``device_del``."""

    def _exchange(self, command: str, *arguments: Any) -> object:
        if command == "device_del":
            self._socket.close()
        return super()._exchange(command, *arguments)


def attached(vm: Vm, monitor: Monitor) -> Attached:
    reader = Reader(Process(vm.pid))
    return Attached(reader.read, monitor, reader.stale)


def test_a_lost_monitor_is_no_crash() -> None:
    with Vm() as vm, vm.monitor(Failing) as monitor:
        with pytest.raises(MonitorLost) as failed:
            Hunt(attached(vm, monitor)).one(recipe_for("edu"), "dut1")
        assert "monitor" in failed.value.text
        assert vm.alive()


def test_a_flood_of_events_does_not_stop_a_hunt() -> None:
    with Vm() as vm, vm.monitor(PlainMonitor) as monitor:
        for _ in range(600):
            monitor.execute("stop")
            monitor.execute("cont")
        monitor.execute("stop")
        assert Hunt(attached(vm, monitor)).one(recipe_for("edu"), "dut1").outcome == "clean"


def test_a_running_vm_is_hunted_on_named_devices_only(fresh_vm: Vm, qmr: Qmr) -> None:
    assert qmr(fresh_vm.pid, "hunt").code == 2
    found = qmr("hunt", "usb-kbd", "--guest", fresh_vm.pid, "--json")
    rows = [json.loads(line) for line in found.out.splitlines()]
    assert [row.get("outcome") for row in rows] == ["clean", None]
    assert found.code == 0
    again = qmr(fresh_vm.pid, "hunt", "--yes", "bochs-display", "--cycles", 2, "--json")
    rows = [json.loads(line) for line in again.out.splitlines()]
    assert [row.get("outcome") for row in rows] == ["leak", "leak", None]
    assert rows[1]["growth"]["types"]["bochs-display"]["per_cycle"] == 1
    assert again.code == 1


# A guest ----------------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_a_linux_guest_uses_a_device_and_lets_it_go() -> None:
    settings = Settings(machine="q35", guest=find_guest("linux"))
    with VmPool(settings) as pool:
        row = do(pool, "virtio-blk-pci")
        # Its driver asks for its targets, and waits until our backend has answered.
        served = do(pool, "vhost-user-scsi-pci")
    assert row["machine"].startswith("pc-q35")
    assert row["acknowledged_by"] == "guest"
    assert row["used_by_guest"] == ["vda"]
    assert served["outcome"] == "clean", served["text"]
    assert row["outcome"] == "clean"
    assert row["event"]


def test_what_needs_a_vm_of_its_own_has_one_without_the_guest() -> None:
    with VmPool(Settings(machine="q35", guest=find_guest("linux"))) as pool:
        (row,) = pool.do(Job("chardev:spiceport"))
    assert (row["outcome"], row["acknowledged_by"]) == ("clean", "sync")


def test_a_guest_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        find_guest(f"{tmp_path}/kernel:{tmp_path}/initrd")


def test_an_attached_vm_that_died_is_said_to_have() -> None:
    with Vm() as vm, vm.monitor(PlainMonitor) as monitor:
        driver = attached(vm, monitor)
        hunted = Hunt(driver).one(recipe_for("rocker"), "dut1")
    assert hunted.outcome == "crash"
    assert str(vm.pid) in hunted.judgement.text


def test_a_vm_that_dies_of_what_it_refused_is_a_crash() -> None:
    # As netdev:passt does on 10.2: QEMU refuses it, and ends when it takes back what it made.
    with Vm() as vm, vm.monitor(PlainMonitor) as monitor:
        driver = attached(vm, monitor)
        readings: Iterator[Snapshot] = iter([driver.read()])

        def read() -> Snapshot:
            found = next(readings, None)
            if found is None:
                vm.close()
                raise TargetError("process has ended")
            return found

        dying = Attached(read, monitor, driver.stale)
        hunted = Hunt(dying).one(recipe_for("vfio-pci"), "dut1")
    assert (hunted.outcome, hunted.cycle.step) == ("crash", "device_add")


@pytest.mark.timeout(240)
def test_a_deep_hunt_has_cycles_and_error_paths(qmr: Qmr) -> None:
    told = qmr("hunt", "--cycles", "2", "--error-paths", "edu", "virtio-rng-pci", "--json").out
    *rows, _ = [json.loads(line) for line in told.splitlines()]
    ways = [(row["device"], row["outcome"], "tried" in row) for row in rows]
    assert sorted(ways) == [
        (name, "clean", tried) for name in ("edu", "virtio-rng-pci") for tried in (False, True)
    ]
    assert all("growth" in row for row in rows if "tried" not in row)


def test_what_was_read_goes_with_its_vm() -> None:
    """A circle held each copy until the collector of circles came: a gigabyte in each worker."""
    gc.collect()
    gc.disable()
    try:
        vm = OwnVm(("PCI",))
        for _ in range(3):
            vm.blocks(vm.read())
        gone = weakref.ref(vm._process)
        vm.close()
        del vm
        assert gone() is None
    finally:
        gc.enable()
