#!/usr/bin/env python3
"""What a forecast costs: of one device, and of all orphans of fifty that leaked.

    tools/bench_forecast.py [--qemu PROGRAM] [--rounds N] [--devices N]

Plugs and unplugs devices that leak (bochs-display and intel-hda under ``owner-ref``), takes a
reading, and foretells what each would have done under every policy.  Printed are medians over the
rounds, milliseconds: what the reading takes, which is not counted, and the forecasts beside their
bounds, 50 ms for one device and 1 s for all of fifty.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qmrinspect.audit import choose, orphan_groups  # noqa: E402
from qmrinspect.audit.forecast import Forecaster, all_policies  # noqa: E402
from qmrinspect.audit.unrealize import prospects  # noqa: E402
from qmrinspect.hotplug.recipes import recipe_for  # noqa: E402
from qmrinspect.hotplug.unplug import drivers, plug, unplug  # noqa: E402
from qmrinspect.hotplug.vm import Vm  # noqa: E402
from qmrinspect.index import Index  # noqa: E402
from qmrinspect.ledger import Book  # noqa: E402
from qmrinspect.monitor.base import Monitor  # noqa: E402
from qmrinspect.reading import Reader  # noqa: E402
from qmrinspect.target.process import Process  # noqa: E402

DRIVERS = ("bochs-display", "intel-hda")
#: A bridge has room for so many.
_SLOTS = 31


def leak(monitor: Monitor, count: int) -> None:
    """Plug and unplug devices; each stays in a slot of its own."""
    known = drivers(monitor)
    for number in range(count):
        recipe = recipe_for(DRIVERS[number % len(DRIVERS)], known)
        bus, slot = divmod(number, _SLOTS)
        place = {"bus": f"b{bus}", "addr": hex(slot + 1)}
        recipe = recipe._replace(properties={**recipe.properties, **place})
        unplug(monitor, plug(monitor, recipe, f"d{number}", force=True), 0.0)


def of_plugged(book: Book) -> float:
    """Foretell of the device that is plugged; return milliseconds."""
    device = next(d.address for d in book.index.snapshot.devices.values() if d.id == "plugged")
    begin = time.perf_counter()
    prospects(Forecaster(book), all_policies(), device)
    return (time.perf_counter() - begin) * 1000


def of_orphans(book: Book, count: int) -> tuple[float, Counter[str]]:
    """Foretell of so many that leaked; return milliseconds, and outcomes by policy."""
    begin = time.perf_counter()
    groups = [g for g in orphan_groups(book) if g.root in book.index.snapshot.devices][:count]
    forecaster = Forecaster(book)
    told: Counter[str] = Counter()
    for group in groups:
        for policy in all_policies():
            found = forecaster.of(policy, group.root, group.members)
            told[f"{policy.name}: {found.outcome.outcome}"] += 1
    assert len(groups) == count, f"only {len(groups)} devices leaked"
    return (time.perf_counter() - begin) * 1000, told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--devices", type=int, default=50)
    args = parser.parse_args()
    bridges = range((args.devices - 1) // _SLOTS + 1)
    extra = [w for n in bridges for w in ("-device", f"pci-bridge,id=b{n},chassis_nr={n + 1}")]
    with Vm(args.qemu, extra=extra) as vm:
        with vm.monitor() as monitor:
            leak(monitor, args.devices)
            monitor.execute("device_add", {"driver": "bochs-display", "id": "plugged"})
        reader, times = Reader(Process(vm.pid)), []
        for _ in range(args.rounds):
            begin = time.perf_counter()
            book = choose(Index(reader.read()))[1]
            taken = (time.perf_counter() - begin) * 1000
            one, (all_, told) = of_orphans(book, 1)[0], of_orphans(book, args.devices)
            times.append((taken, of_plugged(book), one, all_))
    reading, plugged, one, all_ = (statistics.median(column) for column in zip(*times))
    objects = len(book.index.snapshot.objects)
    print(f"{args.qemu}, {objects} objects, {args.devices} devices leaked, medians, milliseconds")
    print(f"  the reading and its ledger             {reading:8.1f}")
    print(f"  one device that is plugged             {plugged:8.1f}  (bound: 50)")
    print(f"  one device that leaked                 {one:8.1f}  (bound: 50)")
    print(f"  all {args.devices} that leaked, five policies each {all_:8.1f}  (bound: 1000)")
    print("  " + ", ".join(f"{count} {text}" for text, count in sorted(told.items())))


if __name__ == "__main__":
    main()
