#!/usr/bin/env python3
"""How long a VM stands still for a reading.

    tools/bench_stop.py [--stops N] [--seconds N] [--machine NAME]... [--way WAY]...
                        [--others] [--checks] [--gap] [--out PAGE]

For each machine, all ways in one run, by turns, on the same process:

``floor``   a bare loop: stop the threads, read the pages of ``pages``, let go
``today``   everything that QEMU ever touched, in one stop: as qmr did it once
``whole``   the same without free blocks and pages of zeros: the last resort
``pages``   the pages that the walk read before
``hot``     those of them that change

``--others`` adds GDB's walk of the tree and ``py-spy dump``'s way to read a process, where
they are installed; ``--checks`` how long a check takes; ``--gap`` what a guest sees of a
reading (tools/guest_gap.py).  ``--out`` writes each machine's table to a page, as a chapter.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import bench_check  # noqa: E402
import chapter  # noqa: E402
import guest_gap  # noqa: E402
from matrix import Cell, Matrix  # noqa: E402

from qmrinspect import earlier  # noqa: E402
from qmrinspect.errors import QmrError  # noqa: E402
from qmrinspect.hotplug.vm import Vm  # noqa: E402
from qmrinspect.reading import Reader  # noqa: E402
from qmrinspect.stops import patiently  # noqa: E402
from qmrinspect.target.image import Ranges  # noqa: E402
from qmrinspect.target.memory import BatchReader, Buffer  # noqa: E402
from qmrinspect.target.pagemap import touched  # noqa: E402
from qmrinspect.target.process import Process  # noqa: E402
from qmrinspect.target.threads import Stopped, undisturbed  # noqa: E402
from qmrinspect.walk import chooser, program_of  # noqa: E402

WAYS = ("floor", "today", "whole", "pages", "hot")
_SEIZE, _INTERRUPT, _DETACH, _WALL = 0x4206, 0x4207, 17, 0x40000000
_HEAP_MIB = 1024
_CHECKS = 15

# A gigabyte of heap in blocks of 100 KB that stay in use, each with a word that is no pointer.
_GROW = """
#include <stdlib.h>
#include <string.h>
__attribute__((constructor)) static void grow(void)
{
    for (long i = 0; i < MIB * 10L; i++)
        memset(malloc(104858), 0x5a, 104858);
    unsetenv("LD_PRELOAD");
}
"""

# The machines ----------------------------------------------------------------------


def build(version: str) -> str:
    """Return the program of a QEMU that was built with debug information."""
    command = ["/usr/bin/python3", str(ROOT / "tools" / "build_qemu.py"), version]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


@contextlib.contextmanager
def plain(*extra: str, qemu: str = "", machine: str = "pc", accel: str = "tcg") -> Iterator[int]:
    """A machine with its CPUs stopped."""
    with Vm(qemu or "qemu-system-x86_64", machine, accel, extra) as vm:
        yield vm.pid


@contextlib.contextmanager
def full(version: str, load: str) -> Iterator[int]:
    """A q35 with all devices of the mix."""
    vm = Matrix("generic")._start(Cell(version, build(version), "q35", "mixed", "tcg", load))
    try:
        yield vm.vm.pid
    finally:
        vm.close()


@contextlib.contextmanager
def large() -> Iterator[int]:
    """64 CPUs, 224 root ports, 100 network cards: more than 5,500 objects."""
    extra = ["-smp", "64"]
    for i in range(224):
        place = f"bus=pcie.0,chassis={i + 1},addr={2 + i // 8:#x}.{i % 8},multifunction=on"
        extra += ["-device", f"pcie-root-port,id=p{i},{place}"]
    for i in range(100):
        extra += ["-device", f"virtio-net-pci,bus=p{i},romfile="]
    with plain(*extra, qemu=build("10.0"), machine="q35") as pid:
        yield pid


@contextlib.contextmanager
def grown() -> Iterator[int]:
    """The first machine with a gigabyte of heap in use."""
    with tempfile.TemporaryDirectory(prefix="qmr-heap-") as place:
        source, library = Path(place) / "grow.c", Path(place) / "grow.so"
        source.write_text(_GROW)
        options = ["-shared", "-fPIC", f"-DMIB={_HEAP_MIB}", "-o", str(library), str(source)]
        subprocess.run(["cc", *options], check=True)
        os.environ["LD_PRELOAD"] = str(library)
        try:
            vm = Vm()
        finally:
            del os.environ["LD_PRELOAD"]
        with vm:
            yield vm.pid


@contextlib.contextmanager
def kvm() -> Iterator[int]:
    """The first machine under KVM."""
    with plain(accel="kvm") as pid:
        yield pid


MACHINES: dict[str, Callable[[], contextlib.AbstractContextManager[int]]] = {
    "stock pc": plain,
    "10.0 q35 full": lambda: full("10.0", "stopped"),
    "11.1 q35 full": lambda: full("11.1", "stopped"),
    "10.0 q35 full, Linux": lambda: full("10.0", "linux"),
    "11.1 q35 full, Linux": lambda: full("11.1", "linux"),
    "10.0 q35 large": large,
    "stock pc, 1 GiB of heap": grown,
    "stock pc, KVM": kvm,
}

# The ways --------------------------------------------------------------------------


class Bench:
    """All ways to read one process."""

    def __init__(self, pid: int) -> None:
        self.process = Process(pid)
        self.reader = Reader(self.process)
        self.objects = len(self.reader.read().objects)
        layout, instants = self.reader.layout, self.reader._instants
        assert layout is not None and instants is not None
        self._instants = instants
        self._choose = chooser(self.process, layout, program_of(self.process).statics)
        self.ways: dict[str, Callable[[], int]] = {
            "floor": self._floor,
            "today": self._today,
            "whole": lambda: self.process.capture_all(self._choose)[1].stop_us,
            "pages": lambda: self._read(1 << 30),
            "hot": lambda: self._read(0),
        }
        self.pages: dict[str, int] = {}
        self._ranges: Ranges = []
        for _ in range(4):
            self._read(1 << 30)

    def _read(self, distrust: int) -> int:
        self._instants._distrust = distrust
        capture = self.reader.read().capture
        self.pages[capture.way] = capture.pages
        if distrust:
            self._ranges = self._instants._ranges(self._instants._wanted())
            self.pages["floor"] = sum(size for _, size in self._ranges) // 4096
        return capture.stop_us

    def _today(self) -> int:
        ranges = touched(self.process.pid, self._choose(self.process.mappings()))
        buffer = Buffer(sum(size for _, size in ranges))
        self.pages["today"] = buffer.size // 4096
        reader, stopped = BatchReader(self.process.pid, ranges, buffer), Stopped(self.process.pid)
        try:
            stopped.stop()
            reader.run()
        finally:
            stop_us = stopped.resume()
        return stop_us

    def _floor(self) -> int:
        """As little as can be done."""
        pid, ptrace = self.process.pid, ctypes.CDLL(None).ptrace
        ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        buffer = Buffer(sum(size for _, size in self._ranges))
        reader = BatchReader(pid, self._ranges, buffer)
        threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
        for tid in threads:
            ptrace(_SEIZE, tid, None, None)
        with undisturbed():
            begin = time.perf_counter_ns()
            for tid in threads:
                ptrace(_INTERRUPT, tid, None, None)
            for tid in threads:
                os.waitpid(tid, _WALL)
            reader.run()
            for tid in threads:
                ptrace(_DETACH, tid, None, None)
            return (time.perf_counter_ns() - begin) // 1000


def measured(pid: int, stops: int, seconds: float, ways: Sequence[str]) -> Iterator[str]:
    """Yield the rows of one machine; no new round begins after so many seconds."""
    end = time.monotonic() + seconds
    bench = Bench(pid)
    times: dict[str, list[int]] = {way: [] for way in ways}
    for number in range(stops):
        if time.monotonic() > end:
            break
        # No way has the same one before it all the time.
        for way in (*ways[number % len(ways) :], *ways[: number % len(ways)]):
            times[way].append(patiently(bench.ways[way]))
    floors = _percentiles(times["floor"])
    for way in ways:
        values = sorted(times[way])
        p50, p99 = _percentiles(values)
        times_floor = f"{p50 / floors[0]:.1f}, {p99 / floors[1]:.1f}"
        pages = bench.pages.get(way, 0)
        size = f"{pages * 4096 / 1e6:.1f}" if pages else ""
        numbers = (p50 / 1000, p99 / 1000, values[-1] / 1000)
        cells = (way, bench.objects, len(values), pages or "", size)
        measured_ = tuple(f"{n:.2f}" for n in numbers)
        yield "| " + " | ".join(map(str, (*cells, *measured_, times_floor))) + " |"


def _percentiles(values: list[int]) -> tuple[int, int]:
    values = sorted(values)
    return values[len(values) // 2], values[min(len(values) * 99 // 100, len(values) - 1)]


def checks(pid: int) -> Iterator[str]:
    """Yield how long a check takes, by the clock and on the CPU."""
    command = [sys.executable, "-m", "qmrinspect", str(pid), "check", "--json"]
    process = Process(pid)
    reader = Reader(process)
    gc.set_threshold(100_000, 50, 20)  # as in qmr's own process

    def once() -> None:
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)

    def first() -> None:
        earlier.kept_at(process).unlink(missing_ok=True)
        once()

    for _ in range(4):
        reader.check()
    for name, run in (
        ("a check again", reader.check),
        ("the first command", first),
        ("the command", once),
    ):
        walls, cpus = [], []
        for _ in range(_CHECKS):
            begin, before = time.perf_counter(), sum(os.times()[:4])
            run()
            walls.append((time.perf_counter() - begin) * 1000)
            cpus.append((sum(os.times()[:4]) - before) * 1000)
        yield (
            f"{name}, {_CHECKS} times: median {statistics.median(walls):.0f} ms (least "
            f"{min(walls):.0f}), of the CPU {statistics.median(cpus):.0f} (least {min(cpus):.0f})"
        )


def others(pid: int) -> Iterator[str]:
    """Yield what other programs that stop a process take."""
    try:
        objects, walk, wall = bench_check.gdb_walk(pid)
        yield f"GDB's walk, {objects} objects: stands {walk * 1000:.0f} ms, {wall:.2f} s in all"
    except (OSError, LookupError, subprocess.CalledProcessError):
        yield "GDB's walk: not possible (no GDB, or no debug information)"
    if shutil.which("py-spy"):
        begin = time.perf_counter()
        subprocess.run(["py-spy", "dump", "--pid", str(pid)], capture_output=True, check=False)
        yield f"py-spy dump: {time.perf_counter() - begin:.2f} s (no Python in it)"
    else:
        yield "py-spy: not installed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stops", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1e6, help="of a machine's stops")
    parser.add_argument("--machine", action="append", choices=sorted(MACHINES))
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--checks", action="store_true")
    parser.add_argument("--way", action="append", choices=WAYS, help="all by default")
    parser.add_argument("--gap", action="store_true")
    parser.add_argument("--out", type=Path, help="the page whose chapters are written")
    args = parser.parse_args()
    chapters = {machine: table(machine, args) for machine in args.machine or MACHINES}
    if args.gap:
        chapters["The longest gap that a guest sees"] = gaps()
    for title, lines in chapters.items():
        kept = [f"`tools/bench_stop.py` at {chapter.origin()}.", ""]
        print(f"\n{title}: {kept[0]}", flush=True)
        for line in lines:
            print(line, flush=True)
            kept.append(line)
        if args.out:
            chapter.write(args.out, title, kept)


def table(machine: str, args: argparse.Namespace) -> Iterator[str]:
    """Yield what was measured on one machine."""
    try:
        with MACHINES[machine]() as pid:
            threads = len(os.listdir(f"/proc/{pid}/task"))
            yield f"{threads} threads; milliseconds; the last column is p50 and p99 by the floor's."
            yield ""
            yield "| way | objects | stops | pages | MB | p50 | p99 | most | floors |"
            yield "|---|---|---|---|---|---|---|---|---|"
            yield from measured(pid, args.stops, args.seconds, args.way or WAYS)
            if args.checks:
                yield ""
                yield from (f"- {line}" for line in checks(pid))
            if args.others:
                yield ""
                yield from (f"- {line}" for line in others(pid))
    except (QmrError, OSError, subprocess.CalledProcessError) as error:
        yield f"It cannot run here: {error}"


def gaps() -> Iterator[str]:
    """Yield what guests saw of readings, under each accelerator that this machine has."""
    for accel in ("tcg", "kvm"):
        try:
            yield from (f"- {line}" for line in guest_gap.lines(60.0, accel))
        except QmrError as error:
            yield f"- {accel}: it cannot run here: {error}"


if __name__ == "__main__":
    main()
