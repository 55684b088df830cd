"""The verb that traces
--------------------

``trace OBJ`` follows a live object; ``trace --plug`` traces a device from its birth.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..audit import book_of
from ..audit.cause import descends
from ..errors import QmrError, TargetError, UsageError
from ..hotplug.plugging import plug
from ..index import Index
from ..ledger import Book
from ..reading import Reader
from ..report import render, traces, words
from ..target.proc import name
from ..target.process import Process
from ..trace.held import Held, debugger_of
from ..trace.life import Reading
from ..trace.match import Balance, balance
from ..trace.recorder import Event, Recording
from ..trace.report import FORMAT, balance_json, recording_json
from ..trace.tracing import Tracing, tracing_of
from ..trace.tree import folded
from .plug import check_leaked, free_id, wanted
from .plug import run_unplug as plain_unplug
from .verb import CLEAN, FINDINGS, Answer, Session

__all__ = ["Work", "begin", "run_trace", "run_unplug"]

_POLL_S = 0.2
_SHOWN = 12


class _Traced(NamedTuple):
    """What a trace found: ``first`` is the object that it is about, if it is there."""

    recording: Recording
    book: Book
    balances: Sequence[Balance]
    first: int | None


def run_trace(session: Session, args: argparse.Namespace) -> Answer:
    """Follow an object, or a device from its birth."""
    work = begin(session, args)
    return Answer(work.documents(), work.lines(), stream=True, late=work.code)


def begin(session: Session, args: argparse.Namespace) -> Work:
    """Return the trace that a user asks for; it is made while its lines are taken."""
    if session.front == "gdb":
        session.tracing()  # says why not
    if bool(args.object) == bool(args.plug):
        raise UsageError(
            "trace takes an object, or --plug and a device type", "qmr trace nic0 --for 10"
        )
    if args.seconds is not None and args.seconds <= 0:
        raise UsageError("--for takes a number of seconds")
    return _From(session, args) if args.plug else _Follow(session, args)


def run_unplug(session: Session, args: argparse.Namespace) -> Answer:
    """Unplug a device; with ``--trace``, say what dropped its references and what did not."""
    if not args.trace:
        return plain_unplug(session, args)
    if session.front == "gdb":
        session.tracing()  # says why not
    there = book_of(session.snapshot())
    device = session.resolve(there.index, args.id).address
    only = [a for a in there.index.snapshot.objects if descends(there, a, device)]
    tracing = session.tracing(only)
    tracing.start()
    try:
        before = {address: tracing.count(address) for address in only}
        answer = plain_unplug(session, args)
        assert isinstance(answer.data, dict)
        left = [int(row["address"], 16) for row in answer.data["objects_left"]]
        counts = {address: tracing.count(address) for address in left if address in before}
        book = book_of(session.snapshot())
        recording = tracing.stop()
    finally:
        tracing.close()
    tracing.names.learn_classes(book.index.snapshot.objects)
    lives = [tracing.life(recording, a, now, before[a]) for a, now in counts.items() if now]
    found = [balance(book, life) for life in lives if life.object in book.index.snapshot.objects]
    data = {
        **answer.data,
        "trace": {
            **recording_json(recording),
            "objects": [balance_json(book, one, True) for one in found],
        },
    }
    return answer._replace(data=data, lines=_with_drops(answer.lines, recording, book, found))


def _with_drops(
    lines: Iterable[str], recording: Recording, book: Book, found: Sequence[Balance]
) -> Iterator[str]:
    yield from lines
    yield from traces.recording_lines(recording)
    for one in [one for one in found if one.life.steps][:_SHOWN]:
        yield from traces.balance_lines(book, one)
        yield from traces.tree_of(one.life.steps, False)


class Work:
    """One trace, as text or as JSON; it is made while that is printed.

    :ivar over: set by who has seen enough.
    """

    def __init__(self, session: Session, args: argparse.Namespace) -> None:
        self._session, self._args = session, args
        self._found: _Traced | None = None
        self.over = threading.Event()

    def live(self) -> Iterator[str]:
        """Trace, and yield what comes meanwhile; sets ``_found``."""
        raise NotImplementedError

    def lines(self) -> Iterator[str]:
        """Yield the text."""
        for line in self.live():
            if not self._args.folded:
                yield line
        found = self._found
        if found is None:
            return
        if self._args.folded:
            yield from folded([s for one in found.balances for s in one.life.steps])
            return
        yield from traces.recording_lines(found.recording)
        shown = found.balances if self._args.all else found.balances[:_SHOWN]
        for one in shown:
            yield from traces.balance_lines(found.book, one)
            if self._args.tree and not one.life.refused:
                yield from traces.tree_of(one.life.steps, self._args.all)
        more = len(found.balances) - len(shown)
        if more:
            yield f"and {render.plural(more, 'object')} more: --all shows them"

    def documents(self) -> Iterator[dict[str, object]]:
        """Yield the one document of ``qmr-trace/1``."""
        for _ in self.live():
            pass
        found = self._found
        if found is not None:
            yield {
                **words.head_json(FORMAT, found.book.index.snapshot),
                **recording_json(found.recording),
                "object": hex(found.first or 0),
                "objects": [balance_json(found.book, b, self._args.all) for b in found.balances],
            }

    def code(self) -> int:
        """Return whether something is held that nothing explains."""
        found = self._found
        bad = found is not None and any(b.unexplained or b.denied for b in found.balances)
        return FINDINGS if bad else CLEAN


def _held(session: Session) -> Reader | None:
    """Return what reads a process that a debugger holds, None where none does."""
    if session.front != "shell" or not session.has_target():
        return None
    target = session.target()
    if not isinstance(target, Process) or not debugger_of(target.pid):
        return None
    return Reader(Held(target), runs=False)


class _Follow(Work):
    """A live object, until Ctrl-C, ``--for``, or its end."""

    def __init__(self, session: Session, args: argparse.Namespace) -> None:
        super().__init__(session, args)
        reader = _held(session)
        self._read = reader.read if reader is not None else session.snapshot
        index = Index(self._read())
        self._object = session.resolve(index, args.object).address
        self._name = words.name(index, self._object)
        self._inbox: queue.SimpleQueue[list[Event]] = queue.SimpleQueue()
        if reader is not None:
            self._tracing = tracing_of(reader, [self._object], self._inbox.put)
        else:
            self._tracing = session.tracing([self._object], self._inbox.put)

    def live(self) -> Iterator[str]:
        tracing, address = self._tracing, self._object
        tracing.start()
        try:
            before = tracing.count(address)
            if before is None:
                raise TargetError(f"{self._name} cannot be read any more", "name another object")
            yield f"{self._name} has {render.plural(before.ref, 'reference')}; its changes:"
            count: int | None = before.ref
            died = False
            offset = time.time_ns() - time.monotonic_ns()
            for events in self._arriving():
                for step in tracing.steps(e for e in events if e.time >= before.begin):
                    if died:
                        break
                    by = step.event.by
                    count = step.event.left if count is None or by is None else count + by
                    died = count == 0
                    yield traces.event_line(step, count, offset, self._thread(step.event.tid))
                if died:
                    yield f"{self._name} was finalized"
                    break
            self._found = self._ended(tracing, before, died)
        finally:
            tracing.close()

    def _arriving(self) -> Iterator[list[Event]]:
        seconds = self._args.seconds
        deadline = time.monotonic() + seconds if seconds is not None else float("inf")
        with contextlib.suppress(KeyboardInterrupt):
            while not self.over.is_set():
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                with contextlib.suppress(queue.Empty):
                    yield self._inbox.get(timeout=min(left, _POLL_S))
                if not self._tracing.alive():
                    return

    def _thread(self, tid: int) -> str:
        return f"{name(self._session.target().pid, tid) or 'ended'} {tid}"

    def _ended(self, tracing: Tracing, before: Reading, died: bool) -> _Traced | None:
        try:
            begin = time.monotonic_ns()
            snapshot = self._read()
            span = begin, time.monotonic_ns()
            recording = tracing.stop()
        except QmrError:
            if died or not tracing.alive():
                return None  # there is nothing left to compare with
            raise
        book = book_of(snapshot)
        obj = snapshot.objects.get(self._object)
        reading = Reading(obj.ref if obj is not None and not died else 0, *span)
        tracing.names.learn_classes(snapshot.objects)
        life = tracing.life(recording, self._object, reading, before)
        if obj is None or died:
            return _Traced(recording, book, [Balance(life, (), (), (), 0, ())], self._object)
        return _Traced(recording, book, [balance(book, life)], self._object)


class _From(Work):
    """A device from its birth."""

    def live(self) -> Iterator[str]:
        session = self._session
        driver = session.driver()
        tracing = driver.tracing()
        recipe, id = wanted(driver, self._args.plug[0], self._args.plug[1:])
        there = book_of(driver.read())
        id = id or free_id(there.index)
        check_leaked(there, recipe, id)
        tracing.start()
        try:
            plugged = driver.drive(lambda monitor: plug(monitor, recipe, id))
            yield f"{plugged.id} ({recipe.driver}) is plugged"
            with contextlib.suppress(KeyboardInterrupt):
                # Beside a prompt there is somebody to say when it is enough.
                wait = None if session.front == "repl" and not self._args.json else 0.0
                self.over.wait(self._args.seconds or wait)
            begin = time.monotonic_ns()
            snapshot = driver.read()
            span = begin, time.monotonic_ns()
            recording = tracing.stop()
        finally:
            tracing.close()
        book = book_of(snapshot)
        devices = snapshot.devices.values()
        device = next((d.address for d in devices if d.id == plugged.id), None)
        born = [a for a in recording.events if a in snapshot.objects]
        trace = tracing.explain(recording, book, born, span)
        found = sorted(trace.balances.values(), key=lambda b: self._order(b, device))
        if not self._args.all:
            found = [b for b in found if not words.of_view(book.index, b.life.object)]
        self._found = _Traced(recording, book, found, device)

    @staticmethod
    def _order(one: Balance, device: int | None) -> tuple[bool, bool, int]:
        plain = all(held.edge.kind == "child" for held in one.held) and not one.unexplained
        return one.life.object != device, plain, one.life.object
