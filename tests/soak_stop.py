"""What a stop must never do, again and again: ``make soak`` runs the long versions.

tests/soak_stop.py [storm] [busy] [kill] [--times N] [--seconds N] [--only once|check] [--at-once]
        [--qemu PROGRAM] [--out PAGE [--more]]

``storm``  readings under a storm of plugs, each compared with a copy of all memory that was
           made in the same stop
``busy``   readings of a guest at I/O: findings at one look, by pages and by a copy of
           everything, and what is left after the next looks
``kill``   checks, hunts and REPL sessions that are killed at any moment
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import chapter  # noqa: E402
from killed import DEVICES, WRONG, kill  # noqa: E402

from qmrinspect.audit.check import Report  # noqa: E402
from qmrinspect.audit.finding import Severity  # noqa: E402
from qmrinspect.errors import QmrError  # noqa: E402
from qmrinspect.hotplug.vm import Vm  # noqa: E402
from qmrinspect.reading import Reader  # noqa: E402
from qmrinspect.snapshot import Snapshot  # noqa: E402
from qmrinspect.target.image import Peek, Ranges  # noqa: E402
from qmrinspect.target.instant import Choose, Copy, Frozen  # noqa: E402
from qmrinspect.target.process import Process  # noqa: E402
from qmrinspect.target.threads import Stopped, while_stopped  # noqa: E402
from qmrinspect.walk import decode, program_of  # noqa: E402

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
        assert self.choose is not None
        choose, done, settled = self.choose, list[tuple[int, int, int]](), False

        def work(stopped: Stopped) -> None:
            nonlocal done, settled
            settled = quiet is None or quiet(self.peek)
            if settled:
                done, self.stacks = reader.run(), stopped.stacks()
                self.truth = Process.copy(self, choose)

        stop_us = while_stopped(self.pid, work)
        view = memoryview(buffer.memory).toreadonly()
        segments = [(start, view[at : at + size]) for start, at, size in done]
        return Frozen(segments, stop_us, reader.calls, settled, self.stacks)


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
    plugs: Counter[str]


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
        plugs: Counter[str] = Counter()
        thread = threading.Thread(target=lambda: plugs.update(storm(vm, 3600.0, ended)))
        thread.start()
        different, ways, stops, quiet = [], Counter[str](), Counter[int](), 0
        try:
            for number in range(readings):
                if reader._instants is not None and number % 2:
                    reader._instants.follow_blocks()
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
                truth, context = decode(image, capture, layout, program.statics, info)
                wrong = difference(snapshot, truth)
                blocks = reader._context.live.heap.sizes() if reader._context else {}
                if number % 2 and blocks and blocks != context.live.heap.sizes():
                    wrong += f"; {len(blocks)} live blocks are not those"
                if wrong:
                    different.append(f"reading {number} ({capture.way}): {wrong}")
        finally:
            ended.set()
            thread.join()
    return Stormy(readings, different, ways, stops, quiet, plugs)


# A guest at work --------------------------------------------------------------------


class Looking(Reader):
    """A reader that takes note of what the first look found."""

    first: Report | None = None

    def audit(self, *args: Any) -> Report:
        """Audit, and take note."""
        report = super().audit(*args)
        self.first = self.first or report
        return report


def passing(report: Report) -> Iterator[str]:
    """Yield what each finding of one look is of, with its sign, and what was seen to hold it."""
    book = report.book
    objects, capture = book.index.snapshot.objects, book.index.snapshot.capture
    way, quiet = capture.way, capture.quiescent
    for finding in report.findings:
        if finding.severity == Severity.NOTE:
            continue
        kinds = Counter(edge.kind for edge in book.on.get(finding.address, ()))
        held = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        obj = objects.get(finding.address)
        of = f"{obj.type} {book.index.label(finding.address)}" if obj else finding.text
        # The same of two addresses is told once.
        of = re.sub("0x[0-9a-f]+", "0x..", of)
        sign = f"{finding.observed - finding.expected:+d}"
        moment = "" if quiet else ", at a moment that was not quiet"
        yield f"{finding.kind} {sign} of {of}, way {way}{moment}, held by {held or 'nothing'}"


#: Kinds of references that requests hold.
IN_FLIGHT = ("queue-element", "request-map", "scatter-list", "scsi-request")
#: What the guest reads its disks by, and what reads all of them at the same time.
ONE_BY_ONE = '[ -z "$io" ] || read_disks &'
AT_ONCE = """sleep 2
for path in /sys/block/*; do
    disk=${path##*/}
    case $disk in loop*|ram*|fd*|zram*) continue;; esac
    for size in 2k 4k 64k; do
        while :; do dd if="/dev/$disk" of=/dev/null bs=$size count=64 iflag=direct; done &
    done >/dev/null 2>&1
