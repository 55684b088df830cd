"""Boards of other emulators, as the distribution ships them and with symbols, without firmware.

docs/boards.md has all of them; here are those that show something of their own.
"""

from __future__ import annotations

from functools import cache

import pytest
from test_policies import built

from qmrinspect.audit import Report
from qmrinspect.hotplug.vm import Vm
from qmrinspect.reading import Reader
from qmrinspect.target.process import Process

#: Board, and the faults of QEMU's own on it: (kind, type, observed minus expected); docs/boards.md
#: says where each is in QEMU's source.
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
        # Its SD card is out of the tree, and in use.
        "n800": set(),
    },
    "qemu-system-riscv64": {"virt": set(), "sifive_u": set()},
    "qemu-system-ppc64": {
        "g3beige": set(),
        "40p": {("underflow", "irq", -1)},
        "mac99": {("underflow", "openpic", -1)},
        "pegasos2": {("underflow", "mv64361-pcihost", -1)},
    },
    # Its pages are larger than those of the host, and some of its RAM is smaller than one.
    "qemu-system-tricore": {
        "KIT_AURIX_TC277_TRB": set(),
        "tricore_testboard": {
            ("unexplained", "tricore_testdevice", 1),
            ("orphan", "tricore_testdevice", 1),
        },
    },
    "qemu-system-s390x": {"s390-ccw-virtio": set()},
}
#: The same of builds for aarch64, by release.
BUILDS: dict[str, dict[str, set[tuple[str, str, int]]]] = {
    "10.0": {
        "lm3s811evb": set(),
        "xlnx-zcu102": set(),
        "imx8mp-evk": {("underflow", "lan9118-phy", -1), ("underflow", "memory-region", -1)},
    },
    "10.2": {"xilinx-zynq-a9": {("underflow", "memory-region", -1)}},
    "11.1": {
        "lm3s6965evb": set(),
        "amd-versal-virt": {("underflow", "memory-region", -2)},
        "imx8mp-evk": {
            ("underflow", "fsl-imx8mp", -1),
            ("underflow", "lan9118-phy", -1),
            ("underflow", "memory-region", -4),
        },
    },
}
CELLS = [(program, board) for program, boards in BOARDS.items() for board in boards]


@cache
def program_of(release: str) -> str:
    return built(release, "--target", "aarch64")


def report_of(program: str, board: str, *more: str) -> Report:
    with Vm(program, board, extra=more, timeout=60) as vm:
        return Reader(Process(vm.pid)).check()


def expect(report: Report, faults: set[tuple[str, str, int]]) -> None:
    """Every reference is explained, but for QEMU's own faults."""
    objects = report.book.index.snapshot.objects
    found = {
        (
            f.kind,
            objects[f.address].type if f.address in objects else f.text,
            f.observed - f.expected,
        )
        for f in report.findings
        if f.severity != "note"
    }
    assert found == faults
    assert (
        report.exact
        + len(report.not_judged)
        + len({f.address for f in report.findings if f.kind in ("underflow", "unexplained")})
        == report.objects
    )


@pytest.mark.parametrize(("program", "board"), CELLS, ids=lambda part: part)
def test_a_board_is_read(program: str, board: str) -> None:
    report = report_of(program, board)
    # What the emulator's own release has, not what was inferred when no relation would hold.
    assert report.book.index.snapshot.target.layout == "profile:7.2.22"
    expect(report, BOARDS[program][board])


@pytest.mark.parametrize(
    ("release", "board"), [(r, b) for r in BUILDS for b in BUILDS[r]], ids=lambda part: part
)
def test_a_board_of_a_build_is_read(release: str, board: str) -> None:
    report = report_of(program_of(release), board)
    expect(report, BUILDS[release][board])
    assert not [row for row in report.book.index.snapshot.unsearched if not row.absent]


def test_an_array_of_links_holds_what_it_leads_to() -> None:
    report = report_of(program_of("11.1"), "virt,gic-version=x-5", "-cpu", "max", "-smp", "2")
    held = [e.field for e in report.book.edges if e.kind == "link-array"]
    assert held == ["GICv5Common.cpus[0]", "GICv5Common.cpus[1]"]
    assert report.exact == report.objects
