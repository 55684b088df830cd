"""qmr inside a GDB that lets the VM run, and at a terminal."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from gdbtool import PATIENCE, SCRIPT, Gdb, refusal
from gdbvms import debug, hunt, runs, stock

from qmrinspect.hotplug.vm import Vm

# Letting it run --------------------------------------------------------------------


def test_a_hunt_inside_gdb_names_the_leak() -> None:
    with stock() as vm:
        with Gdb("-p", vm.pid) as gdb:
            gdb.run("handle SIGUSR1 stop print pass")
            gdb.run("handle SIGINT nostop noprint pass")
            found = hunt(gdb, "virtio-net-pci", "bochs-display")
            assert found["virtio-net-pci"]["outcome"] == "clean"
            leak = found["bochs-display"]
            assert (leak["outcome"], leak["cause"]) == ("leak", "same-owner-subregions")
            kinds = [r["kind"] for r in leak["objects_left"][0]["references"]]
            assert kinds == ["subregion"] * 3
            assert re.search(r"SIGUSR1\s+Yes\s+Yes\s+Yes", gdb.run("info signals SIGUSR1"))
            assert re.search(r"SIGINT\s+No\s+No\s+Yes", gdb.run("info signals SIGINT"))
            assert gdb.json("qmr orphans --json")["orphans"]
            assert gdb.json("qmr qmp query-status --json")
            said = gdb.close()
        assert "received signal" not in said
        assert runs(vm)


def test_a_breakpoint_ends_the_hunt_and_is_reported() -> None:
    with debug() as vm, Gdb("-p", vm.pid) as gdb:
        gdb.run("break qdev_device_add")
        assert "stopped at breakpoint 1" in refusal(gdb, "qmr hunt e1000e")
        assert "qdev_device_add" in gdb.run("bt 1")
        gdb.run("delete")
        gdb.run("qmr check")


def test_a_crash_is_an_outcome() -> None:
    with stock() as vm, Gdb("-p", vm.pid) as gdb:
        # What the first one leaked keeps the name of its RAM block, at which QEMU aborts
        # (qemu_ram_set_idstr, system/physmem.c); qmr lets it come to that on demand alone.
        gdb.run("qmr plug bochs-display id=twice")
        gdb.run("qmr unplug twice")
        assert "--force" in refusal(gdb, "qmr plug bochs-display id=twice")
        assert "SIGABRT" in refusal(gdb, "qmr plug bochs-display id=twice --force")
        assert "abort" in gdb.run("bt 5")


def test_a_qemu_that_ends_is_told() -> None:
    with stock() as vm, Gdb("-p", vm.pid) as gdb:
        gdb.send("qmr events")
        stat = Path(f"/proc/{vm.pid}/stat")
        deadline = time.monotonic() + PATIENCE
        while b") t" in stat.read_bytes():
            assert time.monotonic() < deadline
        os.kill(vm.pid, signal.SIGKILL)
        assert "has ended" in gdb.receive()["error"]
        assert re.search("attach PID|has ended", refusal(gdb, "qmr check"))


def test_a_monitor_that_is_taken_is_told() -> None:
    with stock() as vm, vm.monitor(), Gdb("-p", vm.pid) as gdb:
        assert "another client" in refusal(gdb, "qmr qmp query-status")


def test_gdb_may_be_killed_while_it_reads() -> None:
    with stock() as vm, Gdb("-p", vm.pid) as gdb:
        code = (
            "import os; from qmrinspect.target.debugger import Attached; "
            "Attached.copy = lambda *_: "
            "(os.write(int(os.environ['QMR_TEST_PIPES'].split()[1]), b'{}\\n'), os.read(0, 1), "
            "__import__('time').sleep(600))"
        )
        gdb.run(f"python {code}")
        # Sourcing has read it already, for the types of a stripped QEMU; this asks for a new look.
        gdb.run("set var *(char *)$sp = *(char *)$sp")
        gdb.send("qmr check")
        assert gdb.receive() == {}
        os.kill(gdb.process.pid, signal.SIGKILL)
        gdb.process.wait()
        assert runs(vm)


# At a terminal ---------------------------------------------------------------------


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[tuple[Vm, Any]]:
    with stock() as vm:
        child = pexpect.spawn(
            "gdb",
            ["-nx", "-q", "-p", str(vm.pid), "-ex", f"source {SCRIPT}"],
            encoding="utf-8",
            codec_errors="replace",
            timeout=PATIENCE,
            dimensions=(40, 200),
            env={**os.environ, "TERM": "dumb", "DEBUGINFOD_URLS": "", "HOME": str(tmp_path)},
        )
        try:
            child.expect_exact("(gdb) ")
            child.sendline("set pagination off")
            child.expect_exact("(gdb) ")
            yield vm, child
        finally:
            child.close(force=True)


def test_ctrl_c_stops_what_takes_long(terminal: tuple[Vm, Any]) -> None:
    _, child = terminal
    child.sendline("qmr hmp info version")
    child.expect_exact("(gdb) ")
    child.sendline(
        "python gdb.execute('python ' + 'print(\"re\" + \"ady\")'); gdb.execute('qmr events')"
    )
    child.expect_exact("ready")
    child.sendintr()
    child.expect_exact("(gdb) ")
    child.sendline("qmr refs nic0")
    child.expect_exact("10 references")


def test_tables_are_as_wide_as_gdb(terminal: tuple[Vm, Any]) -> None:
    _, child = terminal
    for width in (80, 120):
        child.sendline(f"set width {width}")
        child.expect_exact("(gdb) ")
        child.sendline("qmr refs nic0")
        child.expect_exact("10 references")
        child.expect_exact("(gdb) ")
        lines = child.before.splitlines()
        assert len(lines) > 5
        assert width - 40 < max(map(len, lines)) <= width


def test_colours_are_gdbs(tmp_path: Path) -> None:
    with stock() as vm:
        _in_colour(vm, tmp_path)


def _in_colour(vm: Vm, tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    child = pexpect.spawn(
        "gdb",
        ["-nx", "-q", "-p", str(vm.pid), "-ex", f"source {SCRIPT}"],
        encoding="utf-8",
        timeout=PATIENCE,
        dimensions=(200, 200),
        env={**env, "TERM": "xterm-256color", "DEBUGINFOD_URLS": "", "HOME": str(tmp_path)},
    )
    try:
        child.expect_exact("(gdb) ")
        # The first reading takes long, and says so in a line that gives way.
        assert "\r\033[Kreading QEMU's memory\r\033[K" in child.before
        for switch, shown in (("on", "\033[32mnothing found"), ("off", "\nnothing found")):
            child.sendline(f"set style enabled {switch}")
            child.expect_exact("(gdb) ")
            child.sendline("qmr check")
            child.expect_exact(shown)
            child.expect_exact("(gdb) ")
        child.sendline("qmr hunt usb-tablet virtio-rng-pci")
        for progress in ("\r\033[K0 of 2: usb-tablet", "\r\033[K1 of 2: virtio-rng-pci"):
            child.expect_exact(progress)
        child.expect_exact("\r\033[K")
        child.expect_exact("2 clean")
        child.expect_exact("(gdb) ")
    finally:
        child.close(force=True)


def test_a_running_inferior_is_stopped_for_the_reading(terminal: tuple[Vm, Any]) -> None:
    _, child = terminal
    child.sendline("continue &")
    child.expect_exact("(gdb) ")
    child.sendline("qmr refs nic0")
    child.expect_exact("10 references")
    child.expect_exact("address-space-root")
    child.sendline("info threads")
    child.expect_exact("(running)")
    child.sendline("interrupt")
    child.expect("SIGINT")


def test_detaching_leaves_it_running(terminal: tuple[Vm, Any]) -> None:
    vm, child = terminal
    child.sendline("qmr check")
    child.expect_exact("(gdb) ")
    child.sendline("detach")
    child.expect_exact("detached")
    child.sendline("quit")
    child.expect(pexpect.EOF)
    assert runs(vm)
