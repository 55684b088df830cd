"""Judged again
------------

A finding must hold in a second reading, and what is transient gets the time to end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Callable

from ..audit.graph import orphan_groups
from ..audit.outcome import Outcome
from ..audit.policy import book_of
from ..audit.stale import outside_of
from ..hotplug.kinds import Recipe
from ..ledger import Book
from ..monitor.base import Monitor
from ..search.stale import Where, merged, within
from ..text import an
from .driver import Driver
from .judge import Judgement, judge, memory_of, waits, with_stale

if TYPE_CHECKING:
    from ..snapshot import Stale

__all__ = ["judge_again", "rendered_anew", "still_there"]

# RCU's grace period takes 10 to 100 ms; what is still there after this
# many readings, each preceded by a pause, is called delayed.
_READINGS_MAX = 5
_PAUSE_S = 0.05


def still_there(book: Book, recipe: Recipe) -> str | None:
    """Say why a device is not plugged after one of its type leaked, None where none did.

    What was unparented and lives on keeps the names of its RAM blocks and of its migration state.
    """
    objects = book.index.snapshot.objects
    if all(objects[group.root].type != recipe.driver for group in orphan_groups(book)):
        return None
    return (
        f"{an(recipe.driver)} that leaked is still in memory, and QEMU may abort when another "
        "takes its place; restart the VM first"
    )


def rendered_anew(before: Book, after: Book) -> bool:
    """Whether the memory topology changed between two readings: each space has another flat view.

    A VM that stands postpones the end of dirty logging, so that a second begin is no change
    (``memory_global_dirty_log_stop()``, system/memory.c).
    """
    first, last = before.index.snapshot.spaces, after.index.snapshot.spaces
    return any(last[at].view != space.view for at, space in first.items() if at in last)


def judge_again(
    driver: Driver,
    before: Book,
    plugged: Book,
    device: int | None,
    read: Callable[[], Book] | None = None,
    name: str | None = None,
    came: Sequence[tuple[int, int]] = (),
) -> tuple[Book, Judgement]:
    """Judge, and judge again while what is left is transient.

    The books, ``device`` and ``name`` are those of :func:`judge`.

    :param read: makes a book of the driver's VM.
    :param came: (start, end) of memory that came with the device, besides its objects.
    :return: the book of the last reading, and the judgement.
    :raises ReadingError: no trustworthy reading can be made.
    :raises TargetError: QEMU has ended, or cannot be read.
    """
    take = read or (lambda: book_of(driver.read()))
    objects = memory_of(before, plugged)
    memory = merged([*objects, *came])

    def stale_now() -> tuple[Where, list[Stale]]:
        left = outside_of(after, [row.address for row in judgement.left])
        where = Where(memory, left, candidates=True)
        found = driver.stale(after.index.snapshot, where)
        # A block that was made and freed meanwhile need not be the device's.
        return where, [row for row in found if row.certain or within(objects, row.target)]

    def read_and_judge() -> tuple[Book, Judgement]:
        book = take()
        return book, judge(before, plugged, book, device, name)

    after, judgement = read_and_judge()
    known: list[Stale] = []
    for attempt in range(1, _READINGS_MAX):
        if judgement.outcome == Outcome.CLEAN:
            break
        seen = _counts(judgement)
        known = stale_now()[1]
        driver.drive(partial(_pause, _PAUSE_S * attempt))
        after, judgement = read_and_judge()
        # A finding must hold in a second reading.  What a flat view holds may be transient, but
        # not while nothing waits for RCU.
        idle = after.index.snapshot.capture.quiescent or not waits(judgement)
        if idle and seen == _counts(judgement) and not _granted(after):
            break
    if judgement.outcome != Outcome.NOT_ACKED:
        where, found = stale_now()
        stale = [row for row in found if row.certain]
        # A finding must hold in a second reading; what was seen at the one before has had it.
        twice = {(row.kind, row.address) for row in known}
        if any((row.kind, row.address) not in twice for row in stale):
            driver.drive(partial(_pause, _PAUSE_S))
            twice = {(row.kind, row.address) for row in driver.stale(driver.read(), where)}
        stale = [row for row in stale if (row.kind, row.address) in twice]
        candidates = tuple(row for row in found if not row.certain)
        judgement = with_stale(judgement, plugged, stale)._replace(candidates=candidates)
    return after, judgement


def _granted(book: Book) -> bool:
    """Whether what any word points to passed for held: a thread was in malloc, say."""
    return any(unknown.what == "liveness" for unknown in book.index.snapshot.unknown)


def _counts(judgement: Judgement) -> dict[int, int]:
    return {left.address: left.observed for left in judgement.left}


def _pause(seconds: float, monitor: Monitor) -> None:
    # The VM runs meanwhile, also where it stands still while it is read.
    time.sleep(seconds)
