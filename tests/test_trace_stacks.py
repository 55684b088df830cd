"""Call stacks from registers and 8 KB of stack are those that GDB finds at the same stops."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from gdbtool import debug_qemu

from qmrinspect.hotplug.vm import Vm
from qmrinspect.stacks.arch import arch_of
from qmrinspect.stacks.code import Code
from qmrinspect.stacks.unwind import Stack, Unwinder
from qmrinspect.target.process import Process
from qmrinspect.trace.sites import Site, sites_of

HERE = Path(__file__).resolve().parent
#: Stops that are compared; a qemu-xhci makes more.
STOPS = 520


def plug_until(vm: Vm, gdb: subprocess.Popen[str]) -> None:
    """Plug and unplug until GDB has seen enough."""
    with vm.monitor() as monitor:
        for number in range(20):
            if gdb.poll() is not None:
                return
            monitor.execute("device_add", {"driver": "qemu-xhci", "id": f"x{number}"}, 60)
            monitor.execute("device_add", {"driver": "usb-tablet", "bus": f"x{number}.0"}, 60)


def stops(vm: Vm, sites: list[Site], out: Path) -> list[dict[str, object]]:
    """Let GDB stop the VM where counts change while devices are plugged."""
    script = f"STOPS=({[site.watch for site in sites]}, {STOPS}, {str(out)!r})"
    command = ["gdb", "-nx", "-q", "-batch", "-p", str(vm.pid)]
    command += ["-ex", f"python {script}", "-x", str(HERE / "gdbstacks.py")]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
    ) as gdb:
        assert gdb.stdout is not None
        plugging = threading.Thread(target=plug_until, args=(vm, gdb), daemon=True)
        for line in gdb.stdout:  # it tells of every stop, and waits when nobody listens
            if line == "ready\n":
                plugging.start()
        gdb.wait(60)
        plugging.join(60)
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.timeout(150)
@pytest.mark.parametrize("build", ["stock", "debug"])
def test_stacks_are_gdbs(build: str, tmp_path: Path) -> None:
    with Vm("qemu-system-x86_64" if build == "stock" else debug_qemu()) as vm:
        process = Process(vm.pid)
        code = Code(process)
        sites = sites_of(code, 24, 4)
        assert {site.write.operation for site in sites} == {"xadd", "sub"}
        seen = stops(vm, sites, tmp_path / "stops")
        code.refresh()
        unwinder = Unwinder(arch_of(process.elf()), code)
        assert len(seen) == STOPS
        wrong: list[tuple[Stack, object]] = []
        ends: set[str] = set()
        for stop in seen:
            registers = stop["registers"]
            assert isinstance(registers, list)
            found = unwinder.unwind(tuple(registers), base64.b64decode(str(stop["stack"])))
            ends.add(found.end)
            if list(found.pcs) != stop["pcs"]:
                wrong.append((found, stop["pcs"]))
        assert not wrong, f"{len(wrong)} of {STOPS} differ, the first: {wrong[0]}"
        assert ends == {"outermost"}
        # The VM runs on without the debugger.
        with vm.monitor() as monitor:
            assert monitor.execute("query-status")
