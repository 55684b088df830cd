"""Cycles on a VM that runs
------------------------
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from typing import Callable

from ..audit.growth import Growth
from ..audit.outcome import Outcome
from ..documents import HuntRow
from ..hotplug.kinds import Recipe
from ..search.memory import Memory
from .cycle import Hunt
from .driver import Driver
from .rows import row_of

__all__ = ["attached", "cycles_on"]

_UNIQUE = f"{os.getpid()}-{time.time_ns() // 1_000_000_000 % 100_000}"
_serial = itertools.count(1)


def cycles_on(
    driver: Driver,
    recipes: Sequence[Recipe],
    args: argparse.Namespace,
    progress: Callable[[str | None], None],
) -> Iterator[HuntRow]:
    """Do the cycles of a hunt on a VM that runs, until it dies.

    :param args: of the verb.
    """
    hunt = Hunt(driver, args.wait_guest, pinned=args.forecast, trace=args.trace)
    done = 0
    try:
        for recipe in recipes:
            growth, memory = Growth(), Memory()
            for number in range(1, args.cycles + 1):
                progress(f"{done} of {len(recipes) * args.cycles}: {recipe.driver}")
                # The id is new even to a VM that an earlier hunt left something in.
                hunted = hunt.one(recipe, f"qmr{_UNIQUE}-{next(_serial)}")
                done += 1
                hunted = hunted._replace(number=number)
                if args.cycles > 1 and hunted.books:
                    if number == 1:
                        growth.begin(hunted.books[0])
                    if hunted.after is not None:
                        growth.add(hunted.after)
                        memory.add(driver.blocks(hunted.after.index.snapshot))
                    if number == args.cycles:
                        hunted = hunted._replace(growth=growth.summary(), memory=memory.leak())
                yield row_of(hunted)
                if hunted.outcome in (Outcome.CRASH, Outcome.HANG):
                    return
    finally:
        progress(None)


def attached(pid: int, given: str | None) -> Driver:
    """Return a VM that the user runs, by its process id.

    :param given: a layout's file, None for none.
    """
    from ..monitor.addresses import monitors_of
    from ..monitor.connecting import connect_first
    from ..monitor.open import open_monitor
    from ..monitor.whose import checked
    from ..reading import Reader
    from ..target.process import Process
    from ..trace.tracing import tracing_of
    from .attached import Attached

    process = Process(pid)
    addresses = monitors_of(pid, process.argv)
    monitor = connect_first(addresses, lambda address: checked(open_monitor(address), pid))
    reader = Reader(process, given=given)
    return Attached(reader.read, monitor, reader.stale, lambda: tracing_of(reader), reader.blocks)
