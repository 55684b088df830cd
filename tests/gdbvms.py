"""QEMUs for GDB to look at: small, so that a core of one is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gdbtool import Gdb, debug_qemu

from qmrinspect.hotplug.vm import Vm

# A TCG buffer of its default size would be a gigabyte of every core.
SMALL = ("-m", "32", "-nodefaults")
DEVICES = (
    *("-device", "virtio-net-pci,id=nic0"),
    *("-device", "qemu-xhci,id=xhci0"),
    *("-device", "usb-tablet,id=tab0"),
)


def stock() -> Vm:
    return Vm(accel="tcg,tb-size=1", extra=(*SMALL, *DEVICES))


def debug() -> Vm:
    return Vm(debug_qemu(), accel="tcg,tb-size=1", extra=(*SMALL, *DEVICES))


def runs(vm: Vm) -> bool:
    """Whether QEMU is untraced, runs, and answers its monitor."""
    status = Path(f"/proc/{vm.pid}/status").read_text()
    if "TracerPid:\t0\n" not in status or re.search(r"State:\s+[tT]", status):
        return False
    with vm.monitor() as monitor:
        return bool(monitor.execute("query-status"))


def hunt(gdb: Gdb, *drivers: str) -> dict[str, Any]:
    lines = gdb.run(f"qmr hunt {' '.join(drivers)} --json").splitlines()
    return {row["device"]: row for row in map(json.loads, lines) if "device" in row}
