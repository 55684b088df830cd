"""What a stop must never do, again and again: ``make soak`` runs the long versions.

tests/soak_stop.py storm [N]    readings under a storm of plugs, each compared with a copy of
                                all memory that was made in the same stop
tests/soak_stop.py busy [N]     readings of a guest at I/O: findings at one look, by pages and
                                by a copy of everything, and after the second look
tests/soak_stop.py kill [N]     checks, hunts and REPL sessions that are killed at any moment
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from qmrinspect.audit import check  # noqa: E402
from qmrinspect.errors import QmrError  # noqa: E402
from qmrinspect.hotplug.vm import Vm  # noqa: E402
from qmrinspect.reading import Reader  # noqa: E402
from qmrinspect.snapshot import Snapshot  # noqa: E402
from qmrinspect.target.image import Peek, Ranges  # noqa: E402
from qmrinspect.target.instant import Choose, Copy, Frozen  # noqa: E402
from qmrinspect.target.process import Process  # noqa: E402
from qmrinspect.target.threads import Stopped  # noqa: E402
from qmrinspect.walk import decode, program_of  # noqa: E402

DEVICES = ("-device", "qemu-xhci,id=xhci0", "-device", "virtio-serial-pci,id=serial0")


# A storm of plugs -------------------------------------------------------------------


class Both(Process):
    """A process of which each stop also copies everything."""

    choose: Choose | None = None
    truth: Copy | None = None
    stacks: list[int] | None = None

    def copy(self, choose: Choose) -> Copy:
        """Take note of what is worth a copy."""
        self.choose = choose
        return super().copy(choose)

    def freeze(self, ranges: Ranges, quiet: Callable[[Peek], bool] | None = None) -> Frozen:
        """Read what was asked for, and then all the rest, in one stop."""
        buffer, reader = self._prepared("stop", ranges)
        stopped = Stopped(self.pid)
        assert self.choose is not None
        try:
            stopped.stop()
            if quiet is not None and not quiet(self.peek):
                return Frozen([], stopped.resume(), 0, False)
            done, self.stacks = reader.run(), stopped.stacks()
            self.truth = super().copy(self.choose)
        finally:
            stop_us = stopped.resume()
        view = memoryview(buffer.memory).toreadonly()
        segments = [(start, view[at : at + size]) for start, at, size in done]
        return Frozen(segments, stop_us, reader.calls, True, self.stacks)


def storm(vm: Vm, seconds: float, ended: threading.Event) -> Counter[str]:
    """Plug and unplug by a monitor, as fast as it goes."""
    done: Counter[str] = Counter()
    end = time.monotonic() + seconds
    with vm.monitor() as monitor:
        while time.monotonic() < end and not ended.is_set():
            for command, arguments in (
                ("device_add", {"driver": "usb-mouse", "id": "m", "bus": "xhci0.0"}),
                ("object-add", {"qom-type": "rng-builtin", "id": "r"}),
                ("chardev-add", {"id": "c", "backend": {"type": "null", "data": {}}}),
                ("device_add", {"driver": "virtserialport", "id": "p", "chardev": "c"}),
                ("device_del", {"id": "m"}),
                ("object-del", {"id": "r"}),
                ("device_del", {"id": "p"}),
                ("chardev-remove", {"id": "c"}),
            ):
                with contextlib.suppress(QmrError):
                    monitor.execute(command, arguments)
                    done[command] += 1
    return done


class Stormy(NamedTuple):
    """What readings under a storm came to."""

    readings: int
    different: Sequence[str]
    ways: Counter[str]
    stops: Counter[int]
    quiet: int


def difference(snapshot: Snapshot, truth: Snapshot) -> str:
    """Say in what a snapshot is not the truth, empty when in nothing."""
    found = []
    for name in ("objects", "props", "devices", "buses", "regions", "spaces", "views", "fields"):
        mine: Any = getattr(snapshot, name)
        theirs: Any = getattr(truth, name)
        if mine != theirs:
            a = set(mine.items() if isinstance(mine, dict) else mine)
            b = set(theirs.items() if isinstance(theirs, dict) else theirs)
            found.append(f"{name}: {list(a - b)[:2]} instead of {list(b - a)[:2]}")
    return "; ".join(found)


def under_storm(readings: int) -> Stormy:
    """Compare readings with the whole memory of the same instant."""
    with Vm(machine="pc", extra=DEVICES) as vm:
        target = Both(vm.pid)
        reader = Reader(target)
        reader.read()
        layout = reader.layout
        assert layout is not None
        program = program_of(target)
        info = program.info._replace(layout=layout.source)
        ended = threading.Event()
        thread = threading.Thread(target=storm, args=(vm, 3600.0, ended))
        thread.start()
        different, ways, stops, quiet = [], Counter[str](), Counter[int](), 0
        try:
            for number in range(readings):
                snapshot = reader.read()
                assert target.truth is not None
                image = target.truth.patched(None, target.peek)
                image.stacks = target.stacks
                capture = snapshot.capture
                ways[capture.way] += 1
                stops[capture.stops] += 1
                quiet += capture.quiescent
                if capture.way == "whole":
                    continue
                truth, _ = decode(image, capture, layout, program.statics, info)
                wrong = difference(snapshot, truth)
                if wrong:
                    different.append(f"reading {number} ({capture.way}): {wrong}")
        finally:
            ended.set()
            thread.join()
    return Stormy(readings, different, ways, stops, quiet)


# A guest at work --------------------------------------------------------------------


def busy(readings: int) -> Iterator[str]:
    """Yield what readings of a guest at I/O find."""
    from matrix import Cell, Matrix

    cell = Cell("stock", "qemu-system-x86_64", "q35", "mixed", "tcg", "linux")
    vm = Matrix("generic")._start(cell)
    try:
        process = Process(vm.vm.pid)
        reader, whole = Reader(process), Reader(process)
        reader.read()
        whole.read()
        found: Counter[str] = Counter()
        ways: Counter[str] = Counter()
        longest: dict[str, list[int]] = {"pages": [], "whole": []}
        for number in range(readings):
            snapshot = reader.read()
            ways[snapshot.capture.way] += 1
            longest["pages"].append(snapshot.capture.stop_us)
            found["pages, one look"] += check(snapshot).failed
            # Everything in one stop, as long as the looks go on.
            whole._instants = None
            snapshot = whole.read()
            longest["whole"].append(snapshot.capture.stop_us)
            found["everything, one look"] += check(snapshot).failed
            if number % 4 == 0:
                report = reader.check()
                found["pages, after the looks"] += report.failed
                if report.failed:
                    yield f"reading {number}: {[f.text for f in report.findings][:3]}"
        yield f"{readings} readings, with findings: {dict(found)}; ways {dict(ways)}"
        for name, values in longest.items():
            values.sort()
            yield (
                f"stops, {name}: p50 {values[len(values) // 2] / 1000:.2f} ms, "
                f"p99 {values[len(values) * 99 // 100] / 1000:.2f} ms, "
                f"most {values[-1] / 1000:.2f} ms"
            )
    finally:
        vm.close()


# Killed -----------------------------------------------------------------------------


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


def kill(times: int, seed: int = 0) -> Iterator[str]:
    """Kill checks, hunts and sessions of one VM; yield what was wrong with it, if anything."""
    chance = random.Random(seed)
    qmr = [sys.executable, "-m", "qmrinspect"]
    killed: Counter[str] = Counter()
    with Vm(machine="pc", extra=DEVICES) as vm:
        pid = str(vm.pid)
        commands = {
            "check": ([*qmr, pid, "check"], b""),
            "hunt": ([*qmr, pid, "hunt", "usb-mouse", "rng-builtin"], b""),
            "repl": ([*qmr, pid, "repl"], b"check\n" * 1000),
        }
        for number in range(times):
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
                    process.wait(chance.uniform(0.1, 1.5))
                killed[name] += process.returncode is None
                process.kill()
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            wrong = runs(vm)
            if wrong:
                yield f"after {number + 1} kills, of a {name}: {wrong}"
                return
    yield f"killed {dict(killed)}; the rest had ended: the VM ran on, untraced, and answered"


def main() -> int:
    """Run one of them, or all."""
    words = sys.argv[1:] or ["storm", "busy", "kill"]
    number = int(words.pop()) if words[-1].isdigit() else 0
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()
    print(f"{commit}, {time.strftime('%Y-%m-%d')}, load {os.getloadavg()[0]:.1f}", flush=True)
    failed = False
    for word in words:
        if word == "storm":
            result = under_storm(number or 300)
            failed |= bool(result.different)
            print(f"storm: {result._replace(different=len(result.different))}")  # type: ignore[arg-type]
            print(*result.different, sep="\n", flush=True)
        else:
            lines = busy(number or 1000) if word == "busy" else kill(number or 1000)
            for line in lines:
                print(f"{word}: {line}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
