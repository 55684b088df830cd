"""Tracing a process
-----------------

From a process to the balance of its objects: records, unwinds, names and matches.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

from ..errors import TargetError
from ..ledger import Book
from ..reading import Reader
from ..stacks.names import Names
from ..stacks.unwind import Unwinder
from ..target.proc import dead
from .life import Life, Reading, Step, life_of, steps_of
from .match import Balance, balance, learn_sites
from .recorder import Event, OnEvents, Recorder, Recording

__all__ = ["Trace", "Tracing", "tracing_of"]


class Trace(NamedTuple):
    """What a recording says of the objects that were asked for.

    :param balances: by object.
    """

    recording: Recording
    balances: Mapping[int, Balance]


class Tracing(Recorder):
    """Traces one process, once or again and again; names that were found are kept.

    Its parameters are those of :class:`Recorder`.
    """

    @cached_property
    def names(self) -> Names:
        """What names functions and lines."""
        return Names(self.target, self.layout, self.code)

    @cached_property
    def unwinder(self) -> Unwinder:
        """What finds callers."""
        return Unwinder(self.arch, self.code)

    def alive(self) -> bool:
        """Whether the process still runs."""
        return not dead(self.target.pid)

    def count(self, address: int) -> Reading | None:
        """Read an object's count as it is now, None when it cannot be read."""
        begin = time.monotonic_ns()
        data = self.target.peek(address + self._offset, self._size)
        if data is None:
            return None
        return Reading(int.from_bytes(data, "little"), begin, time.monotonic_ns())

    def steps(self, events: Iterable[Event]) -> list[Step]:
        """Return changes with their call stacks."""
        return steps_of(events, self.unwinder, self.names, self._registers)

    def explain(
        self, recording: Recording, book: Book, objects: Iterable[int], span: tuple[int, int]
    ) -> Trace:
        """Say who took what remains on objects.

        :param book: of a reading.
        :param span: when that began and ended, CLOCK_MONOTONIC in nanoseconds.
        """
        alive = book.index.snapshot.objects
        self.names.learn_classes(alive)
        lives = [
            self.life(recording, address, Reading(alive[address].ref, *span))
            for address in objects
            if address in alive
        ]
        first = [balance(book, life) for life in lives]
        learned = learn_sites(first)
        found = [balance(book, life, learned) for life in lives] if learned else first
        return Trace(recording, {one.life.object: one for one in found})

    def life(
        self, recording: Recording, address: int, reading: Reading, before: Reading | None = None
    ) -> Life:
        """Put together what was recorded of an object; as :func:`life_of`."""
        return life_of(
            recording, self.unwinder, self.names, self._registers, address, reading, before
        )


def tracing_of(
    reader: Reader,
    only: Collection[int] = (),
    on_events: OnEvents | None = None,
) -> Tracing:
    """Return what traces the process that a reader reads; as :class:`Tracing`.

    :raises TargetError: it is no process, or cannot be traced.
    :raises QmrError: as :meth:`Reader.read` does.
    """
    target = reader.target
    if target.kind != "process":
        raise TargetError(
            f"a {target.kind} cannot be traced: nothing changes in it", "trace a QEMU that runs"
        )
    if reader.layout is None:
        reader.read()
    assert reader.layout is not None
    return Tracing(target, reader.layout, only, on_events)
