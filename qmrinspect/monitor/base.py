"""Monitor
-------

One synchronous face of QEMU's machine protocol (QMP), whatever carries it.

:mod:`qmrinspect.monitor.qmp` implements it over the qemu.qmp package, and inside GDB,
whose Python has no package of ours, :mod:`qmrinspect.monitor.plain` over a plain socket.
What both need to connect is in :mod:`qmrinspect.monitor.connecting`.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple, Optional, Union

from ..closing import Closing
from ..errors import MonitorError

__all__ = [
    "COMMAND_TIMEOUT",
    "GREETING_TIMEOUT",
    "Arguments",
    "CommandError",
    "Event",
    "EventQueue",
    "Monitor",
    "MonitorBusy",
    "MonitorLost",
    "MonitorTimeout",
    "QueuedMonitor",
]

#: Seconds that QEMU has for its greeting; an idle QEMU needs a millisecond.
GREETING_TIMEOUT = 1.0

#: Seconds that a command may take, unless something else is said; more is a hang.
COMMAND_TIMEOUT = 10.0

#: The arguments of a command, by name.
Arguments = Optional[Mapping[str, object]]

Wanted = Union[str, tuple[str, ...], Callable[["Event"], bool]]


class CommandError(MonitorError):
    """QEMU refused a command.

    :param command: the command that was sent.
    :param error_class: QEMU's ``QapiErrorClass``, ``GenericError`` mostly.
    :param desc: QEMU's own sentence.
    """

    def __init__(self, command: str, error_class: str, desc: str) -> None:
        super().__init__(f"QEMU refused {command}: {desc}")
        self.command = command
        self.error_class = error_class
        self.desc = desc


class MonitorLost(MonitorError):
    """The connection is gone: QEMU died, or closed it, or sent nonsense."""


class MonitorBusy(MonitorError):
    """The monitor is there, and does not greet: another client holds it."""


class MonitorTimeout(MonitorError):
    """QEMU did not answer in time; the connection is still good."""


class Event(NamedTuple):
    """One asynchronous message of QEMU.

    ``timestamp_us`` is QEMU's own wall clock, in microseconds since 1970, None where that failed.
    """

    name: str
    data: Mapping[str, Any]
    timestamp_us: int | None

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Event:
        """Decode a QMP message that has the key ``event``; one without data has an empty one."""
        stamp = message.get("timestamp")
        stamp_us = None
        # QEMU sends -1 for both when its clock fails (docs/interop/qmp-spec).
        if isinstance(stamp, Mapping) and int(stamp.get("seconds", -1)) >= 0:
            stamp_us = int(stamp["seconds"]) * 1_000_000 + int(stamp.get("microseconds", 0))
        data = message.get("data")
        return cls(str(message["event"]), data if isinstance(data, Mapping) else {}, stamp_us)

    def clock(self) -> str:
        """Return the time of day here, ``12:30:00.000001``, or ``?``."""
        if self.timestamp_us is None:
            return "?"
        seconds, microseconds = divmod(self.timestamp_us, 1_000_000)
        return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{microseconds:06d}"


class EventQueue:
    """Events that nobody asked for yet, bounded; the oldest go first.

    One thread may fill it while another waits.

    :param maxlen: how many events are kept.
    """

    def __init__(self, maxlen: int = 4096) -> None:
        self._events: deque[Event] = deque(maxlen=maxlen)
        self._changed = threading.Condition()
        self._failure: MonitorError | None = None
        #: How many events were thrown away because the queue was full.
        self.dropped = 0
        #: How many events are kept.
        self.maxlen = maxlen

    def put(self, event: Event) -> None:
        """Append an event; the oldest one is dropped and counted when there is no room."""
        with self._changed:
            if len(self._events) == self._events.maxlen:
                self.dropped += 1
            self._events.append(event)
            self._changed.notify_all()

    def fail(self, error: MonitorError) -> None:
        """Tell whoever waits that no event will come any more; the first error stays."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    @property
    def failure(self) -> MonitorError | None:
        """Why no event comes any more, or None."""
        return self._failure

    def drain(self) -> list[Event]:
        """Take all events, oldest first."""
        with self._changed:
            events = list(self._events)
            self._events.clear()
            return events

    def take(self, wanted: Wanted) -> Event | None:
        """Take the oldest event that is wanted, and leave the others."""
        with self._changed:
            return self._take(_predicate(wanted))

    def wait(self, wanted: Wanted, timeout: float) -> Event | None:
        """Like :meth:`take`, and wait up to ``timeout`` seconds for it.

        :raises MonitorError: no such event is here, and none can come any more.
        """
        accept = _predicate(wanted)
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                event = self._take(accept)
                if event is not None:
                    return event
                if self._failure is not None:
                    raise self._failure
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)

    def _take(self, accept: Callable[[Event], bool]) -> Event | None:
        for index, event in enumerate(self._events):
            if accept(event):
                del self._events[index]
                return event
        return None


