"""Recording
---------

Keeps every change of a count, and the stacks of those that matter, while the VM runs.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Callable, NamedTuple

from ..errors import TargetError
from ..layout import Layout
from ..stacks.arch import Arch, arch_of
from ..stacks.code import Code
from ..target.image import Target
from .perf import Probe, Sample, Tracer
from .refusal import TooManyProbes
from .sites import Site, new_sites, sites_of

__all__ = ["Event", "OnEvents", "Recorder", "Recording"]

# A sample is in its ring when so much time has gone by since it was taken.
_SETTLED_NS = 3_000_000
_POLL_MS = 20
# How long, and how many bytes, what came out of the rings may wait to be read.
_UNREAD_NS, _UNREAD_MAX = 100_000_000, 128 << 20
_NICE = -10
# Breakpoints that watch data: x86-64 and arm64 have four.
_COUNTS_MAX = 4
# What all stacks together may take; later ones are not kept, which is reported.
_STACKS_MAX = 512 << 20


class Event(NamedTuple):
    """One change of an object's count.

    :param time: CLOCK_MONOTONIC, nanoseconds.
    :param by: what was added: 1, -1; None for a write that is known only by what it hit.
    :param old: the count before, None when the processor did not say.
    :param registers: empty, and ``stack`` too, where the stack was not kept.
    """

    time: int
    tid: int
    object: int
    by: int | None
    old: int | None
    registers: tuple[int, ...]
    stack: bytes

    @property
    def takes(self) -> bool:
        """Whether it took a reference."""
        return self.by is not None and self.by > 0

    @property
    def drops(self) -> bool:
        """Whether it dropped one."""
        return self.by is not None and self.by < 0

    @property
    def left(self) -> int | None:
        """The count after it, None when that is not known."""
        return None if self.old is None or self.by is None else self.old + self.by


#: Is given events as they come.
OnEvents = Callable[[list[Event]], None]


class Recording(NamedTuple):
    """What was recorded.

    :param events: by object, in order of time: of those that were asked for, or of those
        that were born meanwhile and live.
    :param older: other objects whose count changed, which were born before.
    :param lost: events that the kernel could not deliver.
    :param lost_counted: whether the kernel counts all of them.
    :param method: ``execution``, ``write`` or ``uprobe``: what was watched.
    :param unwatched: instructions that may change a count and were not watched.
    :param begin: when it began, and ``end``, as :attr:`Event.time`.
    :param seen: how many events came, of whatever object.
    """

    sites: Sequence[Site]
    events: Mapping[int, Sequence[Event]]
    older: Collection[int]
    lost: int
    lost_counted: bool
    method: str
    unwatched: Sequence[Site]
    begin: int
    end: int
    seen: int


class Recorder:
    """Records from :meth:`start` to :meth:`stop`; a thread of its own reads the rings.

    :param target: the process; it is only looked at.
    :param layout: of its structures.
    :param only: the objects to follow; all that are born while it records by default.
    :param on_events: is given the events of ``only`` as they come, in order.
    """

    def __init__(
        self,
        target: Target,
        layout: Layout,
        only: Collection[int] = (),
        on_events: OnEvents | None = None,
    ) -> None:
        self.arch: Arch = arch_of(target.elf())
        self.code = Code(target)
        self.target = target
        self.layout = layout
        self._offset, self._size = layout.structs["Object"].fields["ref"]
        self._registers = list(self.arch.sampled.values())
        self._flags = self._registers.index(self.arch.flags)
        self._only = frozenset(only)
        self._on_events = on_events
        self.sites: Sequence[Site] = ()
        self._watched: Sequence[Site] = ()
        self._tracer: Tracer | None = None
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._failed: BaseException | None = None
        self._method: str | None = None
        self._behind: dict[int, Site] = {}
        self._forget()

    def _forget(self) -> None:
        self._pending: list[Sample] = []
        self._events: dict[int, list[Event]] = {address: [] for address in self._only}
        self._older: set[int] = set()
        self._dead: set[int] = set()
        self._kept = self._seen = 0
        self._begin = 0

    def start(self) -> None:
        """Begin.

        :raises TargetError: the kernel refuses, or no instruction changes a count.
        """
        self._forget()
        self.sites = sites_of(self.code, self._offset, self._size)
        self._tracer = self._open()
        self._begin = time.monotonic_ns()
        self._ending.clear()
        self._failed = None
        self._thread = threading.Thread(target=self._read, name="qmr-trace", daemon=True)
        self._thread.start()

    def _open(self) -> Tracer:
        """Watch as many of the instructions as there are breakpoints, the surest first.

        What merely looks like a change of a count is not watched where others surely are:
        it may be a busy counter of something else.
        """
        least = sum(not site.write.doubt for site in self.sites)
        wanted = [site for site in self.sites if not least or site.write.doubt < 2]
        for count in range(len(wanted), (least or len(wanted)) - 1, -1):
            with contextlib.suppress(TooManyProbes):
                return self._watch("execution", wanted[:count], _code_probes(wanted[:count]))
        if 0 < len(self._only) <= _COUNTS_MAX:
            # Whatever writes to the counts of so few objects can be watched instead.
            probes = [Probe(address + self._offset, write=True) for address in sorted(self._only)]
            with contextlib.suppress(TooManyProbes):
                return self._watch("write", wanted, probes)
        try:
            return self._watch("uprobe", wanted, _file_probes(wanted))
        except TargetError:
            raise TooManyProbes(
                f"{least or len(wanted)} places change counts, and the processor has fewer "
                "breakpoints left for them",
                "end the debugger or the other trace that has them, or run qmr as root, which may "
                "put probes into the code",
            ) from None

    def _watch(self, method: str, sites: Sequence[Site], probes: Sequence[Probe]) -> Tracer:
        tracer = Tracer(self.target.pid, self.arch, probes)
        self._watched, self._method = sites, method
        self._behind = {site.behind: site for site in sites}
        return tracer

    def stop(self) -> Recording:
        """End, and return what was recorded.

        :raises TargetError: the reading of the rings failed.
        """
        assert self._tracer is not None and self._thread is not None and self._method is not None
        self._ending.set()
        self._thread.join()
        end = time.monotonic_ns()
        try:
            lost = self._tracer.lost()
            counted = self._tracer.counts_lost
        finally:
            self._tracer.close()
            self._tracer = None
        if self._failed is not None:
            raise self._failed
        later = new_sites(self.code, self._offset, self._size)
        unwatched = [*self.sites[len(self._watched) :], *later]
        for events in self._events.values():
            events.sort(key=lambda event: event.time)
        return Recording(
            self._watched,
            self._events,
            self._older,
            lost,
            counted,
            self._method,
            unwatched,
            self._begin,
            end,
            self._seen,
        )

    def close(self) -> None:
        """Take the breakpoints away, whatever the state; harmless when repeated."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        if self._tracer is not None:
            self._tracer.close()
            self._tracer = None

    # The thread ------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            self._failed = error

    def _loop(self) -> None:
        with contextlib.suppress(OSError):
            # Who comes late to a full ring loses events; only root may be early.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        assert self._tracer is not None
        poll = select.poll()
        for fd in self._tracer.descriptors:
            poll.register(fd, select.POLLIN)
        raw: list[bytes] = []
        read_at = time.monotonic_ns()
        while True:
            last = self._ending.is_set()
            now = time.monotonic_ns()
            drained = self._tracer.drain()
            raw += drained
            # While events come thick and fast the rings go before everything else.
            if drained and (last or now - read_at < _UNREAD_NS) and _size(raw) < _UNREAD_MAX:
                poll.poll(1)
                continue
            for data in raw:
                self._pending.extend(self._tracer.samples(data))
            raw.clear()
            read_at = time.monotonic_ns()
            self._take(read_at if last and not drained else now - _SETTLED_NS)
            if last and not drained:
                return
            if not drained:
                self._tracer.follow()
                poll.poll(_POLL_MS)

    def _take(self, until: int) -> None:
        """Take the samples up to an instant, in order: no ring has earlier ones any more."""
        if not self._pending:
            return
        self._pending.sort(key=lambda sample: sample.time)
        count = len(self._pending)
        while count and self._pending[count - 1].time > until:
            count -= 1
        fresh = [event for s in self._pending[:count] if (event := self._event(s)) is not None]
        del self._pending[:count]
        self._seen += len(fresh)
        for event in fresh:
            self._add(event)
        if self._on_events is not None and fresh:
            wanted = [event for event in fresh if event.object in self._only]
            if wanted:
                self._on_events(wanted)

    def _event(self, sample: Sample) -> Event | None:
        registers = dict(zip(self._registers, sample.registers))
        site: Site | None = None
        after = True
        if self._method == "write":
            address = sorted(self._only)[sample.probe]
            site = self._behind.get(sample.ip)
        else:
            site = self._watched[sample.probe]
            after = site.watch == site.behind
            address = site.write.count_at(registers) - self._offset
        zero = bool(registers[self.arch.flags] & self.arch.zero)
        by = old = None
        if site is not None:
            change = site.write.change(registers, zero, after)
            if change is None:
                return None
            by, old = change
        return Event(sample.time, sample.tid, address, by, old, sample.registers, sample.stack)

    def _add(self, event: Event) -> None:
        if self._only:
            if event.object in self._only and event.object not in self._dead:
                self._events[event.object].append(self._bounded(event))
                if event.by and event.left == 0:
                    self._dead.add(event.object)  # what comes is of the memory's next use
            return
        if event.old == 0 and event.takes:
            # The object that had this place before is no more.
            self._forget_object(event.object)
            self._older.discard(event.object)
            self._events[event.object] = []
        known = self._events.get(event.object)
        if known is None:
            self._older.add(event.object)
            return
        known.append(self._bounded(event))
        if event.left == 0:
            self._forget_object(event.object)

    def _forget_object(self, address: int) -> None:
        self._kept -= sum(len(event.stack) for event in self._events.pop(address, ()))

    def _bounded(self, event: Event) -> Event:
        if self._kept > _STACKS_MAX:
            return event._replace(registers=(), stack=b"")
        self._kept += len(event.stack)
        return event


def _code_probes(sites: Sequence[Site]) -> list[Probe]:
    return [Probe(site.watch) for site in sites]


def _file_probes(sites: Sequence[Site]) -> list[Probe]:
    out = []
    for site in sites:
        offset = site.module.frames.offset(site.write.watch)
        if offset is not None:
            out.append(Probe(site.watch, file=site.module.path, offset=offset))
    return out


def _size(chunks: list[bytes]) -> int:
    return sum(map(len, chunks))
