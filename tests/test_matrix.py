"""The books of whole machines balance: every object, every reference.

One cell is a QEMU, a machine, a set of devices, an accelerator and a load.  The table
is printed at the end; where the environment variable ``QMR_WRITE_DOCS`` is set, the rows of
the cells that ran are put into docs/matrix.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

from matrix import HEAD, Cell, Matrix, details, row, table_row  # noqa: E402


class Qemu(NamedTuple):
    """A QEMU of the matrix.

    :param tool: what of ``tools/`` provides it, with its arguments; none for an installed one.
    :param policy: the one it follows.
    :param family: the versions that must be exact, where the archive may give a newer one.
    """

    tool: tuple[str, ...]
    policy: str
    family: str = ""
    stripped: bool = False


QEMUS = {
    "stock 7.2.22": Qemu((), "owner-ref", stripped=True),
    "7.2": Qemu(("build_qemu.py", "7.2"), "owner-ref"),
    "10.0": Qemu(("build_qemu.py", "10.0"), "owner-ref"),
    "10.0 subregion-ref": Qemu(
        ("build_qemu.py", "10.0", "--policy", "subregion-ref"), "subregion-ref"
    ),
    "10.0 owner-shared": Qemu(
        ("build_qemu.py", "10.0", "--policy", "owner-shared"), "owner-shared"
    ),
    "stock 10.0": Qemu(("stock_qemu.py", "10.0"), "owner-ref", "10.0", stripped=True),
    "10.2": Qemu(("build_qemu.py", "10.2"), "owner-shared"),
    "stock 11.1": Qemu(("stock_qemu.py", "11.1"), "owner-shared", "11.1", stripped=True),
    "11.1": Qemu(("build_qemu.py", "11.1"), "owner-shared"),
}
#: What may be by rule, of all references: a stripped program names none of its variables.
BY_RULE = {True: 0.03, False: 0.01}

# Nested guests do not boot under KVM everywhere; under TCG they do.
LOADS = [(a, load) for a in ("tcg", "kvm") for load in ("stopped", "firmware")] + [("tcg", "linux")]
if not os.access("/dev/kvm", os.R_OK | os.W_OK):
    LOADS = [(accel, load) for accel, load in LOADS if accel == "tcg"]

#: Every machine under every load.
WHOLE = [name for name in QEMUS if name.startswith(("7.2", "10.0", "stock 7.2"))]
#: These are so like one another that Linux runs on one machine of each.
LINUX = {"stock 10.0": ("pc",), "10.2": ("q35",), "stock 11.1": ("pc", "q35"), "11.1": ("q35",)}

CELLS = [
    (name, machine, mix, accel, load)
    for name in WHOLE
    for machine in ("pc", "q35", "microvm")
    for mix in ("none", "mixed")
    for accel, load in LOADS
    if mix == "mixed" or load != "linux"
]
CELLS += [
    (name, machine, mix, accel, load)
    for name, with_linux in LINUX.items()
    for machine in ("pc", "q35")
    for mix in ("none", "mixed")
    for accel, load in LOADS
    if (mix == "mixed" and machine in with_linux if load == "linux" else accel == "tcg")
]
CELLS += [(name, "microvm", "mixed", "tcg", "stopped") for name in LINUX]
CELLS += [
    (name, "virt", mix, "tcg", "stopped")
    for name in ("stock 10.0", "stock 11.1", "11.1")
    for mix in ("none", "mixed")
]


@cache
def program(name: str, machine: str) -> str:
    tool, *arguments = QEMUS[name].tool or ("",)
    if not tool:
        return "qemu-system-x86_64"
    if machine == "virt":
        arguments += ["--target", "aarch64"]
    command = [sys.executable, str(ROOT / "tools" / tool), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return Matrix("generic")


def place_of(line: str) -> tuple[str, ...]:
    """Return the cell that a row is of: the name of a stock one says its whole version."""
    name, *place = [word.strip() for word in line.split("|")[1:6]]
    known = (known for known in QEMUS if name == known or name.startswith(f"{known}."))
    return (next(known, name), *place)


def page(rows: Iterable[str], before: str) -> str:
    """Return the page with new rows, and those of the cells that did not run as they were."""
    kept = [line for line in before.splitlines() if line.startswith("| ")]
    found = {place_of(line): line for line in (*kept, *rows)}
    lines = [row(HEAD), row("-" * len(word) for word in HEAD)]
    lines += [found[cell] for cell in CELLS if cell in found]
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return (
        "# The matrix\n\n"
        "Made by `QMR_WRITE_DOCS=1 pytest tests/test_matrix.py`, not by hand, last at\n"
        f"{commit}, {time.strftime('%Y-%m-%d')}. `exact` are the objects whose every\n"
        "reference is explained; `by-rule` are references that a rule of QEMU grants although no\n"
        "field is seen to hold them (`docs/ledger.md`).\n\n" + "\n".join(lines) + "\n"
    )


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    lines: list[str] = []
    yield lines
    print("\n" + "\n".join([row(HEAD), *lines]))
    if os.environ.get("QMR_WRITE_DOCS"):
        path = ROOT / "docs" / "matrix.md"
        path.write_text(page(lines, path.read_text()))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("place", CELLS, ids=lambda place: "-".join(place).replace(" ", "-"))
def test_every_reference_of_every_object(
    place: tuple[str, str, str, str, str], matrix: Matrix, table: list[str]
) -> None:
    name, machine, mix, accel, load = place
    qemu = QEMUS[name]
    outcome = matrix.run(Cell(name, program(name, machine), machine, mix, accel, load))
    report, snapshot = outcome.report, outcome.snapshot
    assert report is not None and snapshot is not None, outcome.reason
    version = snapshot.target.qemu_version.split()[0]
    if qemu.family:
        cell = outcome.cell._replace(name=f"stock {version}")
        outcome = outcome._replace(cell=cell)
    table.append(table_row(outcome))
    told = f"QEMU {version}\n" + "\n".join(details(outcome))
    if not version.startswith(qemu.family):
        # The archive moved on, to a QEMU that nobody has looked at yet.
        assert not any(finding.severity == "error" for finding in report.findings), told
        named = len(report.findings) + len(report.not_judged)
        assert report.objects - report.exact <= named, told
        return
    assert report.exact == report.objects, told
    assert not report.failed, told
    assert report.explained + report.by_rule == report.observed
    assert report.by_rule <= report.observed * BY_RULE[qemu.stripped], told
    if not qemu.stripped:
        # Lines whose only pointer QEMU itself threw away, and nothing else.
        assert set(report.rules) <= {"irq-allocated"}, told
    assert not report.verdict.mixed
    # A machine without a region in a container of its own owner shows no policy.
    if report.verdict.supporting:
        assert report.verdict.policy.name == qemu.policy
    else:
        assert machine == "microvm"
    if mix == "mixed" and machine != "microvm":
        assert any(obj.type.startswith("vhost-user") for obj in snapshot.objects.values())
