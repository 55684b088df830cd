#!/usr/bin/env python3
"""Balance the books of many QEMUs.

Starts QEMU after QEMU, takes one reading of each, audits it, and prints a table: of
how many objects every reference is explained.

    tools/matrix.py                                  # the installed QEMU
    tools/matrix.py --qemu 10.0=PATH --verbose       # one more, and every object that is not exact
    tools/matrix.py --device-set mixed --load linux --machine pc

Each cell is a QEMU, a machine, a set of devices, an accelerator and a load: ``stopped``
(the CPUs never ran), ``firmware`` (they run the firmware), ``linux`` (a Linux that does
disk and network I/O; tools/make_guest.py makes it).  A cell that cannot run here is
listed with the reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import make_guest  # noqa: E402
from workshop import ToolError  # noqa: E402

from qmrinspect.audit import Report  # noqa: E402
from qmrinspect.errors import QmrError, TargetError  # noqa: E402
from qmrinspect.hotplug.device_set_vm import DeviceSetVm, LeftOut  # noqa: E402
from qmrinspect.hotplug.device_sets import DEVICE_SETS  # noqa: E402
from qmrinspect.reading import Reader  # noqa: E402
from qmrinspect.snapshot import Snapshot  # noqa: E402
from qmrinspect.target.process import Process  # noqa: E402

MACHINES = ("pc", "q35", "microvm")
ACCELERATORS = ("tcg", "kvm")
LOADS = ("stopped", "firmware", "linux")

# Seconds: for the firmware to set the devices up, for Linux to boot, and for its I/O to begin.
FIRMWARE, BOOT, SETTLE = 2.0, 60.0, 2.0
BOOTS = 3


class Cell(NamedTuple):
    """One QEMU to be started."""

    name: str
    program: str
    machine: str
    device_set: str
    accel: str
    load: str

    @property
    def title(self) -> str:
        """Its place in the matrix, in words."""
        return " ".join((self.name, self.machine, self.device_set, self.accel, self.load))


class Outcome(NamedTuple):
    """What came of a cell: a report, or the reason why there is none."""

    cell: Cell
    report: Report | None
    snapshot: Snapshot | None
    left_out: Sequence[LeftOut]
    reason: str
    seconds: float


class NotReadyError(TargetError):
    """The guest did not boot in time: it may at the next start, its clock being emulated."""


class Matrix:
    """Runs cells.

    :param flavour: of the Linux guest, a key of ``make_guest.FLAVOURS``.
    :param init: what it runs instead of ``make_guest.INIT``.
    """

    def __init__(self, flavour: str, init: str = "") -> None:
        self._flavour = flavour
        self._init = init
        self._unwanted: dict[tuple[str, str, str, str], Sequence[LeftOut]] = {}

    def run(self, cell: Cell) -> Outcome:
        """Start a cell's QEMU, read it, end it."""
        started = time.monotonic()
        vm = None
        report: Report | None = None
        snapshot: Snapshot | None = None
        reason = ""
        try:
            vm = self._start(cell)
            report = Reader(Process(vm.vm.pid)).check()
            snapshot = report.book.index.snapshot
        except (QmrError, ToolError) as error:
            # The hint of a QEMU that did not start is its command line.
            reason = error.text if isinstance(error, QmrError) else str(error)
        finally:
            if vm is not None:
                vm.close()
        left_out = tuple(vm.left_out) if vm is not None else ()
        return Outcome(cell, report, snapshot, left_out, reason, time.monotonic() - started)

    def _start(self, cell: Cell) -> DeviceSetVm:
        extra: list[str] = []
        if cell.accel == "kvm":
            try:
                Path("/dev/kvm").open("r+b").close()
            except OSError as error:
                raise TargetError(f"cannot run here: /dev/kvm: {error.strerror}") from error
        if cell.load == "linux":
            kernel, initrd = make_guest.make(self._flavour)
            extra += ["-kernel", str(kernel), "-initrd", str(initrd), "-no-reboot"]
            # The firmware is to boot the kernel, not to look for one on every disk.
            extra += ["-boot", "strict=on"]
            # On a busy host the guest cannot measure an emulated clock, and then it stands still.
            words = "console=ttyS0 quiet tsc_early_khz=2000000 panic=-1 intel_iommu=off qmr.io=1"
            extra += ["-append", words]
        with tempfile.TemporaryDirectory(prefix="qmr-serial-") as place:
            if self._init and cell.load == "linux":
                # A later archive has the last word.
                other = make_guest.cpio([("init", 0o100755, self._init.encode())])
                together = Path(place) / "initrd"
                together.write_bytes(initrd.read_bytes() + other)
                extra[extra.index(str(initrd))] = str(together)
            for attempt in range(BOOTS):
                try:
                    return self._boot(cell, extra, Path(place) / f"serial{attempt}")
                except NotReadyError as error:
                    reason = error
            raise reason

    def _boot(self, cell: Cell, extra: Sequence[str], serial: Path) -> DeviceSetVm:
        key = (cell.program, cell.machine, cell.device_set, cell.accel)
        vm = DeviceSetVm(
            cell.device_set,
            cell.program,
            cell.machine,
            cell.accel,
            [*extra, "-serial", f"file:{serial}"],
            cell.load == "stopped",
            self._unwanted.get(key, ()),
        )
        try:
            self._unwanted[key] = tuple(vm.left_out)
            if cell.load == "firmware":
                time.sleep(FIRMWARE)
            elif cell.load == "linux":
                if not vm.wait_for(serial, "QMR-GUEST-READY", BOOT):
                    said = vm.vm.exit_text() or serial.read_text(errors="replace")[-200:]
                    raise NotReadyError(f"the guest was not ready within {BOOT:g} s: {said!r}")
                time.sleep(SETTLE)
        except BaseException:
            vm.close()
            raise
        return vm


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """Yield the cells that were asked for."""
    for qemu in options.qemu or ["stock=qemu-system-x86_64"]:
        name, _, program = qemu.rpartition("=")
        for machine in options.machine or MACHINES:
            for device_set in options.device_set or DEVICE_SETS:
                for accel in options.accel or ACCELERATORS:
                    for load in options.load or LOADS:
                        yield Cell(name or program, program, machine, device_set, accel, load)


