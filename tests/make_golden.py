#!/usr/bin/env python3
"""Make the golden snapshots again: real machines, idle and after unplugs that leak.

tests/make_golden.py                  # all of them; builds QEMUs where it must
tests/make_golden.py stock-7.2        # those of one QEMU
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from qmrinspect.hotplug.recipes import recipe_for  # noqa: E402
from qmrinspect.hunt.cycle import Hunt  # noqa: E402
from qmrinspect.hunt.own_vm import OwnVm  # noqa: E402
from qmrinspect.snapshot import Snapshot  # noqa: E402
from qmrinspect.store import save  # noqa: E402

GOLDEN = HERE / "golden"
DRIVERS = ("intel-hda", "bochs-display", "qemu-xhci")
SIZE_MAX = 40_000

# Name of the golden to what tools/build_qemu.py is asked for; the stock one is installed.
QEMUS: dict[str, tuple[str, ...]] = {
    "stock-7.2": (),
    "10.0-owner-ref": ("10.0",),
    "10.0-subregion-ref": ("10.0", "--policy", "subregion-ref"),
    "10.0-owner-shared": ("10.0", "--policy", "owner-shared"),
}


def program(name: str) -> str:
    """Return the QEMU of a golden."""
    if not QEMUS[name]:
        return "qemu-system-x86_64"
    build = HERE.parent / "tools" / "build_qemu.py"
    done = subprocess.run([sys.executable, build, *QEMUS[name]], stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().strip()


def store(snapshot: Snapshot, name: str) -> None:
    """Save a snapshot without what is of this machine only."""
    target = snapshot.target._replace(pid=0, exe="qemu-system-x86_64")
    path = GOLDEN / f"{name}.jsonl.gz"
    save(snapshot._replace(target=target), path)
    size = path.stat().st_size
    print(f"{path.name}: {len(snapshot.objects)} objects, {size} bytes")
    if size > SIZE_MAX:
        raise SystemExit(f"{path.name} is larger than {SIZE_MAX} bytes")


def make(name: str) -> None:
    """Make both snapshots of one QEMU."""
    recipes = [recipe_for(driver) for driver in DRIVERS]
    with OwnVm(frozenset().union(*(one.needs for one in recipes)), program(name)) as vm:
        store(vm.read(), f"{name}-idle")
        for number, one in enumerate(recipes):
            hunted = Hunt(vm).one(one, f"dut{number}")
            print(f"  {one.driver}: {hunted.outcome} {hunted.judgement.cause}")
        store(vm.read(), f"{name}-unplugged")


def main() -> None:
    """Make those that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="*", help=f"one of {', '.join(QEMUS)}; all by default")
    names = parser.parse_args().name or list(QEMUS)
    unknown = sorted(set(names) - set(QEMUS))
    if unknown:
        parser.error(f"there is no golden of {', '.join(unknown)}")
    GOLDEN.mkdir(exist_ok=True)
    for name in names:
        make(name)


if __name__ == "__main__":
    main()
