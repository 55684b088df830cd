"""One look at each of many machines: findings of nothing, which a second look would take back.

tests/soak_looks.py [READINGS] [--seconds N] [--seed N]

Each machine is a process of its own, as addresses and what lies in memory that was not cleared
differ from one to the next.  Half of the x86 machines are stirred first: what is made and
deleted leaves whole structures behind.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]

from chapter import origin  # noqa: E402
from conftest import release  # noqa: E402
from test_boards import BOARDS, BUILDS, program_of  # noqa: E402
from test_policies import built  # noqa: E402

from qmrinspect.audit import Report  # noqa: E402
from qmrinspect.errors import QmrError  # noqa: E402
from qmrinspect.hotplug.device_set_vm import DeviceSetVm, LeftOut  # noqa: E402
from qmrinspect.hotplug.vm import Vm  # noqa: E402
from qmrinspect.reading import Reader  # noqa: E402
from qmrinspect.target.process import Process  # noqa: E402

#: Kind, type of the object, observed minus expected.
Fault = tuple[str, str, int]

STOCK, BUILT = ("7.2", "10.0", "11.1"), ("7.2", "10.0", "10.2", "11.1")
#: What a monitor makes and takes away again, none of which leaks anywhere.
STIRRED = (
    ("object-add", {"qom-type": "rng-builtin", "id": "s0"}, "object-del", {"id": "s0"}),
    ("object-add", {"qom-type": "iothread", "id": "s1"}, "object-del", {"id": "s1"}),
    (
        "object-add",
        {"qom-type": "memory-backend-ram", "id": "s2", "size": 1 << 20},
        "object-del",
        {"id": "s2"},
    ),
    (
        "chardev-add",
        {"id": "s3", "backend": {"type": "ringbuf", "data": {}}},
        "chardev-remove",
        {"id": "s3"},
    ),
    ("netdev_add", {"type": "hubport", "hubid": 9, "id": "s4"}, "netdev_del", {"id": "s4"}),
    (
        "blockdev-add",
        {"driver": "null-co", "node-name": "s5"},
        "blockdev-del",
        {"node-name": "s5"},
    ),
    ("query-qmp-schema", {}, "query-block", {}),
    ("qom-list-types", {}, "query-machines", {}),
    ("human-monitor-command", {"command-line": "info qtree"}, "query-chardev", {}),
    ("system_reset", {}, "query-status", {}),
)


class Cell(NamedTuple):
    """A machine.

    :param faults: of QEMU's own.
    """

    group: str
    program: str
    machine: str
    devices: str = ""
    faults: frozenset[Fault] = frozenset()


def cells() -> list[Cell]:
    """Return all machines."""
    out = [
        Cell("boards of 7.2.22", program, board, "", frozenset(faults))
        for program, boards in BOARDS.items()
        for board, faults in boards.items()
    ]
    for version, boards in BUILDS.items():
        out += [
            Cell("boards of builds", program_of(version), board, "", frozenset(faults))
            for board, faults in {"virt": set[Fault](), **boards}.items()
        ]
    programs = [(f"stock {version}", release(version)) for version in STOCK]
    programs += [(f"build of {version}", built(version)) for version in BUILT]
    for group, program in programs:
        out += [Cell(group, program, machine) for machine in ("pc", "q35", "microvm")]
        out += [Cell(group, program, machine, "mixed") for machine in ("pc", "q35")]
    return out


@cache
def refused(program: str, machine: str) -> list[LeftOut]:
    """What a QEMU was found to refuse, filled when it first starts."""
    return []


@contextlib.contextmanager
def started(cell: Cell) -> Iterator[Vm]:
    """Start a machine."""
    if not cell.devices:
        with Vm(cell.program, cell.machine, timeout=120) as vm:
            yield vm
        return
    known = refused(cell.program, cell.machine)
    with DeviceSetVm(cell.devices, cell.program, cell.machine, unwanted=known) as one:
        known[:] = one.left_out
        yield one.vm


def stir(vm: Vm, chance: random.Random) -> None:
    """Have a QEMU make and free something."""
    with vm.monitor() as monitor:
        for make, given, remove, what in chance.sample(STIRRED, 6):
            for command, arguments in ((make, given), (remove, what)):
                with contextlib.suppress(QmrError):
                    monitor.execute(command, arguments)


def look(cell: Cell, chance: random.Random) -> Report:
    """Start a machine and look at it once."""
    with started(cell) as vm:
        if "x86_64" in cell.program and chance.random() < 0.5:
            stir(vm, chance)
        reader = Reader(Process(vm.pid))
        return reader.audit(reader.read())


def beyond(report: Report, faults: frozenset[Fault]) -> list[str]:
    """Return the findings that are none of QEMU's own faults."""
    objects = report.book.index.snapshot.objects
    out = []
    for f in report.findings:
        kind = objects[f.address].type if f.address in objects else ""
        if f.severity != "note" and (f.kind, kind, f.observed - f.expected) not in faults:
            out.append(f"{f.severity} {f.kind} {f.address:#x} {kind}: {f.text}")
    return out


def main(readings: int, seconds: float, seed: int) -> int:
    """Return how many looks had a finding that no QEMU's fault is behind."""
    chance, end = random.Random(seed), time.monotonic() + seconds
    todo: list[Cell] = []
    looks, objects, references, wrong = (Counter[str]() for _ in range(4))
    while sum(looks.values()) < readings and time.monotonic() < end:
        if not todo:
            todo = cells()
            chance.shuffle(todo)
        cell = todo.pop()
        where = f"{cell.program} -M {cell.machine} {cell.devices}".rstrip()
        try:
            report = look(cell, chance)
        except QmrError as error:
            print(f"- {where}: not read: {error}", flush=True)
            continue
        looks[cell.group] += 1
        objects[cell.group] += report.objects
        references[cell.group] += report.observed
        found = beyond(report, cell.faults)
        wrong[cell.group] += bool(found)
        for text in found:
            print(f"- {where}: {text}", flush=True)
    rows = [*sorted(looks), ""]
    print(f"One look at each of so many machines, seed {seed}; {origin()}:\n")
    print("| QEMU | looks | objects | references | looks with a finding of nothing |")
    print("|---|---|---|---|---|")
    for group in rows:
        counts = [
            count[group] if group else sum(count.values())
            for count in (looks, objects, references, wrong)
        ]
        print(f"| {group or 'all'} | " + " | ".join(map(str, counts)) + " |", flush=True)
    return sum(wrong.values())


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readings", type=int, nargs="?", default=2000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(words)


if __name__ == "__main__":
    given = _arguments(sys.argv[1:])
    sys.exit(bool(main(given.readings, given.seconds, given.seed)))
