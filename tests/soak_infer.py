"""No wrong layout may make a finding: ``make soak`` moves every field of two QEMUs.

tests/soak_infer.py [N]      N layouts with one field moved by 8 bytes, half of them of the
                             installed QEMU and half of stock 11.1, each with a machine full
                             of devices; writes docs/moved-fields.md

A core is dumped once and read under each layout.  A reading is *refused*, or the kinds
of references that rest on fields which the image contradicts are *off*, or it is the same
*as before*; a finding that the true layout does not give is an escape.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from mutants import Bench, findings, moved, mutants  # noqa: E402

from qmrinspect.hotplug.device_set_vm import DeviceSetVm  # noqa: E402
from qmrinspect.layout import load  # noqa: E402
from qmrinspect.layout.find import profiles  # noqa: E402
from qmrinspect.target.core import Core  # noqa: E402

PAGE = ROOT / "docs" / "moved-fields.md"
MACHINE, DEVICES = "q35", "mixed"


class Row(NamedTuple):
    """What came of the layouts of one QEMU."""

    version: str
    objects: int
    count: int
    outcomes: Counter[str]
    escapes: Sequence[str]


def core_of(qemu: str, directory: Path) -> Core:
    """Dump the core of a QEMU with the devices, which ends then."""
    with DeviceSetVm(DEVICES, qemu, MACHINE) as vm:
        pid = vm.vm.pid
        program = os.readlink(f"/proc/{pid}/exe")
        command = ["gcore", "-o", str(directory / "core"), str(pid)]
        subprocess.run(command, check=True, capture_output=True)
    return Core(directory / f"core.{pid}", program)


def run(qemu: str, profile: str, number: int) -> Row:
    """Move fields of one QEMU, chosen by chance where there are more than ``number``."""
    truth = load(next(path for path in profiles() if path.stem == profile), "truth")
    with TemporaryDirectory() as directory:
        bench = Bench(core_of(qemu, Path(directory)), truth)
        exact = bench.read(truth).report
        assert exact is not None and exact.exact == exact.objects, "the true layout is not exact"
        known = findings(exact)
        chosen = list(mutants(truth))
        if len(chosen) > number:
            chosen = random.Random(7).sample(chosen, number)
        outcomes: Counter[str] = Counter()
        escapes = []
        for count, (field, step) in enumerate(chosen):
            if count and count % 50 == 0:
                print(f"{profile}: {count}, {dict(outcomes)}", flush=True)
            layout = moved(truth, field, step)
            assert layout is not None
            report, off = bench.read(layout)
            if report is None:
                outcomes["refused"] += 1
            elif findings(report) - known:
                new = sorted(kind for kind, _, _ in findings(report) - known)
                escapes.append(f"{field} {step:+}: {', '.join(new)}")
                print(f"{profile}: {escapes[-1]}", flush=True)
            else:
                outcomes["off" if off else "as before"] += 1
    return Row(profile, exact.objects, len(chosen), outcomes, escapes)


def page(rows: Sequence[Row], commit: str) -> str:
    """Return the page."""
    lines = [
        "# Layouts with one field moved",
        "",
        f"`tests/soak_infer.py` at {commit}, {time.strftime('%Y-%m-%d')}: one field moved by 8",
        f"bytes forward or back, `{MACHINE}` with the `{DEVICES}` devices, one core of each QEMU",
        "read under all layouts.",
        "",
        "| layout | objects | moved | refused | kinds off | the same reading | new findings |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        counts = " | ".join(str(row.outcomes[name]) for name in ("refused", "off", "as before"))
        lines.append(
            f"| {row.version} | {row.objects} | {row.count} | {counts} | {len(row.escapes)} |"
        )
    lines += ["", *(f"- {row.version}: {escape}" for row in rows for escape in row.escapes)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    number = int(sys.argv[1]) if sys.argv[1:] else 1000
    tool = ["/usr/bin/python3", str(ROOT / "tools" / "stock_qemu.py"), "11.1"]
    newest = subprocess.run(tool, capture_output=True, text=True, check=True).stdout.strip()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()
    print(f"{commit}, load {os.getloadavg()[0]:.1f}", flush=True)
    with ProcessPoolExecutor(2) as both:
        rows = list(
            both.map(run, ("qemu-system-x86_64", newest), ("7.2.22", "11.1.1"), (number // 2,) * 2)
        )
    print(*rows, sep="\n", flush=True)
    PAGE.write_text(page(rows, commit))
    return int(any(row.escapes for row in rows))


if __name__ == "__main__":
    sys.exit(main())
