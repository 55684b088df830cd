#!/usr/bin/env python3
"""What tracing costs a VM: qmr, perf and GDB side by side.

    tools/bench_trace.py [--rounds N] [--qemu PROGRAM] [--guest linux]

Each round plugs an e1000 into a fresh VM under each method, in turn: nothing, qmr, ``perf
record``, GDB's breakpoints and GDB's watchpoint.  Printed are medians over the rounds: the plug
in milliseconds, what each change of a count adds to it in microseconds, a QMP round trip, and
that against one in the same VM before anything traced it.  All of them run under SCHED_FIFO
where that is permitted, so that what else the machine does counts on neither side.

With a guest, its Linux reads a disk meanwhile, and qmr traces three plugs and unplugs of a
qemu-xhci from birth: how many events there were, and how many were lost.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qmrinspect.hotplug.guest import GUEST_PATIENCE_S, Guest, find_guest  # noqa: E402
from qmrinspect.hotplug.recipes import recipe_for  # noqa: E402
from qmrinspect.hotplug.unplug import drivers  # noqa: E402
from qmrinspect.hotplug.vm import Vm  # noqa: E402
from qmrinspect.hunt.attached import Attached  # noqa: E402
from qmrinspect.hunt.cycle import Hunt  # noqa: E402
from qmrinspect.reading import Reader  # noqa: E402
from qmrinspect.stacks.code import Code  # noqa: E402
from qmrinspect.target.process import Process  # noqa: E402
from qmrinspect.trace.sites import sites_of  # noqa: E402
from qmrinspect.trace.tracing import tracing_of  # noqa: E402

METHODS = ("none", "qmr", "perf record", "gdb breakpoints", "gdb watchpoint")
_TRIPS = 200
_APPEND = "console=ttyS0 quiet tsc_early_khz=2000000 panic=-1 qmr.io=1"
_READY_S = 30.0


class Cost(NamedTuple):
    """One plug: its time and a round trip's, milliseconds; and the trip's before the trace."""

    plug: float
    trip: float
    before: float


def first(policy: int = os.SCHED_FIFO, place: int = 1) -> bool:
    """Be run before everything else; what is started from here is as well."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, policy, os.sched_param(place))
        return True
    return False


def round_trip(vm: Vm) -> float:
    """Return a QMP round trip, milliseconds; by a plain socket, which costs nothing itself."""
    trips = []
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.connect(vm.qmp)
        monitor.recv(1 << 16)
        for command in [b"qmp_capabilities", *[b"query-status"] * _TRIPS]:
            begin = time.perf_counter()
            monitor.sendall(b'{"execute": "%s"}' % command)
            monitor.recv(1 << 16)
            trips.append(time.perf_counter() - begin)
    return statistics.median(trips) * 1000


def bus_of(reader: Reader) -> int:
    return next(b.address for b in reader.read().buses.values() if b.name == "pci.0")


@contextlib.contextmanager
def under(method: str, vm: Vm, reader: Reader, counts: dict[str, int]) -> Iterator[None]:
    """Trace while the block runs."""
    if method == "none":
        yield
        return
    if method == "qmr":
        tracing = tracing_of(reader)
        tracing.start()
        try:
            yield
        finally:
            time.sleep(0.1)
            recording = tracing.stop()
            tracing.close()
            counts["lost"] += recording.lost
        return
    sites = [site.watch for site in sites_of(Code(reader.target), 24, 4)]
    with tempfile.TemporaryDirectory() as directory:
        if method == "perf record":
            command = ["perf", "record", "-q", "-o", f"{directory}/data", "-c", "1"]
            command += ["--call-graph", "dwarf,8192", "-m", "4096", "-p", str(vm.pid)]
            for site in sites:
                command += ["-e", f"mem:{site:#x}:x:u"]
        else:
            places = [f"break *{site:#x}" for site in sites]
            if method == "gdb watchpoint":
                places = [f"watch *(int *){bus_of(reader) + 24:#x}"]
            script = Path(directory) / "script"
            lines = ["set pagination off"]
            for place in places:
                lines += [place, "commands", "silent", "continue", "end"]
            script.write_text("\n".join([*lines, f"shell touch {directory}/ready", "continue"]))
            command = ["gdb", "-nx", "-q", "-batch", "-p", str(vm.pid), "-x", str(script)]
        null = subprocess.DEVNULL
        tracer = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
        try:
            deadline = time.monotonic() + _READY_S
            while method != "perf record" and time.monotonic() < deadline:
                if (Path(directory) / "ready").exists():
                    break
                time.sleep(0.05)
            time.sleep(1.0)
            yield
        finally:
            tracer.kill()
            tracer.wait()