HEAD = (
    "QEMU machine devices accel load objects exact refs explained by-rule findings policy stop_us s"
).split()


def row(values: Iterable[object]) -> str:
    return "| " + " | ".join(str(value) for value in values) + " |"


def table_row(outcome: Outcome) -> str:
    """Return a cell's line of the table."""
    cell, report = outcome.cell, outcome.report
    place = (cell.name, cell.machine, cell.device_set, cell.accel, cell.load)
    if report is None or outcome.snapshot is None:
        return row((*place, *[""] * (len(HEAD) - len(place) - 1), outcome.reason))
    findings = Counter(finding.kind for finding in report.findings if finding.severity != "note")
    return row(
        (
            *place,
            report.objects,
            report.exact if report.exact == report.objects else f"**{report.exact}**",
            report.observed,
            report.explained,
            report.by_rule,
            ", ".join(f"{n} {kind}" for kind, n in findings.items()) or "-",
            report.verdict.policy.name + (" mixed" if report.verdict.mixed else ""),
            outcome.snapshot.capture.stop_us,
            f"{outcome.seconds:.1f}",
        )
    )


def details(outcome: Outcome) -> Iterator[str]:
    """Yield everything about a cell that the table leaves out."""
    report, snapshot = outcome.report, outcome.snapshot
    for refused in outcome.left_out:
        yield f"  left out: {refused.words}: {refused.reason}"
    if report is None or snapshot is None:
        return
    book = report.book
    for address in sorted(snapshot.objects, key=lambda a: (snapshot.objects[a].type, a)):
        left = book.residual(address)
        if not left:
            continue
        obj = snapshot.objects[address]
        kinds: Counter[str] = Counter()
        for edge in book.on.get(address, ()):
            kinds[edge.kind + (" (rule)" if edge.rule else "")] += 1
        held = ", ".join(f"{kind} {n}" for kind, n in kinds.items()) or "nothing"
        yield (
            f"  not exact: {obj.type} {book.index.label(address)} {address:#x}: "
            f"observed {obj.ref}, expected {obj.ref - left} ({left:+d}): {held}"
        )
    used: Counter[tuple[str, str]] = Counter()
    for edge in book.edges:
        if edge.rule and edge.target in snapshot.objects:
            used[edge.rule, snapshot.objects[edge.target].type] += 1
    for (rule, type_name), n in sorted(used.items()):
        yield f"  by rule {rule}: {n} on {type_name}"
    for finding in report.findings:
        if finding.kind not in ("unexplained", "underflow"):
            yield f"  {finding.severity} {finding.kind}: {finding.text}"


def main(arguments: Sequence[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--qemu", action="append", metavar="NAME=PATH")
    parser.add_argument("--machine", action="append")
    parser.add_argument("--device-set", action="append", choices=sorted(DEVICE_SETS))
    parser.add_argument("--accel", action="append", choices=ACCELERATORS)
    parser.add_argument("--load", action="append", choices=LOADS)
    parser.add_argument("--guest", choices=sorted(make_guest.FLAVOURS), default="generic")
    parser.add_argument(
        "--verbose", action="store_true", help="what is not exact and each rule, on stderr"
    )
    options = parser.parse_args(arguments)
    matrix = Matrix(options.guest)
    print(row(HEAD))
    print(row("-" * len(word) for word in HEAD), flush=True)
    inexact = 0
    for cell in cells(options):
        outcome = matrix.run(cell)
        print(table_row(outcome), flush=True)
        if outcome.report is not None and outcome.report.exact != outcome.report.objects:
            inexact += 1
        if options.verbose:
            lines = [f"{cell.title}: {outcome.reason or 'read'}", *details(outcome)]
            print(*lines, sep="\n", file=sys.stderr, flush=True)
    return 1 if inexact else 0


if __name__ == "__main__":
    sys.exit(main())
