"""Boards of other emulators, as the distribution ships them: read without a firmware image."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_policies import built

from qmrinspect.audit import Report
from qmrinspect.errors import QmrError
from qmrinspect.reading import Reader
from qmrinspect.target.process import Process

#: Board, and the faults of QEMU's own on it: (kind, type, observed minus expected).
#: A CPU has strong links to regions that it never referenced (target/arm/cpu.c
#: arm_cpu_realizefn sets secure_memory itself); mps2 embeds timers and drops a reference that
#: only object_new would have given (hw/arm/mps2.c, sysbus_realize_and_unref); sbsa-ref makes a
#: device and never realizes it (hw/arm/sbsa-ref.c create_secure_ec).
BOARDS: dict[str, dict[str, set[tuple[str, str, int]]]] = {
    "qemu-system-aarch64": {
        "virt": set(),
        "virt,gic-version=3,secure=on,virtualization=on": set(),
        "raspi3b": {("underflow", "memory-region", -4)},
        "xlnx-versal-virt": {("underflow", "memory-region", -2)},
        "sbsa-ref": {("unexplained", "sbsa-ec", 1), ("orphan", "sbsa-ec", 1)},
    },
    "qemu-system-arm": {
        "mcimx7d-sabre": {("underflow", "memory-region", -1)},
        "sabrelite": {("underflow", "memory-region", -1)},
        "imx25-pdk": set(),
        "mps2-an385": {("underflow", "cmsdk-apb-timer", -1)},
        "mps2-an505": set(),
        "ast2600-evb": {("underflow", "memory-region", -2)},
        "stm32vldiscovery": set(),
        "microbit": set(),
        "versatilepb": set(),
    },
    "qemu-system-riscv64": {"virt": set(), "sifive_u": set()},
    "qemu-system-ppc64": {"g3beige": set()},
    "qemu-system-s390x": {"s390-ccw-virtio": set()},
}
CELLS = [(program, board) for program, boards in BOARDS.items() for board in boards]


@contextmanager
def running(program: str, board: str, log: Path, *more: str) -> Iterator[int]:
    command = [program, "-machine", board, "-S", "-display", "none", "-nodefaults", *more]
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def report_of(pid: int, deadline: float) -> Report:
    """Read a QEMU that is starting."""
    while True:
        try:
            return Reader(Process(pid)).check()
        except QmrError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.mark.parametrize(("program", "board"), CELLS, ids=lambda part: part)
def test_a_board_is_read(program: str, board: str, tmp_path: Path) -> None:
    with running(program, board, tmp_path / "log") as pid:
        report = report_of(pid, time.monotonic() + 30)
    snapshot = report.book.index.snapshot
    objects = snapshot.objects
    # What the emulator's own release has, not what was inferred when no relation would hold.
    assert snapshot.target.layout == "profile:7.2.22"
    found = {
        (f.kind, objects[f.address].type, f.observed - f.expected)
        for f in report.findings
        if f.severity != "note"
    }
    assert found == BOARDS[program][board]
    assert (
        report.exact
        + len(report.not_judged)
        + len({f.address for f in report.findings if f.kind in ("underflow", "unexplained")})
        == report.objects
    )


def test_an_array_of_links_holds_what_it_leads_to(tmp_path: Path) -> None:
    program = built("11.1", "--target", "aarch64")
    with running(
        program, "virt,gic-version=x-5", tmp_path / "log", "-cpu", "max", "-smp", "2"
    ) as pid:
        report = report_of(pid, time.monotonic() + 30)
    held = [e.field for e in report.book.edges if e.kind == "link-array"]
    assert held == ["GICv5Common.cpus[0]", "GICv5Common.cpus[1]"]
    assert report.exact == report.objects