done"""


def busy(
    readings: int,
    seconds: float,
    how: str = "",
    at_once: bool = False,
    qemu: str = "qemu-system-x86_64",
) -> Iterator[str]:
    """Yield what readings of a guest at I/O find; no new one begins after so many seconds.

    :param how: ``once`` for a copy of everything each, looked at once, ``check`` for what a check
        does: more of them fit in the time; both by default.
    :param at_once: the guest reads all its disks at the same time, with three processes each.
    """
    from make_guest import INIT
    from matrix import Cell, Matrix

    assert ONE_BY_ONE in INIT
    cell = Cell("stock", qemu, "q35", "mixed", "tcg", "linux")
    vm = Matrix("generic", INIT.replace(ONE_BY_ONE, AT_ONCE) if at_once else "")._start(cell)
    try:
        process = Process(vm.vm.pid)
        reader, whole = Looking(process), Reader(process)
        version = reader.read().target.qemu_version
        whole.read()
        found, passed, flight, ways = (Counter[str]() for _ in range(4))
        longest: dict[str, list[int]] = {"pages": [], "whole": []}
        number, end = 0, time.monotonic() + seconds
        while number < readings and time.monotonic() < end:
            number += 1
            if how != "once":
                reader.first = None
                report = reader.check()
                assert reader.first is not None
                capture = report.book.index.snapshot.capture
                ways[capture.way] += 1
                longest["pages"].append(capture.stop_us)
                found["pages"] += reader.first.failed
                passed.update(f"in pages: {text}" for text in passing(reader.first))
                if report.failed:
                    found["later"] += 1
                    yield f"{WRONG} reading {number}: {[f.text for f in report.findings][:3]}"
            if how != "check":
                # Everything in one stop, as long as the looks go on.
                assert whole._instants is not None
                snapshot, whole._context = whole._instants.whole([])
                longest["whole"].append(snapshot.capture.stop_us)
                report = whole.audit(snapshot)
                found["whole"] += report.failed
                passed.update(f"in a copy of everything: {text}" for text in passing(report))
            flight.update(edge.kind for edge in report.book.edges if edge.kind in IN_FLIGHT)
        looks = [] if how == "once" else [f"{found['pages']} by pages"]
        looks += [] if how == "check" else [f"{found['whole']} by a copy of everything in one stop"]
        yield f"- QEMU {version}, {number} readings, findings at one look: {', '.join(looks)}"
        if how != "once":
            yield f"- after the next looks: {found['later']}; ways {dict(ways)}"
        yield from (f"- at one look, {count} times {text}" for text, count in passed.most_common())
        seen = ", ".join(f"{kind} {count}" for kind, count in sorted(flight.items()))
        yield f"- in flight, references: {seen or 'none'}"
        for name, values in longest.items():
            values.sort()
            told = ("p50", 50), ("p99", 99), ("most", 100)
            ms = [
                f"{p} {values[(len(values) - 1) * n // 100] / 1000:.2f} ms"
                for p, n in told
                if values
            ]
            yield f"- stops, {name}: {', '.join(ms) or 'none'}"
    finally:
        vm.close()


# Told -------------------------------------------------------------------------------


def stormy(readings: int) -> Iterator[str]:
    """Yield what readings under a storm of plugs come to."""
    result = under_storm(readings)
    yield (
        f"- {result.readings} readings, {len(result.different)} different from all memory at the "
        f"same instant; ways {dict(result.ways)}, stops {dict(result.stops)}, "
        f"{result.quiet} of a quiet moment; {sum(result.plugs.values())} commands meanwhile"
    )
    yield from (f"{WRONG} {line}" for line in result.different)


def main() -> int:
    """Run one of them, or all."""
    parser = argparse.ArgumentParser(description="See what a stop must never do.")
    parser.add_argument("what", nargs="*", help="storm, busy, kill; all by default")
    parser.add_argument("--times", type=int, default=0, help="instead of 300, 1000, 1000")
    parser.add_argument("--seconds", type=float, default=1e6, help="begin nothing after them")
    only = "busy: one look each at a copy of everything, or what a check does"
    parser.add_argument("--only", choices=("once", "check"), help=only)
    parser.add_argument("--at-once", action="store_true", help="busy: all disks are read at once")
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="busy: which one")
    parser.add_argument("--out", type=Path, help="the page whose chapters are written")
    parser.add_argument("--more", action="store_true", help="behind what the page has of it")
    args = parser.parse_args()
    what: dict[str, tuple[str, Callable[[], Iterator[str]]]] = {
        "storm": ("Under a storm of plugs", lambda: stormy(args.times or 300)),
        "busy": (
            "A guest at I/O",
            lambda: busy(
                args.times or 1000, args.seconds, args.only or "", args.at_once, args.qemu
            ),
        ),
        "kill": ("Killed at any moment", lambda: kill(args.times or 1000, args.seconds)),
    }
    failed = False
    for word in args.what or what:
        title, run = what[word]
        given = [*(["--only", args.only] if args.only else []), *["--at-once"][: args.at_once]]
        command = " ".join(("tests/soak_stop.py", word, *(given if word == "busy" else ())))
        lines = [f"`{command}` at {chapter.origin()}.", ""]
        print(*lines, sep="\n", flush=True)
        for line in run():
            print(line, flush=True)
            lines.append(line)
        if args.out:
            chapter.write(args.out, title, lines, args.more)
        failed |= any(line.startswith(WRONG) for line in lines)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