def _predicate(wanted: Wanted) -> Callable[[Event], bool]:
    if callable(wanted):
        return wanted
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    return lambda event: event.name in names


class Monitor(Closing, ABC):
    """A QMP session; a context manager that closes itself.

    Every method ends within the time it was given, and raises
    :class:`~qmrinspect.errors.MonitorError` when the connection is no more.
    """

    #: What the monitor was opened with, as text.
    address: str
    #: QEMU's version as it greeted, ``"7.2.22"``, None when it did not say.
    version: str | None
    #: Whether a file descriptor can go through it: a unix socket of our own.
    passes_descriptors = False
    #: Seconds that a command may take when its caller does not say.
    command_timeout = COMMAND_TIMEOUT
    #: The process that listens, None when unknown: no local socket, or another one's listener.
    peer: int | None = None

    def served_by(self, pid: int) -> bool:
        """Whether the other end of the connection is a process's, as far as the kernel says."""
        return bool(pid) and self.peer == pid

    def execute(
        self,
        command: str,
        arguments: Arguments = None,
        timeout: float | None = None,
        descriptor: int | None = None,
    ) -> object:
        """Run a command and return what QEMU returned.

        :param timeout: in seconds, None for :attr:`command_timeout`.
        :param descriptor: an open file that QEMU gets a copy of with it (``getfd``).
        :raises CommandError: QEMU refused, or no descriptor goes through this monitor.
        :raises MonitorTimeout: no answer in time; it is thrown away when it comes.
        :raises MonitorLost: QEMU died, or sent what is no QMP.
        """
        if descriptor is not None and not self.passes_descriptors:
            raise CommandError(command, "GenericError", "this monitor passes no file descriptors")
        seconds = self.command_timeout if timeout is None else timeout
        return self._exchange(command, arguments, seconds, descriptor)

    @abstractmethod
    def _exchange(
        self, command: str, arguments: Arguments, timeout: float, descriptor: int | None = None
    ) -> object:
        """Do what :meth:`execute` says; the descriptor goes with the command."""

    @abstractmethod
    def events(self) -> list[Event]:
        """Take all events that have arrived, oldest first."""

    @abstractmethod
    def wait_event(self, wanted: Wanted, timeout: float) -> Event | None:
        """Take the first event that is wanted, or None after ``timeout`` seconds.

        Other events stay for :meth:`events`.

        :param wanted: an event's name, a tuple of names, or a predicate.
        :raises MonitorLost: the connection ended before such an event came.
        """

    @property
    @abstractmethod
    def dropped(self) -> int:
        """How many events were lost because nobody took them."""

    @abstractmethod
    def close(self) -> None:
        """End the session; QEMU then serves the next client.  Never raises."""

    def hmp(self, line: str, timeout: float | None = None) -> str:
        """Run a line of the human monitor and return what it printed."""
        arguments = {"command-line": line}
        return str(self.execute("human-monitor-command", arguments, timeout=timeout))

    def qom_get(self, path: str, name: str) -> object:
        """Return a QOM property, or None where there is none of this name."""
        try:
            return self.execute("qom-get", {"path": path, "property": name})
        except CommandError:
            return None

    def run_job(self, command: str, arguments: Mapping[str, object], id: str) -> None:
        """Run a command that begins a job of an id, wait until that has ended, and dismiss it.

        :raises CommandError: QEMU refused, or the job failed.
        """

        def concluded(event: Event) -> bool:
            return event.data.get("id") == id and event.data.get("status") == "concluded"

        self.execute(command, arguments)
        self.wait_event(concluded, self.command_timeout)
        jobs = self.execute("query-jobs")
        errors = [job.get("error") for job in jobs if job["id"] == id] if type(jobs) is list else []
        self.execute("job-dismiss", {"id": id})
        if any(errors):
            raise CommandError(command, "GenericError", str(errors[0]))


class QueuedMonitor(Monitor):
    """A monitor whose events arrive in a queue, filled by another thread.

    After the queue has failed the session stays lost, with the first reason.

    :param backlog: how many events are kept until somebody takes them.
    """

    def __init__(self, backlog: int = 4096) -> None:
        self._queue = EventQueue(backlog)

    def events(self) -> list[Event]:
        events = self._queue.drain()
        if not events:
            self._check()
        return events

    def wait_event(self, wanted: Wanted, timeout: float) -> Event | None:
        return self._queue.wait(wanted, timeout)

    @property
    def dropped(self) -> int:
        return self._queue.dropped

    def _check(self) -> None:
        """Raise why the session is lost, if it is."""
        if self._queue.failure is not None:
            raise self._queue.failure
