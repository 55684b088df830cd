"""Events of a session
-------------------

Everything that QEMU announces goes through here: it is kept for ``events``, shown
above the prompt unless it is filtered out, and handed to whoever waits for it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Callable

from ..errors import MonitorError
from ..monitor.base import Arguments, Event, EventQueue, Monitor, Wanted
from .jobs import check_cancelled, current

__all__ = ["EventLog", "SharedMonitor", "looks", "run_state"]

_KEPT = 10_000
_POLL_S = 0.5
# A command that was cancelled must not wait for an event any longer than this.
_WAIT_S = 0.1

# How events stand out; the others are dim.
_LOOKS = {
    "DEVICE_DELETED": "good",
    "DEVICE_UNPLUG_GUEST_ERROR": "error",
    "MEM_UNPLUG_ERROR": "error",
    "ACPI_DEVICE_OST": "note",
    "GUEST_PANICKED": "error",
    "GUEST_CRASHLOADED": "error",
    "MEMORY_FAILURE": "error",
    "BLOCK_IO_ERROR": "error",
    "WATCHDOG": "warning",
    "SHUTDOWN": "warning",
    "POWERDOWN": "warning",
    "RESET": "warning",
}

_RUN_STATES = {
    "STOP": "paused",
    "RESUME": "running",
    "SHUTDOWN": "shutdown",
    "SUSPEND": "suspended",
    "WAKEUP": "running",
    "GUEST_PANICKED": "guest-panicked",
}


def looks(event: Event) -> str:
    """Return how an event is shown: a look of :func:`~qmrinspect.report.render.paint`."""
    return _LOOKS.get(event.name, "dim")


def run_state(event: Event) -> str | None:
    """Return the run state that an event tells of, None when it tells of none."""
    return _RUN_STATES.get(event.name)


class EventLog:
    """The last events, and which of them are shown as they come."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        self.total = 0
        #: Patterns of names; an event is shown when one of them fits.
        self.shown: tuple[str, ...] = ("*",)
        #: Patterns of names that are not shown all the same.
        self.hidden: tuple[str, ...] = ()

    def put(self, event: Event) -> None:
        """Keep an event."""
        with self._lock:
            self.total += 1
            self._events.append(event)

    def last(self, count: int, patterns: Sequence[str] = ()) -> list[Event]:
        """Return the last events whose names fit one of the patterns, oldest first."""
        with self._lock:
            events = list(self._events)
        found = [event for event in events if not patterns or _fits(event.name, patterns)]
        return found[len(found) - count if len(found) > count else 0 :]

    def is_shown(self, event: Event) -> bool:
        """Whether an event is shown above the prompt."""
        return _fits(event.name, self.shown) and not _fits(event.name, self.hidden)


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern.upper()) for pattern in patterns)


class SharedMonitor(Monitor):
    """A monitor of which the session sees every event, also those that a verb waits for.

    :param inner: the connection; it is closed with this one.
    :param on_event: called for every event, by a thread of the monitor.
    :param on_lost: called once when the connection ends by itself.
    """

    def __init__(
        self,
        inner: Monitor,
        on_event: Callable[[Event], None],
        on_lost: Callable[[MonitorError], None],
    ) -> None:
        self._inner = inner
        self.address = inner.address
        self.version = inner.version
        self.passes_descriptors = inner.passes_descriptors
        self._queue = EventQueue()
        self._on_event = on_event
        self._on_lost = on_lost
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._pump, name="events", daemon=True)
        self._thread.start()

    def _pump(self) -> None:
        while not self._closed.is_set():
            try:
                event = self._inner.wait_event(lambda event: True, _POLL_S)
            except MonitorError as error:
                self._queue.fail(error)
                if not self._closed.is_set():
                    self._on_lost(error)
                return
            if event is not None:
                self._queue.put(event)
                self._on_event(event)

    def _exchange(
        self, command: str, arguments: Arguments, timeout: float, descriptor: int | None = None
    ) -> object:
        check_cancelled()
        return self._inner._exchange(command, arguments, timeout, descriptor)

    def events(self) -> list[Event]:
        return self._queue.drain()

    def wait_event(self, wanted: Wanted, timeout: float) -> Event | None:
        job = current()
        if job is None:
            return self._queue.wait(wanted, timeout)
        left = timeout
        while True:
            job.check()
            event = self._queue.wait(wanted, min(left, _WAIT_S))
            left -= _WAIT_S
            if event is not None or left <= 0:
                return event

    @property
    def dropped(self) -> int:
        return self._queue.dropped

    def close(self) -> None:
        self._closed.set()
        self._inner.close()
