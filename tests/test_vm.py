"""Our own QEMU: how it starts, how it ends, and one plug/unplug cycle in it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmrinspect.errors import TargetError
from qmrinspect.hotplug.acknowledge import acknowledge, unparented
from qmrinspect.hotplug.recipes import START_OPTIONS, Driver, parse_qdm, recipe_for, vm_arguments
from qmrinspect.hotplug.unplug import (
    Plugged,
    drivers,
    plug,
    release,
    request_unplug,
    run_cycle,
    unplug,
    wait_deleted,
)
from qmrinspect.hotplug.vm import Vm
from qmrinspect.monitor.base import CommandError, Monitor
from qmrinspect.monitor.plain import PlainMonitor

ROOT = Path(__file__).resolve().parent.parent


def gone(pid: int, timeout: float = 10.0) -> bool:
    """Wait until a process has ended, whoever its parent is."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], timeout)[0])
    finally:
        os.close(handle)


# Start and end ---------------------------------------------------------------------


def test_a_vm_ends_with_its_block() -> None:
    with Vm() as vm:
        assert vm.alive()
        assert vm.exit_text() is None
        pid, directory = vm.pid, vm.directory
        with vm.monitor() as monitor:
            assert monitor.execute("query-status")
    assert gone(pid)
    assert not directory.exists()
    vm.close()
    assert vm.exit_text() == "killed by SIGKILL"


def test_an_exception_takes_the_vm_down() -> None:
    vm = Vm()

    def fail() -> None:
        with vm:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert gone(vm.pid)
    assert not vm.directory.exists()


def test_a_forgotten_vm_is_taken_down() -> None:
    vm = Vm()
    pid, directory = vm.pid, vm.directory
    del vm
    assert gone(pid)
    assert not directory.exists()


