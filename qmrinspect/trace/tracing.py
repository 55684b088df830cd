"""Tracing a process
-----------------

From a process to the balance of its objects: records, unwinds, names and matches.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from ..errors import TargetError
from ..layout import Layout
from ..ledger import Book
from ..reading import Reader
from ..target.image import Target
from ..target.proc import dead
from .life import Life, Reading, Step, life_of, steps_of
from .match import Balance, balance, learn_sites
from .names import Names
from .recorder import Event, OnEvents, Recorder, Recording
from .unwind import Unwinder

__all__ = ["Trace", "Tracing", "tracing_of"]


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
    :param on_events: is given the changes of ``only`` as they come.
    :raises TargetError: it cannot be traced: its processor, or a second tracer.
    """

    def __init__(
        self,
        target: Target,
        layout: Layout,
        only: Collection[int] = (),
        on_events: OnEvents | None = None,
    ) -> None:
        self._target = target
        self._ref = layout.structs["Object"].fields["ref"]
        self._recorder = Recorder(target, layout, only, on_events)
        self._sampled = list(self._recorder.arch.sampled.values())
        self.unwinder = Unwinder(self._recorder.arch, self._recorder.code)
        self.names = Names(target, layout, self._recorder.code)

    def start(self) -> None:
        """Begin; raises as :meth:`Recorder.start` does."""
        self._recorder.start()

    def alive(self) -> bool:
        """Whether the process still runs."""
        return not dead(self._target.pid)

    def count(self, address: int) -> Reading | None:
        """Read an object's count as it is now, None when it cannot be read."""
        offset, size = self._ref
        begin = time.monotonic_ns()
        data = self._target.peek(address + offset, size)
        if data is None:
            return None
        return Reading(int.from_bytes(data, "little"), begin, time.monotonic_ns())

    def steps(self, events: Iterable[Event]) -> list[Step]:
        """Return changes with their call stacks."""
        return steps_of(events, self.unwinder, self.names, self._sampled)

    def stop(self) -> Recording:
        """End, and return what was recorded; raises as :meth:`Recorder.stop` does."""
        return self._recorder.stop()

    def close(self) -> None:
        """Take the breakpoints away; harmless when repeated."""
        self._recorder.close()

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
            recording, self.unwinder, self.names, self._sampled, address, reading, before
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
