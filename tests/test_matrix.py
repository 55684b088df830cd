"""The books of whole machines balance: every object, every reference.

One cell is a QEMU, a machine, a set of devices, an accelerator and a load.  The table
of all cells is printed at the end, and written to docs/matrix.md where the environment
variable ``QMR_WRITE_DOCS`` is set.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

from matrix import HEAD, Cell, Matrix, details, row, table_row  # noqa: E402

#: Name of the QEMU to the arguments of tools/build_qemu.py, and the policy it follows.
QEMUS = {
    "stock 7.2.22": ((), "owner-ref"),
    "7.2": (("7.2",), "owner-ref"),
    "10.0": (("10.0",), "owner-ref"),
    "10.0 subregion-ref": (("10.0", "--policy", "subregion-ref"), "subregion-ref"),
    "10.0 owner-shared": (("10.0", "--policy", "owner-shared"), "owner-shared"),
}
#: What may be by rule, of all references: a stripped program names none of its variables.
BY_RULE = {True: 0.03, False: 0.01}

# Nested guests do not boot under KVM everywhere; under TCG they do.
LOADS = [(a, load) for a in ("tcg", "kvm") for load in ("stopped", "firmware")] + [("tcg", "linux")]
if not os.access("/dev/kvm", os.R_OK | os.W_OK):
    LOADS = [(accel, load) for accel, load in LOADS if accel == "tcg"]

CELLS = [
    (name, machine, mix, accel, load)
    for name in QEMUS
    for machine in ("pc", "q35", "microvm")
    for mix in ("none", "mixed")
    for accel, load in LOADS
    if mix == "mixed" or load != "linux"
]


@cache
def program(name: str) -> str:
    arguments, _ = QEMUS[name]
    if not arguments:
        return "qemu-system-x86_64"
    command = [sys.executable, str(ROOT / "tools" / "build_qemu.py"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return Matrix("generic")


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    lines = [row(HEAD), row("-" * len(word) for word in HEAD)]
    yield lines
    print("\n" + "\n".join(lines))
    if os.environ.get("QMR_WRITE_DOCS"):
        text = (
            "# The matrix\n\n"
            "Made by `QMR_WRITE_DOCS=1 pytest tests/test_matrix.py`, not by hand.  `exact` are\n"
            "the objects whose every reference is explained; `by-rule` are references that a\n"
            "rule of QEMU grants although no field is seen to hold them (`docs/ledger.md`).\n\n"
        )
        (ROOT / "docs" / "matrix.md").write_text(text + "\n".join(lines) + "\n")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("place", CELLS, ids=lambda place: "-".join(place).replace(" ", "-"))
def test_every_reference_of_every_object(
    place: tuple[str, str, str, str, str], matrix: Matrix, table: list[str]
) -> None:
    name, machine, mix, accel, load = place
    outcome = matrix.run(Cell(name, program(name), machine, mix, accel, load))
    table.append(table_row(outcome))
    report = outcome.report
    assert report is not None, outcome.reason
    told = "\n".join(details(outcome))
    assert report.exact == report.objects, told
    assert not report.failed, told
    assert report.explained + report.by_rule == report.observed
    stripped = name.startswith("stock")
    assert report.by_rule <= report.observed * BY_RULE[stripped], told
    if not stripped:
        # Lines whose only pointer QEMU itself threw away, and nothing else.
        assert set(report.rules) <= {"irq-allocated"}, told
    assert not report.verdict.mixed
    # A machine without a region in a container of its own owner shows no policy.
    if report.verdict.supporting:
        assert report.verdict.policy.name == QEMUS[name][1]
    else:
        assert machine == "microvm"