def test_qemu_does_not_outlive_a_killed_parent() -> None:
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from qmrinspect.hotplug.vm import Vm\n"
        "vm = Vm()\n"
        "print(vm.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with tempfile.TemporaryDirectory() as place:
        parent = subprocess.Popen(
            [sys.executable, "-c", program, str(ROOT)],
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": place},
        )
        assert parent.stdout is not None
        with parent.stdout:
            pid = int(parent.stdout.readline())
        handle = os.pidfd_open(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        ended = select.select([handle], [], [], 10)[0]
        os.close(handle)
    assert ended


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"machine": "no-such-machine"}, "unsupported machine type"),
        ({"extra": ["-device", "no-such-device"]}, "'no-such-device' is not a valid device model"),
        ({"accel": "no-such-accel"}, "invalid accelerator"),
        ({"qemu": "/nonexistent/qemu"}, "there is no QEMU program"),
        ({"qemu": "true"}, "exit status 0"),
    ],
)
def test_a_vm_that_does_not_start_says_why(
    arguments: dict[str, object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(TargetError) as failed:
        Vm(**arguments)  # type: ignore[arg-type]
    assert words in failed.value.text
    assert not list(tmp_path.iterdir())


def test_a_program_that_never_opens_a_monitor(tmp_path: Path) -> None:
    silent = tmp_path / "qemu"
    silent.write_text("#!/bin/sh\necho still thinking >&2\nexec sleep 600\n")
    silent.chmod(0o755)
    with pytest.raises(TargetError, match=r"did not open its monitor within 0.3 s") as failed:
        Vm(str(silent), timeout=0.3)
    assert failed.value.hint == "still thinking"


def test_a_long_temporary_directory_is_avoided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with Vm() as vm, vm.monitor() as monitor:
        assert monitor.execute("query-status")
    assert not list(deep.iterdir())


def test_firmware_is_found_for_a_qemu_that_brings_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QMR_FIRMWARE", raising=False)
    built = tmp_path / "build" / "qemu-system-x86_64"
    built.parent.mkdir()
    built.write_text('#!/bin/sh\nexec qemu-system-x86_64 "$@"\n')
    built.chmod(0o755)
    with Vm(str(built)) as vm:
        assert "/usr/share/seabios" in vm.argv
    with Vm(str(built), firmware=["/usr/share/seabios"]) as vm:
        assert vm.argv.count("-L") == 1
    monkeypatch.setenv("QMR_FIRMWARE", "/usr/share/qemu:/usr/share/seabios")
    with Vm(str(built)) as vm:
        assert vm.argv.count("-L") == 2
    monkeypatch.delenv("QMR_FIRMWARE")
    with Vm() as vm:
        assert "-L" not in vm.argv


# Recipes ---------------------------------------------------------------------------


def test_info_qdm_is_read() -> None:
    text = (
        "Network devices:\r\n"
        'name "virtio-net-pci", bus PCI, alias "virtio-net"\r\n'
        'name "e1000e", bus PCI, desc "Intel 82574L GbE Controller"\r\n'
        'name "pc-dimm", desc "DIMM memory module"\r\n'
        'name "hpet", bus System, no-user\r\n'
    )
    found = parse_qdm(text)
    assert found["virtio-net"] == found["virtio-net-pci"] == Driver("virtio-net-pci", "PCI")
    assert found["e1000e"].bus == "PCI"
    assert found["pc-dimm"].bus is None
    assert not found["hpet"].user_creatable
    assert recipe_for("virtio-net", found).driver == "virtio-net-pci"


def test_a_recipe_brings_what_its_driver_needs() -> None:
    nvme = recipe_for("nvme")
    assert nvme.properties == {"serial": "{id}"}
    assert [backend.create for backend in nvme.backends] == ["blockdev-add"]
    tablet = recipe_for("usb-tablet")
    assert tablet.bus == "usb-bus"
    assert not tablet.backends
    assert "qemu-xhci" in " ".join(vm_arguments(tablet.needs))
    assert vm_arguments(nvme.needs) == []
    assert "pcie-root-port" in " ".join(vm_arguments(nvme.needs, "q35,smm=off"))
    assert "host" in recipe_for("vfio-pci").missing
    for kept in (
        "vfio-user-pci",
        "vhost-vdpa-device-pci",
        "xen-platform",
        "object:iommufd",
        "netdev:bridge",
        "netdev:passt",
        "chardev:braille",
        "block:nvme-io_uring",
        "block:virtio-blk-vhost-user",
    ):
        assert recipe_for(kept).missing.startswith("needs "), kept


# Cycles ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pc() -> Iterator[Vm]:
    with Vm(extra=[word for host in START_OPTIONS for word in host.arguments]) as vm:
        yield vm


@pytest.fixture
def monitor(pc: Vm) -> Iterator[Monitor]:
    with pc.monitor() as opened:
        yield opened


FINALIZED = [
    "virtio-net-pci",
    "e1000e",
    "virtio-blk-pci",
    "virtio-scsi-pci",
    "virtio-serial-pci",
    "virtio-crypto-pci",
    "nvme",
    "megasas",
    "lsi53c895a",
    "edu",
    "pci-testdev",
    "ivshmem-plain",
    "secondary-vga",
    "usb-tablet",
    "usb-kbd",
    "usb-storage",
    "scsi-hd",
    "virtserialport",
]


@pytest.mark.parametrize("driver", FINALIZED)
def test_a_sound_device_comes_and_goes(monitor: Monitor, driver: str) -> None:
    recipe = recipe_for(driver, drivers(monitor))
    cycle = run_cycle(monitor, recipe, "dut", timeout=5)
    assert (cycle.refused, cycle.crash, cycle.hang, cycle.not_released) == (None, None, None, ())
    assert cycle.unparented
    assert cycle.event
    assert cycle.acknowledge == ("acpi" if recipe.bus == "PCI" else "sync")
    assert cycle.plug_us <= cycle.plugged_us <= cycle.request_us <= cycle.acknowledge_us
    assert cycle.request_us <= cycle.event_us


# On QEMU before 10.2 a container holds its owner for each subregion of the same owner.
@pytest.mark.parametrize("driver", ["intel-hda", "bochs-display", "cxl-upstream"])
def test_a_device_that_leaks_is_unparented_and_sends_no_event(driver: str) -> None:
    with Vm() as vm, vm.monitor() as monitor:
        cycle = run_cycle(monitor, recipe_for(driver, drivers(monitor)), "dut")
        assert cycle.unparented
        assert not cycle.event
        assert (cycle.refused, cycle.crash, cycle.hang) == (None, None, None)


def test_the_steps_can_be_taken_one_by_one(monitor: Monitor) -> None:
    plugged = plug(monitor, recipe_for("nvme"), "step")
    assert plugged.path == "/machine/peripheral/step"
    assert plugged.bus.endswith("/pci.0")
    assert plugged.slot > 1
    request_unplug(monitor, "step")
    assert not unparented(monitor, "step")
    assert acknowledge(monitor, plugged).how == "acpi"
    assert unparented(monitor, "step")
    event = wait_deleted(monitor, plugged, 5)
    assert event is not None
    assert event.data["device"] == "step"
    assert release(monitor, plugged) == ()


def test_a_refused_device_leaves_nothing_behind(monitor: Monitor) -> None:
    recipe = recipe_for("scsi-hd")._replace(properties={"scsi-id": 4711})
    with pytest.raises(CommandError, match="bad scsi device id"):
        plug(monitor, recipe, "bad")
    assert monitor.execute("query-named-block-nodes") == [
        node for node in _list(monitor.execute("query-named-block-nodes")) if "bad" not in str(node)
    ]
    kept: list[Plugged] = []
    with pytest.raises(CommandError, match="bad scsi device id"):
        plug(monitor, recipe, "bad", refused=kept)
    assert "bad" in str(monitor.execute("query-named-block-nodes"))
    assert [release(monitor, behind) for behind in kept] == [()]
    assert "bad" not in str(monitor.execute("query-named-block-nodes"))
    cycle = run_cycle(monitor, recipe_for("VGA"), "bad")
    assert cycle.step == "device_add"
    assert cycle.refused
    assert unparented(monitor, "bad")


def test_a_crash_is_a_result() -> None:
    # rocker aborts when it is unplugged: msix_vector_unuse() after msix_uninit().
    with Vm() as vm, vm.monitor() as monitor:
        cycle = run_cycle(monitor, recipe_for("rocker"), "dut")
        assert cycle.crash
        assert cycle.step == "acknowledge"
        assert vm.wait(10)
        assert "SIGABRT" in vm.exit_text()
        assert "Assertion" in vm.exit_text()


def test_a_hang_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmrinspect.monitor.base.Monitor.command_timeout", 0.2)
    with Vm() as vm, vm.monitor() as monitor:
        os.kill(vm.pid, signal.SIGSTOP)
        os.waitpid(vm.pid, os.WUNTRACED)
        cycle = run_cycle(monitor, recipe_for("edu"), "dut")
        assert cycle.hang
        assert cycle.step == "device_add"


def test_root_ports_of_q35() -> None:
    recipe = recipe_for("virtio-net-pci")
    with (
        Vm(machine="q35", extra=vm_arguments(recipe.needs, "q35")) as vm,
        vm.monitor(PlainMonitor) as monitor,
    ):
        for _ in range(2):
            cycle = run_cycle(monitor, recipe, "dut", timeout=5)
            assert cycle.acknowledge == "acpi"
            assert cycle.event
            assert cycle.bus.startswith("/machine/peripheral/qmr-port")


def test_q35_without_acpi_hotplug_is_reset() -> None:
    recipe = recipe_for("e1000e")
    native = ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]
    with (
        Vm(machine="q35", extra=[*native, *vm_arguments(recipe.needs, "q35")]) as vm,
        vm.monitor() as monitor,
    ):
        cycle = run_cycle(monitor, recipe, "dut", timeout=5)
        assert cycle.unparented
        assert cycle.event
        assert cycle.acknowledge in ("sync", "reset")


def test_a_pcie_slot_is_switched_off() -> None:
    # A device that was there at the start: its slot has power, and device_del only asks.
    native = ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]
    devices = ["-device", "pcie-root-port,id=rp0", "-device", "e1000e,bus=rp0,id=dut"]
    with Vm(machine="q35", extra=[*native, *devices]) as vm, vm.monitor() as monitor:
        path = "/machine/peripheral/dut"
        bus = str(monitor.qom_get(path, "parent_bus"))
        plugged = Plugged(recipe_for("e1000e"), "dut", path, bus, 0, 0, 0, ())
        cycle = unplug(monitor, plugged, timeout=5)
        assert cycle.acknowledge == "slot-power"
        assert cycle.unparented
        assert cycle.event


def test_a_guest_that_lets_its_time_go_by_keeps_its_device() -> None:
    # Firmware alone: nobody listens to the request.
    with Vm(stopped=False) as vm, vm.monitor() as monitor:
        plugged = plug(monitor, recipe_for("edu"), "dut")
        cycle = unplug(monitor, plugged, guest=0.3)
        assert cycle.acknowledge == "guest"
        assert not cycle.unparented
        cycle = unplug(monitor, plugged, guest=0.3, insist=True)
        assert cycle.acknowledge == "acpi"
        assert cycle.unparented


def test_q35_without_a_root_port_refuses() -> None:
    with Vm(machine="q35") as vm, vm.monitor() as monitor:
        cycle = run_cycle(monitor, recipe_for("edu"), "dut")
        assert "does not support hotplugging" in cycle.refused


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value
