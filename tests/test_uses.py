"""Unplugs that wait for the guest, and who uses what QEMU calls busy, on each release."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import RELEASES, Qmr, release
from test_policies import built

from qmrinspect.hotplug.vm import Vm
from qmrinspect.index import Index
from qmrinspect.monitor.base import CommandError, Monitor
from qmrinspect.reading import Reader
from qmrinspect.report.named import named_json
from qmrinspect.target.process import Process

pytestmark = pytest.mark.timeout(120)

DEBUG = "11.1"


@pytest.fixture(scope="module", params=[*RELEASES, "symbols"])
def qemu(request: pytest.FixtureRequest) -> str:
    """Return those of distributions, which are stripped, and one with symbols."""
    return built(DEBUG) if request.param == "symbols" else release(request.param)


# What waits for the guest -----------------------------------------------------------

_PORT = "-device pcie-root-port,id=rp0,slot=1,chassis=1 -device virtio-rng-pci,bus=rp0,id=dut"
_BRIDGE = "-device pci-bridge,id=br0,chassis_nr=1,shpc=on -device edu,bus=br0,addr=3,id=dut"
_CPU = "-device qemu64-x86_64-cpu,id=dut,socket-id=0,core-id=1,thread-id=0"

#: Machine, its arguments, what asks the guest, and whether unplug can do the guest's part.
WAYS = {
    "acpi-pci": ("q35", _PORT, "ACPI PCI hotplug", True),
    "pcie-button": (
        "q35",
        f"-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off {_PORT}",
        "attention button of /machine/peripheral/rp0",
        True,
    ),
    "shpc": (
        "pc",
        f"-global PIIX4_PM.acpi-pci-hotplug-with-bridge-support=off {_BRIDGE}",
        "Standard Hot-Plug Controller of /machine/peripheral/br0",
        False,
    ),
    "dimm": (
        "pc",
        "-m 64M,slots=2,maxmem=1G -object memory-backend-ram,id=m0,size=128M "
        "-device pc-dimm,memdev=m0,id=dut",
        "ACPI memory hotplug",
        True,
    ),
    "cpu": (
        "pc",
        f"-smp 1,maxcpus=4,sockets=1,cores=4 -cpu qemu64 {_CPU}",
        "ACPI CPU hotplug",
        True,
    ),
}


@contextmanager
def waiting(qemu: str, way: str) -> Iterator[Vm]:
    machine, words, _, _ = WAYS[way]
    with Vm(qemu, machine, extra=words.split()) as vm:
        with vm.monitor() as monitor:
            if way == "cpu":
                monitor.hmp("o/w 0xaf00 0")  # as firmware does: the registers know unplug then
            monitor.execute("device_del", {"id": "dut"})
        yield vm


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("way", WAYS)
def test_an_unplug_that_waits_says_for_what(way: str, version: str, here: Qmr) -> None:
    _, _, asked, ours = WAYS[way]
    with waiting(release(version), way) as vm:
        shown = here(vm.pid, "show", "dut", "--json").json["device"]["unplugging"]
        assert shown["way"] == way
        assert asked in shown["text"] and "waits for the guest: no leak" in shown["text"]
        assert ("qmr unplug dut" in shown["text"]) == ours
        # For people each command names the VM.
        said = shown["text"].replace("qmr unplug", f"qmr {vm.pid} unplug")
        assert said in here(vm.pid, "why", "dut").out
        tree = here(vm.pid, "tree", "/machine/peripheral", "--json").json["objects"]
        assert {row["id"]: row["unplugging"] for row in tree if row["unplugging"]} == {"dut": shown}
        if ours:
            outcome = here(vm.pid, "unplug", "dut", "--json").json["outcome"]
            assert outcome in ("clean", "leak", "delayed")
            assert "dut" not in here(vm.pid, "tree", "/machine/peripheral").out


@pytest.mark.parametrize("version", RELEASES)
def test_an_unplug_that_nobody_answers_is_no_leak(version: str, here: Qmr) -> None:
    with waiting(release(version), "acpi-pci") as vm:
        with vm.monitor() as monitor, pytest.raises(CommandError, match="process of unplug"):
            monitor.execute("device_del", {"id": "dut"})
        shown = here(vm.pid, "show", "dut", "--json").json["device"]["unplugging"]["text"]
        assert "or system_reset" in shown
        for verb in ("refs", "why"):
            assert here(vm.pid, verb, "dut", "--json").json["unplugging"]["text"] == shown
        assert here(vm.pid, "check").code == 0
        assert here(vm.pid, "qmp", "system_reset").code == 0
        assert "dut" not in here(vm.pid, "tree", "/machine/peripheral").out


@pytest.mark.parametrize("way", WAYS)
def test_an_unplug_that_waits_is_known_by_symbols_too(way: str) -> None:
    with waiting(built(DEBUG), way) as vm:
        index = Index(Reader(Process(vm.pid)).read())
    (row,) = index.snapshot.unplugging
    assert (row.way, index.path(row.device)) == (way, "/machine/peripheral/dut")


def test_what_was_not_asked_to_go_does_not_wait(stock_vm: Vm, qmr: Qmr) -> None:
    assert qmr(stock_vm.pid, "show", "nic0", "--json").json["device"]["unplugging"] is None
    assert qmr(stock_vm.pid, "refs", "nic0", "--json").json["unplugging"] is None


# Who uses what is busy --------------------------------------------------------------

_USED = """
-blockdev driver=null-co,size=1048576,node-name=n0 -blockdev driver=raw,file=n0,node-name=n1
-object iothread,id=io0 -device virtio-blk-pci,drive=n1,id=vb0,iothread=io0
-blockdev driver=null-co,size=1048576,node-name=j0
-blockdev driver=null-co,size=1048576,node-name=j1
-blockdev driver=null-co,size=1048576,node-name=e0
-blockdev driver=null-co,size=1048576,node-name=idle
-drive if=none,driver=null-co,size=1048576,id=d0 -device ide-hd,drive=d0,id=hd0
-device virtio-serial-pci,id=vs0 -chardev null,id=c0 -device virtconsole,chardev=c0,id=c0
-chardev null,id=mx,mux=on -serial chardev:mx -chardev null,id=free
-netdev socket,udp=127.0.0.1:1,localaddr=127.0.0.1:0,id=net0
-device virtio-net-pci,netdev=net0,id=nic0
-object filter-dump,id=fd0,netdev=net0,file=/dev/null
-object memory-backend-ram,id=m1,size=1M,share=on -device ivshmem-plain,memdev=m1,id=iv0
-object secret,id=sec0,data=letmein
-object rng-random,id=rng0,filename=/dev/urandom -device virtio-rng-pci,rng=rng0,id=vr0
"""

#: By id: what QEMU says when it is to go, how it is asked, and who uses it.
BUSY = {
    "n0": ("in use", "blockdev-del", "node-name", ["block-node n1"]),
    "n1": (
        "in use",
        "blockdev-del",
        "node-name",
        ["object /machine/peripheral/vb0/virtio-backend"],
    ),
    "j1": ("in use", "blockdev-del", "node-name", ["job job0"]),
    "e0": ("in use", "blockdev-del", "node-name", ["block-export ex0"]),
    "c0": ("busy", "chardev-remove", "id", ["object /machine/peripheral/c0"]),
    "mx": ("busy", "chardev-remove", "id", ["/serial"]),
    "d0": ("", "", "", ["object /machine/peripheral/hd0"]),
    "net0": (
        *("", "", ""),
        ["object /machine/peripheral/nic0/virtio-backend", "object /objects/fd0"],
    ),
    "idle": ("", "", "", []),
    "free": ("", "", "", []),
    "sec0": ("", "", "", []),
}


@pytest.fixture(scope="module")
def used(
    qemu: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Vm, dict[str, str]]]:
    """Return a VM in which much is in use, and what QEMU said of what was to go."""
    place = tmp_path_factory.mktemp("nbd") / "s"
    with Vm(qemu, extra=_USED.split()) as vm:
        with vm.monitor() as monitor:
            address = {"type": "unix", "data": {"path": str(place)}}
            monitor.execute("nbd-server-start", {"addr": address})
            monitor.execute("block-export-add", {"type": "nbd", "id": "ex0", "node-name": "e0"})
            mirror = {"job-id": "job0", "device": "j0", "target": "j1", "sync": "full", "speed": 1}
            monitor.execute("blockdev-mirror", mirror)
            said = {id: _refusal(monitor, *row[1:3], id) for id, row in BUSY.items() if row[1]}
            said["m1"] = _refusal(monitor, "object-del", "id", "m1")
        yield vm, said


def _refusal(monitor: Monitor, command: str, key: str, id: str) -> str:
    with pytest.raises(CommandError) as failed:
        monitor.execute(command, {key: id})
    return failed.value.desc


def _users(named: list[dict[str, Any]]) -> list[str]:
    found = []
    for user in [user for row in named for user in row["users"]]:
        path = user["object"] and user["object"]["path"]
        found.append(f"{user['kind']} {path or user['name']}")
    return found


def test_who_uses_what_is_busy_is_named(used: tuple[Vm, dict[str, str]]) -> None:
    vm, said = used
    reader = Reader(Process(vm.pid))
    snapshot = reader.read()
    index = Index(snapshot)
    for id, (words, _, _, users) in BUSY.items():
        assert words in said.get(id, "")
        home = next((a for a in snapshot.objects if index.path(a).endswith(f"s/{id}")), None)
        rows, reason = reader.named(snapshot, id, home)
        assert not reason
        found = _users([named_json(index, row) for row in rows])
        assert [user for user in users if not any(user in one for one in found)] == [], found
        assert bool(found) == bool(users), id
        assert {row.name for row in rows} == {id}


def test_what_counts_is_told_as_counted(used: tuple[Vm, dict[str, str]], here: Qmr) -> None:
    vm, said = used
    assert "in use" in said["m1"] or "mapped" in said["m1"]
    (user,) = here(vm.pid, "why", "m1", "--json").json["used_by"]
    assert (user["kind"], user["holder_path"]) == ("link", "/machine/peripheral/iv0")
    assert "in use: /machine/peripheral/iv0 points to /objects/m1" in here(vm.pid, "why", "m1").out
    busy = here(vm.pid, "why", "c0")
    assert "/chardevs/c0 (chardev-null) is used by c0 (virtconsole)" in busy.out
    free = here(vm.pid, "why", "idle")
    assert free.out.startswith("nothing known uses block node idle <0x")
    missing = here(vm.pid, "why", "nobody")
    assert missing.code == 2 and "no object nobody" in missing.err


def test_what_is_deleted_while_it_is_used_is_no_leak(
    used: tuple[Vm, dict[str, str]], here: Qmr
) -> None:
    vm, _ = used
    with vm.monitor() as monitor:
        monitor.execute("object-del", {"id": "fd0"})
        monitor.execute("netdev_del", {"id": "net0"})
        for id in ("io0", "rng0"):
            monitor.execute("object-del", {"id": id})
    (netdev,) = here(vm.pid, "why", "net0", "--json").json["named"]
    assert netdev["deleted"] and "was deleted by netdev_del" in netdev["text"]
    assert _users([netdev]) == ["object /machine/peripheral/nic0/virtio-backend"]
    lost = here(vm.pid, "orphans", "--json")
    assert lost.code == 0
    assert {row["object"]["type"] for row in lost.json["orphans"] if row["used"]} == {
        "iothread",
        "rng-random",
    }
    checked = here(vm.pid, "check", "--json")
    assert checked.code == 0
    notes = [f for f in checked.json["findings"] if f["kind"] == "orphan"]
    assert {f["severity"] for f in notes} == {"note"}
    for note in notes:
        assert "was deleted, and is still used by /machine/peripheral/" in note["text"]
    assert notes[0]["text"] in here(vm.pid, "why", notes[0]["object"]["address"]).out
    assert notes[0]["text"] in here(vm.pid, "orphans").out
