"""No wrong layout may make a finding: ``make soak`` moves fields of three stock QEMUs.

tests/soak_infer.py [N] [--keep FILE]    N layouts with one field moved by 8 bytes, of the installed
                                         QEMU and of stock 10.0 and 11.1, each with a machine full
                                         of devices; writes docs/moved-fields.md.  What is kept in
                                         the file is not done again.

A core of each is dumped once and read under each layout.  A reading is *refused*, or the kinds of
references that rest on fields which the image contradicts are *off*, or it is the same as under
the true layout; a finding that the true layout does not give is an escape.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from mutants import Bench, findings, moved, mutants  # noqa: E402

from qmrinspect.hotplug.device_set_vm import DeviceSetVm  # noqa: E402
from qmrinspect.layout import Layout, load  # noqa: E402
from qmrinspect.layout.find import profiles  # noqa: E402
from qmrinspect.target.core import Core  # noqa: E402

PAGE = ROOT / "docs" / "moved-fields.md"
MACHINE, DEVICES = "q35", "mixed"
#: By profile, what tools/stock_qemu.py calls it; the installed one needs no tool.
STOCK = {"7.2.22": "", "10.0.13": "10.0", "11.1.1": "11.1"}
WORKERS = 2
_PIECE = 60  # layouts, for which each core is opened anew


class Row(NamedTuple):
    """What came of one layout.

    :param outcome: ``refused``, ``off``, ``same`` or ``escape``.
    """

    profile: str
    field: str
    step: int
    outcome: str
    found: Sequence[str] = ()

    @property
    def place(self) -> tuple[str, str, int]:
        """Which layout it is."""
        return self.profile, self.field, self.step


def truth_of(profile: str) -> Layout:
    """Return the layout that is right."""
    return load(next(path for path in profiles() if path.stem == profile), "truth")


def program_of(name: str) -> str:
    """Return a QEMU of tools/stock_qemu.py."""
    if not name:
        return "qemu-system-x86_64"
    tool = ["/usr/bin/python3", str(ROOT / "tools" / "stock_qemu.py"), name]
    return subprocess.run(tool, capture_output=True, text=True, check=True).stdout.strip()


def dump(qemu: str, profile: str, directory: Path) -> tuple[str, str]:
    """Dump the core of a QEMU with the devices, which ends then; return it and its program."""
    with DeviceSetVm(DEVICES, qemu, MACHINE) as vm:
        pid = vm.vm.pid
        program = os.readlink(f"/proc/{pid}/exe")
        command = ["gcore", "-o", str(directory / profile), str(pid)]
        subprocess.run(command, check=True, capture_output=True)
    return str(directory / f"{profile}.{pid}"), program


def layouts() -> list[tuple[str, str, int]]:
    """Return every layout with one field moved, in an order of chance that is always the same."""
    rows = [(p, field, step) for p in STOCK for field, step in mutants(truth_of(p))]
    random.Random(7).shuffle(rows)
    return rows


def work(cores: Mapping[str, tuple[str, str]], places: Sequence[tuple[str, str, int]]) -> list[Row]:
    """Read each core under the layouts that are its own."""
    return list(_rows(cores, places))


def _rows(
    cores: Mapping[str, tuple[str, str]], places: Sequence[tuple[str, str, int]]
) -> Iterator[Row]:
    for profile in STOCK:
        mine = [place for place in places if place[0] == profile]
        if not mine:
            continue
        truth = truth_of(profile)
        bench = Bench(Core(*cores[profile]), truth)
        exact = bench.read(truth).report
        assert exact is not None and exact.exact == exact.objects, "the true layout is not exact"
        known = findings(exact)
        for _, field, step in mine:
            layout = moved(truth, field, step)
            assert layout is not None
            report, off = bench.read(layout)
            if report is None:
                yield Row(profile, field, step, "refused")
            elif findings(report) - known:
                new = sorted(kind for kind, _, _ in findings(report) - known)
                yield Row(profile, field, step, "escape", new)
            else:
                yield Row(profile, field, step, "off" if off else "same")


def page(rows: Sequence[Row], commit: str) -> str:
    """Return the page."""
    day = time.strftime("%Y-%m-%d")
    lines = [
        "# Layouts with one field moved",
        "",
        f"`tests/soak_infer.py` at {commit}, {day}: {len(rows)} layouts, each with one field moved",
        f"by 8 bytes forward or back, chosen by chance; `{MACHINE}` with the `{DEVICES}` devices,",
        "stopped, one core of each stock QEMU read under all of them. *Kinds off*: kinds of",
        "references on fields that the image contradicts were not searched for, and what they may",
        "hold is not judged.",
        "",
        "| layout of | moved | refused | kinds off | the same reading | new findings |",
        "|---|---|---|---|---|---|",
    ]
    for profile in STOCK:
        count = Counter(row.outcome for row in rows if row.profile == profile)
        cells = (
            profile,
            sum(count.values()),
            *(count[n] for n in ("refused", "off", "same", "escape")),
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    escapes = [row for row in rows if row.outcome == "escape"]
    lines += ["", *(f"- {r.profile}: {r.field} {r.step:+}: {', '.join(r.found)}" for r in escapes)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int, nargs="?", default=1000)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    print(f"{commit.stdout.strip()}, load {os.getloadavg()[0]:.1f}", flush=True)
    chosen = layouts()[: options.number]
    kept = options.keep.read_text() if options.keep and options.keep.exists() else ""
    done = {row.place: row for row in (Row(**json.loads(line)) for line in kept.splitlines())}
    left = [place for place in chosen if place not in done]
    with TemporaryDirectory() as directory, ProcessPoolExecutor(WORKERS) as pool:
        cores = {
            profile: dump(program_of(name), profile, Path(directory))
            for profile, name in STOCK.items()
            if any(place[0] == profile for place in left)
        }
        pieces = [left[i : i + _PIECE] for i in range(0, len(left), _PIECE)]
        for rows in pool.map(work, [cores] * len(pieces), pieces):
            done.update((row.place, row) for row in rows)
            if options.keep:
                with options.keep.open("a") as file:
                    file.writelines(json.dumps(row._asdict()) + "\n" for row in rows)
            print(len(done), *(r for r in rows if r.outcome == "escape"), flush=True)
    rows = [done[place] for place in chosen]
    PAGE.write_text(page(rows, commit.stdout.strip()))
    return int(any(row.outcome == "escape" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
