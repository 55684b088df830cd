"""One device, plugged and unplugged and judged
--------------------------------------------

The same steps on the command line, where the monitor is driven and the memory is
read by turns, and inside GDB, where the VM has to run for the one and to stand
for the other.
"""

from __future__ import annotations

import time
from typing import Callable, NamedTuple, Protocol, TypeVar

from ..audit.graph import orphan_groups
from ..audit.policy import choose
from ..errors import MonitorError
from ..hotplug.monitor import CommandError, Monitor, MonitorLost, MonitorTimeout
from ..hotplug.recipes import Recipe
from ..hotplug.unplug import Cycle, plug, release, unplug
from ..index import Index
from ..ledger import Book
from ..snapshot import Snapshot
from .judge import Judgement, judge, waits

__all__ = ["Driver", "Hunted", "hunt_one", "look"]

T = TypeVar("T")

# RCU's grace period takes 10 to 100 ms; what has not ended by itself after this
# many looks, each preceded by a pause, is called delayed.
_LOOKS = 5
_PAUSE_S = 0.1


class Driver(Protocol):
    """How a front reads memory and drives the monitor."""

    def read(self) -> Snapshot:
        """Take a reading."""

    def drive(self, step: Callable[[Monitor], T]) -> T:
        """Run ``step`` with the monitor while the VM runs."""

    def death(self) -> str:
        """Return how QEMU died: signal and last message; empty while it lives."""


class Hunted(NamedTuple):
    """What came of one cycle; times in microseconds."""

    recipe: Recipe
    machine: str
    outcome: str
    judgement: Judgement
    cycle: Cycle
    plug_us: int
    unplug_us: int
    judge_us: int
    after: Book | None


def hunt_one(driver: Driver, recipe: Recipe, id: str) -> Hunted:
    """Run one cycle; a refusal, a hang and a crash are results as well.

    :param id: for the device; it must be free.
    :raises TargetError: when the memory cannot be read.
    """
    before = _book(driver.read())
    machine = before.index.snapshot.target.machine
    cycle = Cycle(driver=recipe.driver, id=id)
    if _leaked_before(before, recipe.driver):
        text = (
            f"a {recipe.driver} that leaked is still in memory, and QEMU may abort when another "
            "takes its place; restart the VM first"
        )
        return _hunted(driver, recipe, machine, cycle._replace(refused=text))
    try:
        plugged = driver.drive(lambda monitor: plug(monitor, recipe, id))
    except MonitorError as error:
        return _ended(driver, recipe, machine, cycle, error, "device_add")
    with_it = _book(driver.read())
    device = with_it.index.resolve(plugged.path).address
    try:
        cycle = driver.drive(lambda monitor: unplug(monitor, plugged))
    except MonitorError as error:
        return _ended(driver, recipe, machine, cycle, error, "device_del")
    if cycle.crash or cycle.hang or cycle.refused:
        return _hunted(driver, recipe, machine, cycle)
    begin = time.perf_counter_ns()
    after, judgement = look(driver, before, with_it, device)
    judge_us = (time.perf_counter_ns() - begin) // 1000
    try:
        kept = driver.drive(lambda monitor: release(monitor, plugged))
    except MonitorError as error:
        return _ended(driver, recipe, machine, cycle, error, "release")
    return Hunted(
        recipe,
        machine,
        judgement.outcome,
        judgement,
        cycle._replace(kept=kept),
        plugged.plugged_us - plugged.plug_us,
        max(0, (cycle.event_us or cycle.acknowledge_us) - cycle.request_us),
        judge_us,
        after,
    )


def _leaked_before(book: Book, type_name: str) -> bool:
    """Whether a device of the type has been unparented and lives on.

    It keeps the names of its RAM blocks and of its migration state.
    """
    objects = book.index.snapshot.objects
    return any(objects[group.head].type == type_name for group in orphan_groups(book))


def look(driver: Driver, before: Book, plugged: Book, device: int) -> tuple[Book, Judgement]:
    """Look, and look again while what remains is of a kind that ends by itself."""
    after = _book(driver.read())
    judgement = judge(before, plugged, after, device)
    for _ in range(_LOOKS):
        if judgement.outcome == "clean" or not waits(judgement):
            break
        driver.drive(lambda monitor: time.sleep(_PAUSE_S))
        after = _book(driver.read())
        judgement = judge(before, plugged, after, device)
    return after, judgement


def _book(snapshot: Snapshot) -> Book:
    return choose(Index(snapshot))[1]


def _ended(
    driver: Driver,
    recipe: Recipe,
    machine: str,
    cycle: Cycle,
    error: MonitorError,
    step: str,
) -> Hunted:
    """Turn what the monitor said into a result; what is not QEMU's doing is raised."""
    if isinstance(error, CommandError):
        cycle = cycle._replace(step=step, refused=error.desc)
    elif isinstance(error, MonitorTimeout):
        cycle = cycle._replace(step=step, hang=error.text)
    elif isinstance(error, MonitorLost):
        cycle = cycle._replace(step=step, crash=error.text)
    else:
        raise error
    return _hunted(driver, recipe, machine, cycle)


def _hunted(driver: Driver, recipe: Recipe, machine: str, cycle: Cycle) -> Hunted:
    if cycle.crash:
        outcome, text = "crash", driver.death() or cycle.crash
    elif cycle.hang:
        outcome, text = "hang", cycle.hang
    else:
        outcome, text = "refused", cycle.refused
    judgement = Judgement(outcome, "", (), (), text)
    return Hunted(recipe, machine, outcome, judgement, cycle, 0, 0, 0, None)