def measure(method: str, qemu: str, counts: dict[str, int]) -> Cost:
    """Plug once under a method, in a VM of its own: some methods kill it at the end."""
    with Vm(qemu) as vm:
        reader = Reader(Process(vm.pid))
        reader.read()
        with vm.monitor() as monitor:
            monitor.execute("device_add", {"driver": "e1000", "id": "warm"})
        time.sleep(0.2)
        round_trip(vm)
        before = round_trip(vm)
        with under(method, vm, reader, counts):
            trip = round_trip(vm)
            with vm.monitor() as monitor:
                begin = time.perf_counter()
                monitor.execute("device_add", {"driver": "e1000", "id": "cold"}, 60)
                plug = time.perf_counter() - begin
    return Cost(plug * 1000, trip, before)


def events(qemu: str) -> dict[str, int]:
    """Count what changes during the plug: all counts, and that of the bus alone."""
    out = {}
    for method in ("qmr", "gdb watchpoint"):
        with Vm(qemu) as vm, vm.monitor() as monitor:
            reader = Reader(Process(vm.pid))
            bus = bus_of(reader)
            monitor.execute("device_add", {"driver": "e1000", "id": "warm"})
            everything = list(reader.read().objects)
            tracing = tracing_of(reader, [bus] if method != "qmr" else everything)
            tracing.start()
            monitor.execute("device_add", {"driver": "e1000", "id": "cold"})
            recording = tracing.stop()
            out[method] = sum(len(found) for found in recording.events.values())
            if method == "qmr":
                # Those of objects that are born are seen by a trace from birth.
                born = tracing_of(reader)
                born.start()
                monitor.execute("device_add", {"driver": "e1000", "id": "third"})
                out[method] += sum(len(found) for found in born.stop().events.values())
    return out


def guest_cycles(qemu: str, guest: str, cycles: int = 3) -> Iterator[str]:
    """Trace plugs and unplugs of a qemu-xhci while a Linux guest reads a disk."""
    linux = Guest(find_guest(guest))
    disk = ["-drive", "if=none,id=d0,driver=null-co,size=64M", "-device", "virtio-blk-pci,drive=d0"]
    words = [*linux.arguments, *disk, "-append", _APPEND]
    try:
        with Vm(qemu, extra=words, stopped=False) as vm, vm.monitor() as monitor:
            linux.wait(vm)
            reader = Reader(Process(vm.pid))
            attached = Attached(reader.read, monitor, reader.stale, lambda: tracing_of(reader))
            hunt = Hunt(attached, GUEST_PATIENCE_S, trace=True)
            recipe = recipe_for("qemu-xhci", attached.drive(drivers))
            seen = lost = 0
            for number in range(cycles):
                hunted = hunt.one(recipe, f"x{number}")
                assert hunted.trace is not None, hunted.cycle
                seen += hunted.trace.recording.seen
                lost += hunted.trace.recording.lost
                yield f"qemu-xhci under Linux: {hunted.outcome}"
            yield f"{cycles} cycles, a guest that reads a disk: {seen} events, {lost} lost"
    finally:
        linux.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--guest", default="none", help="linux, or KERNEL:INITRD")
    args = parser.parse_args()
    alone = first()
    methods = [m for m in METHODS if m.split()[0] in ("none", "qmr") or shutil.which(m.split()[0])]
    found: dict[str, list[Cost]] = {method: [] for method in methods}
    counts = {"lost": 0}
    for _ in range(args.rounds):
        for method in methods:
            found[method].append(measure(method, args.qemu, counts))
    seen = events(args.qemu)
    base = statistics.median(cost.plug for cost in found["none"])
    print(f"{args.qemu}, {args.rounds} rounds, medians; {counts['lost']} events lost by qmr")
    if not alone:
        print("SCHED_FIFO is not permitted: what else this machine does is in these times")
    print(f"{'':<18} {'plug ms':>9} {'events':>7} {'us/event':>9} {'QMP trip ms':>12} {'times':>6}")
    for method, costs in found.items():
        plug = statistics.median(cost.plug for cost in costs)
        trip = statistics.median(cost.trip for cost in costs)
        times = statistics.median(cost.trip / cost.before for cost in costs)
        number = seen["gdb watchpoint" if method == "gdb watchpoint" else "qmr"]
        each = f"{(plug - base) * 1000 / number:9.1f}" if method != "none" else " " * 9
        print(f"{method:<18} {plug:9.2f} {number:7} {each} {trip:12.3f} {times:6.2f}")
    if args.guest != "none":
        first(os.SCHED_OTHER, 0)
        for line in guest_cycles(args.qemu, args.guest):
            print(line)


if __name__ == "__main__":
    main()
