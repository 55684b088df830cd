"""Commands that are killed at any moment, and what becomes of their VM."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from qmrinspect.hotplug.vm import Vm

ROOT = Path(__file__).resolve().parent.parent
#: Begins a line that tells of what must not be.
WRONG = "- wrong:"
DEVICES = ("-device", "qemu-xhci,id=xhci0", "-device", "virtio-serial-pci,id=serial0")


def runs(vm: Vm) -> str:
    """Say what is wrong with a VM, empty when it runs, untraced, and answers."""
    if not vm.alive():
        return f"it has ended: {vm.exit_text()}"
    status = Path(f"/proc/{vm.pid}/status").read_text()
    if "TracerPid:\t0" not in status:
        return "it is traced"
    for task in Path(f"/proc/{vm.pid}/task").iterdir():
        state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        if state in "tT":
            return f"thread {task.name} stands"
    with vm.monitor() as monitor:
        monitor.execute("query-status")
    return ""


#: How long each of them is at work, seconds: what is killed later has mostly ended.
SPANS = {"check": 0.5, "hunt": 1.5, "repl": 1.5}


def kill(times: int, seconds: float) -> Iterator[str]:
    """Kill checks, hunts and sessions of one VM; yield what was wrong with it, if anything."""
    chance = random.Random()
    end = time.monotonic() + seconds
    qmr = [sys.executable, "-m", "qmrinspect"]
    killed: Counter[str] = Counter()
    ended = 0
    with Vm(machine="pc", extra=DEVICES) as vm:
        pid = str(vm.pid)
        commands = {
            "check": ([*qmr, pid, "check"], b""),
            "hunt": ([*qmr, pid, "hunt", "usb-mouse", "rng-builtin"], b""),
            "repl": ([*qmr, pid, "repl"], b"check\n" * 1000),
        }
        while sum(killed.values()) < times and time.monotonic() < end:
            name = chance.choice(sorted(commands))
            command, words = commands[name]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
            with subprocess.Popen(  # type: ignore[call-overload]
                command, cwd=ROOT, stderr=subprocess.DEVNULL, **pipes
            ) as process:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(words)
                    process.stdin.flush()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0.02, SPANS[name]))
                killed[name] += process.returncode is None
                ended += process.returncode is not None
                process.kill()
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            wrong = runs(vm)
            if wrong:
                yield f"{WRONG} after {sum(killed.values())} kills, of a {name}: {wrong}"
                return
    yield (
        f"- killed {dict(killed)} ({ended} more had ended before): the VM was alive, "
        f"untraced, no thread of it stood, and its monitor answered {sum(killed.values())} times"
    )
