"""One device, plugged and unplugged and judged
--------------------------------------------

The same steps on the command line, where the monitor is driven and the memory is
read by turns, and inside GDB, where the VM has to run for the one and to stand
for the other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Callable, NamedTuple, TypeVar

from ..audit.outcome import BAD, FINALIZED, Outcome
from ..audit.policy import Verdict, choose
from ..errors import MonitorError, PeerMissing, ReadingError, TargetError
from ..hotplug.kinds import Recipe
from ..hotplug.pin import Pin, release_pin
from ..hotplug.plugging import now_us
from ..hotplug.unplug import (
    Cycle,
    Plugged,
    Step,
    ended,
    finish,
    force_topology,
    plug,
    unplug,
)
from ..index import Index
from ..ledger import Book, open_book
from ..monitor.base import MonitorLost
from ..search.stale import Where
from .again import judge_again, rendered_anew, still_there
from .came import Came
from .driver import Driver
from .foretell import Foretold, Pins, foretell_after, foretell_pinned, held_by, implied
from .hunted import Hunted
from .judge import Judgement, came_with, same, with_stale

if TYPE_CHECKING:
    from ..snapshot import Snapshot, Stale

__all__ = ["Hunt"]

T = TypeVar("T")

# A finalized device has said so by then, mostly.  The memory is the proof, so that an
# event which comes while it is read is soon enough.
_EVENT_S = 0.1

# Readings of a cycle of which it is remembered when they were.
_READINGS = 16


class Hunt:
    """Cycles on one VM; what is known of it is kept from one to the next.

    :param guest: seconds that the VM's guest has to release a device; None when nobody is there.
    :param use: has the guest use what was plugged, and returns the names of what it used.
    :param pinned: hold each device by a link for a reading between its unplug and its end, so
        that what it would do under each policy is known exactly.
    :param trace: record who takes and drops references meanwhile.
    :param deep: look for callbacks that lead to any block which came with a device, not only to
        its objects.
    """

    def __init__(
        self,
        driver: Driver,
        guest: float | None = None,
        use: Callable[[Plugged], tuple[str, ...]] | None = None,
        pinned: bool = False,
        trace: bool = False,
        deep: bool = False,
    ) -> None:
        self._driver, self._deep = driver, deep
        self._guest = guest
        self._use = use
        self._pins = Pins(driver) if pinned else None
        self._verdict: Verdict | None = None
        self._last: Book | None = None
        self._leaked_slots: set[int] = set()
        self._tracing = driver.tracing() if trace else None
        self._spans: deque[tuple[Snapshot, tuple[int, int]]] = deque(maxlen=_READINGS)

    def one(self, recipe: Recipe, id: str) -> Hunted:
        """Run one cycle; a refusal, a hang and a crash are results as well.

        :param id: for the device; it must be free.
        :raises TargetError: when the memory cannot be read, or the VM not traced.
        """
        tracing = self._tracing
        if tracing is None:
            return self._one(recipe, id)
        tracing.start()
        try:
            hunted = self._one(recipe, id)
            recording = tracing.stop()
        finally:
            tracing.close()
        span = self._span(hunted.after)
        if hunted.after is None or span is None:
            return hunted
        from .traced import with_takers

        left = [left.address for left in hunted.judgement.left]
        trace = tracing.explain(recording, hunted.after, left, span)
        return hunted._replace(judgement=with_takers(hunted.judgement, trace), trace=trace)

    def take_reading(self) -> Book:
        """Take a reading: the VM was driven since the last one."""
        self._last = self._book()
        return self._last

    def _one(self, recipe: Recipe, id: str) -> Hunted:
        driver = self._driver
        came = Came(driver, self._deep or recipe.non_device is not None)
        if came.wanted:
            self._last = None  # its blocks are those of the last reading
        before, self._last = self._last or self._book(), None
        came.begin(before)
        machine = before.index.snapshot.target.machine
        cycle = Cycle(driver=recipe.driver, id=id)
        there = still_there(before, recipe)
        if there is not None and recipe.bus != "PCI" and not self._leaked_slots:
            self._last = before
            return _early(driver, recipe, machine, cycle._replace(refused=there))
        # Migration state is named after the slot as well.
        avoid = self._leaked_slots if there is not None else frozenset()
        try:
            plugged = driver.drive(lambda monitor: plug(monitor, recipe, id, avoid))
        except (MonitorError, PeerMissing) as error:
            cycle = ended(cycle, Step.DEVICE_ADD, error)
            early = _early(driver, recipe, machine, cycle)
            return self._refused(before, early) if cycle.refused is not None else early
        try:
            return self._judge(before, plugged, machine, came)
        finally:
            for peer in plugged.peers:
                peer.close()

    def _refused(self, before: Book, hunted: Hunted) -> Hunted:
        """Judge what a refused ``device_add`` left: the device had been made, and must be gone."""
        if hunted.cycle.step == Step.PREPARE or not hunted.pluggable:
            self._last = before  # refused before anything was made
            return hunted
        recipe = hunted.recipe
        try:
            made = self._book()
            devices = made.index.snapshot.devices.values()
            head = next((d.address for d in devices if d.id == hunted.cycle.id), None)
            after, judgement = judge_again(
                self._driver, before, made, head, self._book, recipe.driver
            )
        except (ReadingError, TargetError) as error:
            # It refused, and died of taking back what it had made.
            return self.died(recipe, hunted.machine, hunted.cycle._replace(refused=None), error)
        if judgement.outcome not in BAD:
            self._last = after
            return hunted
        left = {row.address for row in judgement.left}
        foretold = None
        if head is not None and head in left:
            foretold = foretell_after(after, head, left)
        return hunted._replace(
            outcome=judgement.outcome,
            judgement=judgement,
            after=after,
            books=(before, made, after),
            foretold=foretold,
            under=_under(foretold),
        )

    def _judge(self, before: Book, plugged: Plugged, machine: str, came: Came) -> Hunted:
        driver, recipe = self._driver, plugged.recipe
        cycle = Cycle(driver=recipe.driver, id=plugged.id)
        used = self._use(plugged) if self._use is not None else ()
        try:
            with_it = self._book()
            came.end(with_it)
        except (ReadingError, TargetError) as error:
            return self.died(recipe, machine, cycle._replace(step=Step.DEVICE_ADD), error)
        device = with_it.index.resolve(plugged.path).address if plugged.path else None
        pins, pin, foretold = self._pins, None, None
        try:
            if pins is not None and device is not None:
                pin = pins.hold(with_it, plugged, device)
            # What is held cannot say that it is gone.
            wait = 0.0 if pin is not None else _EVENT_S
            cycle = driver.drive(lambda monitor: unplug(monitor, plugged, wait, guest=self._guest))
        except MonitorError as error:
            return _early(driver, recipe, machine, ended(cycle, Step.DEVICE_DEL, error))
        if pin is not None and not cycle.died:
            if cycle.unparented and device is not None:
                foretold = self._foretell(before, with_it, device, pin)
            try:
                driver.drive(partial(release_pin, pin=pin))
            except MonitorError as error:
                cycle = ended(cycle, Step.FINALIZE, error)
        if cycle.died or cycle.refused is not None:
            early = _early(driver, recipe, machine, cycle, (before, with_it))
            return early._replace(foretold=foretold, under=_under(foretold))
        begin = time.perf_counter_ns()
        name = recipe.driver if recipe.non_device is not None else None
        try:
            result = self._judge_after(before, with_it, device, name, came.ranges)
        except (ReadingError, TargetError) as error:
            died = self.died(recipe, machine, cycle._replace(step=Step.JUDGE), error)
            return died._replace(foretold=foretold, under=_under(foretold))
        except MonitorError as error:
            early = _early(driver, recipe, machine, ended(cycle, Step.JUDGE, error))
            return early._replace(foretold=foretold, under=_under(foretold))
        judge_us, seen_us = (time.perf_counter_ns() - begin) // 1000, now_us()
        try:
            cycle = driver.drive(lambda monitor: finish(monitor, plugged, cycle))
        except MonitorError as error:
            return _early(driver, recipe, machine, ended(cycle, Step.RELEASE, error))
        gone = result.judgement.outcome in FINALIZED or result.ended
        at_us = seen_us if cycle.event_us is None else cycle.event_us
        finalized_us = at_us if gone else None
        if result.judgement.outcome == Outcome.CLEAN and not recipe.backends:
            # Nothing was taken away since: what is there now is there before the next.
            self._last = result.after
        elif result.judgement.outcome in {*BAD, Outcome.DELAYED}:
            self._leaked_slots.update(() if plugged.slot is None else (plugged.slot,))
        left = {row.address for row in result.judgement.left}
        if device is not None and device in left and result.judgement.outcome == Outcome.LEAK:
            after = foretell_after(result.after, device, left)
            foretold = foretold._replace(left=after.forecasts) if foretold else after
        under = _under(foretold)
        if foretold is None and device is not None and result.judgement.outcome in FINALIZED:
            assert self._verdict is not None
            new = came_with(before, with_it)
            rest = left if result.judgement.outcome == Outcome.PARTIAL_LEAK else ()
            under = implied(self._verdict.candidates, with_it, device, new, result.after, rest)
        return Hunted(
            recipe,
            machine,
            result.judgement.outcome,
            result.judgement,
            cycle,
            plugged.took_us,
            cycle.unplug_us,
            judge_us,
            result.after,
            finalized_us,
            (before, with_it, result.after),
            used,
            foretold,
            under,
        )

    def _foretell(self, before: Book, with_it: Book, device: int, pin: Pin) -> Foretold | None:
        """Foretell from a device that is unplugged and held."""
        pinned = self._book()
        pins = held_by(pinned.index, device, pin)
        came = {a for a in came_with(before, with_it) if same(with_it, pinned, a)}
        if not pins or device not in came:
            return None
        return foretell_pinned(pinned, device, came, pins, with_it)

    def died(
        self, recipe: Recipe, machine: str, cycle: Cycle, error: ReadingError | TargetError
    ) -> Hunted:
        """Return the result of a cycle of which QEMU died while it was read.

        :raises TargetError: it has not: the memory cannot be read for any other reason.
        :raises ReadingError: as before.
        """
        if not self._driver.death():
            raise error
        return _early(self._driver, recipe, machine, cycle._replace(crash=error.text))

    def _judge_after(
        self,
        before: Book,
        with_it: Book,
        device: int | None,
        name: str | None,
        came: Sequence[tuple[int, int]],
    ) -> _Result:
        def judged() -> tuple[Book, Judgement]:
            return judge_again(self._driver, before, with_it, device, self._book, name, came)

        after, judgement = judged()
        if judgement.outcome != Outcome.DELAYED:
            return _Result(after, judgement, False)
        # What only a cached flat view holds goes with the next change of the topology.
        forced = self._driver.drive(force_topology)
        last, verdict = judged()
        if verdict.outcome == Outcome.CLEAN and judgement.stale:
            verdict = with_stale(verdict, with_it, self._still_led_to(judgement.stale))
        if verdict.outcome == Outcome.CLEAN:
            text = f"{judgement.text}; it went when the topology changed"
            return _Result(after, judgement._replace(text=text), True)
        if verdict.outcome == Outcome.STALE:
            text = f"{verdict.text}; {judgement.causes[0].text}; it went when the topology changed"
            return _Result(last, verdict._replace(text=text), True)
        if not (forced and rendered_anew(after, last)) or verdict.outcome != Outcome.DELAYED:
            return _Result(last, verdict, False)
        # What was forced to end and did not end is not transient.
        kinds = sorted({edge.kind for cause in verdict.causes for edge in cause.edges})
        text = f"{verdict.text}, and did not go when the topology changed"
        cause = f"held-by-{kinds[0]}" if kinds else "unbalanced"
        return _Result(last, verdict._replace(outcome=Outcome.LEAK, cause=cause, text=text), False)

    def _still_led_to(self, known: Sequence[Stale]) -> list[Stale]:
        """Return which of the callbacks lead to where objects were that have gone since.

        Their memory may be another's by now, or none at all; each callback is the same.
        """
        targets = sorted({row.target for row in known})
        where = Where((), [(target, target + 1) for target in targets], known)
        found = self._driver.stale(self._driver.read(), where)
        return [row._replace(freed=True) for row in found if row in known]

    def _book(self) -> Book:
        begin = time.monotonic_ns()
        index = Index(self._driver.read())
        self._spans.append((index.snapshot, (begin, time.monotonic_ns())))
        if self._verdict is None:
            self._verdict, book = choose(index)
            return book
        return open_book(index, self._verdict.policy)

    def _span(self, book: Book | None) -> tuple[int, int] | None:
        """Return when the reading of a book began and ended, None for none or an old one."""
        snapshot = book.index.snapshot if book is not None else None
        return next((span for known, span in self._spans if known is snapshot), None)


def _under(foretold: Foretold | None) -> dict[str, str]:
    forecasts = foretold.forecasts if foretold is not None else ()
    return {found.policy.name: str(found.outcome.outcome) for found in forecasts}


class _Result(NamedTuple):
    after: Book
    judgement: Judgement
    ended: bool


def _early(
    driver: Driver,
    recipe: Recipe,
    machine: str,
    cycle: Cycle,
    books: tuple[Book, ...] = (),
) -> Hunted:
    """Return the result of a cycle that QEMU ended before it could be judged."""
    if cycle.crash is not None:
        outcome, text = Outcome.CRASH, driver.death()
        if not text:
            raise MonitorLost(cycle.crash, "the monitor is lost and QEMU has not died; try again")
    elif cycle.hang is not None:
        outcome, text = Outcome.HANG, cycle.hang
    else:
        outcome, text = Outcome.REFUSED, cycle.refused or ""
        if recipe.missing and cycle.step == Step.DEVICE_ADD:
            text = f"{recipe.missing} (QEMU says: {text})"
    judgement = Judgement(outcome, None, (), (), text)
    return Hunted(recipe, machine, outcome, judgement, cycle, books=books)
