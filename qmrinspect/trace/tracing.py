"""Tracing a process
-----------------

From a process to the balance of its objects: records, unwinds, names and matches.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Callable, NamedTuple

from ..layout import Layout
from ..ledger import Book
from ..snapshot import Snapshot
from ..target.image import Target
from .life import Life, Reading, life_of
from .match import Balance, balance, learn_sites
from .names import Names
from .recorder import Event, Recorder, Recording
from .unwind import Unwinder

__all__ = ["Trace", "Tracing"]


class Trace(NamedTuple):
    """What a recording says of the objects that were asked for.

    :param balances: by object.
    """

    recording: Recording
    balances: Mapping[int, Balance]


class Tracing:
    """Traces one process, once or again and again; names that were found are kept.

    :param target: the process.
    :param layout: of its structures.
    :param only: objects to follow; by default all that are born meanwhile.
    :param tell: is given the changes of ``only`` as they come.
    :raises TargetError: it cannot be traced: its processor, or a second tracer.
    """

    def __init__(
        self,
        target: Target,
        layout: Layout,
        only: Collection[int] = (),
        tell: Callable[[list[Event]], None] | None = None,
    ) -> None:
        self._recorder = Recorder(target, layout, only, tell)
        self._sampled = list(self._recorder.arch.sampled.values())
        self.unwinder = Unwinder(self._recorder.arch, self._recorder.code)
        self.names = Names(target, layout, self._recorder.code)
        self._span = (0, 0)

    def start(self) -> None:
        """Begin; raises as :meth:`Recorder.start` does."""
        self._recorder.start()

    def reading(self, read: Callable[[], Snapshot]) -> Snapshot:
        """Take a reading, and remember when: the trace must add up to it."""
        begin = time.monotonic_ns()
        snapshot = read()
        self._span = begin, time.monotonic_ns()
        return snapshot

    def stop(self) -> Recording:
        """End, and return what was recorded; raises as :meth:`Recorder.stop` does."""
        return self._recorder.stop()

    def close(self) -> None:
        """Take the breakpoints away; harmless when repeated."""
        self._recorder.close()

    def explain(self, recording: Recording, book: Book, objects: Iterable[int]) -> Trace:
        """Say who took what remains on objects.

        :param book: of the last :meth:`reading`.
        """
        alive = book.index.snapshot.objects
        self.names.learn_classes(alive)
        lives = [self.life(recording, a, alive[a].ref) for a in objects if a in alive]
        first = [balance(book, life) for life in lives]
        learned = learn_sites(first)
        found = [balance(book, life, learned) for life in lives] if learned else first
        return Trace(recording, {one.life.object: one for one in found})

    def life(
        self, recording: Recording, address: int, ref: int, before: Reading | None = None
    ) -> Life:
        """Put together what was recorded of an object; ``ref`` is from the last reading."""
        reading = Reading(ref, *self._span)
        return life_of(
            recording, self.unwinder, self.names, self._sampled, address, reading, before
        )
