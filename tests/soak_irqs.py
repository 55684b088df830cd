"""Irqs that leak, told by check: ten fresh VMs of each of four QEMUs, and none of the sound ones.

tests/soak_irqs.py [RUNS]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qmrinspect.hotplug.recipes import recipe_for  # noqa: E402
from qmrinspect.hotplug.unplug import drivers, run_cycle  # noqa: E402
from qmrinspect.hotplug.vm import Vm  # noqa: E402
from qmrinspect.reading import Reader  # noqa: E402
from qmrinspect.target.process import Process  # noqa: E402

#: The distribution's, one with symbols, and two stock ones of other releases.
TOOLS = ("", "build_qemu.py 10.0", "stock_qemu.py 10.0", "stock_qemu.py 11.1")


def program(tool: str) -> str:
    """Return a QEMU that a tool provides, or the distribution's."""
    if not tool:
        return "qemu-system-x86_64"
    name, version = tool.split()
    command = ["/usr/bin/python3", str(ROOT / "tools" / name), version]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.split()[-1]


def once(qemu: str) -> tuple[bool, int, int]:
    """Leak an irq; return whether check told it alone, how many irqs are sound, how many told."""
    with Vm(qemu) as vm:
        with vm.monitor() as monitor:
            run_cycle(monitor, recipe_for("piix3-usb-uhci", drivers(monitor)), "u")
        report = Reader(Process(vm.pid)).check()
    snapshot = report.book.index.snapshot
    irqs = {a for a, o in snapshot.objects.items() if o.type == "irq" and o.heap}
    told = {f.address for f in report.findings if f.address in irqs}
    lost = {a for a in told if not report.book.on.get(a)}
    return len(lost) == 1, len(irqs) - len(lost), len(told - lost)


def main(runs: int) -> int:
    """Return how many were not told, or told wrongly."""
    wrong = 0
    for tool in TOOLS:
        qemu = program(tool)
        results = [once(qemu) for _ in range(runs)]
        told, sound = sum(r[0] for r in results), sum(r[1] for r in results)
        false = sum(r[2] for r in results)
        print(
            f"{qemu}: {told} of {runs} leaked irqs reported, {false} of {sound} sound ones",
            flush=True,
        )
        wrong += runs - told + false
    return wrong


if __name__ == "__main__":
    sys.exit(1 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 10) else 0)
