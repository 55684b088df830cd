"""Letting a stopped program run
-----------------------------

Inside a debugger the VM stands still, and its monitor with it.  To drive the
monitor the VM is let run for as long as the work takes, and stopped again.  The
work is done by a thread, since the debugger's own thread has to wait for the VM;
that thread never touches the debugger.
"""

from __future__ import annotations

import signal
import threading
from typing import Callable, Generic, Protocol, TypeVar

from ...errors import QmrError
from ...monitor.base import Arguments, Event, Monitor, MonitorLost, Wanted
from .stops import Stop

__all__ = ["Inferior", "Interrupted", "RunningMonitor", "run_while"]

T = TypeVar("T")


class Interrupted(QmrError):
    """The VM stopped for something else before the work was done."""


class Inferior(Protocol):
    """What the debugger can do with the VM."""

    def interrupter(self) -> Callable[[], None]:
        """Return what ends the next :meth:`go`.

        It may be called by any thread, and has no effect on any other run.
        """

    def go(self) -> Stop:
        """Let the VM run until it stops; called by the debugger's thread."""


class _Work(Generic[T]):
    def __init__(self, work: Callable[[], T], finished: Callable[[], None]) -> None:
        self._work = work
        self._finished = finished
        self.done = threading.Event()
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()
            self._finished()

    def outcome(self) -> T:
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


def run_while(inferior: Inferior, work: Callable[[], T]) -> T:
    """Let the VM run for as long as ``work`` takes, and return what that returned.

    :param work: is run by another thread; it must not touch the debugger.
    :raises MonitorLost: QEMU ended or crashed meanwhile; the text says how.
    :raises Interrupted: the VM stopped for something else, a breakpoint say.
    """
    job = _Work(work, inferior.interrupter())
    thread = threading.Thread(target=job.run, name="qmr", daemon=True)
    # Signals are for the debugger's own thread; a thread inherits what is blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    stop = inferior.go()
    if job.done.is_set() and not stop.fatal:
        if not stop.asked:
            raise Interrupted(stop.sentence(), "its work is done all the same; look, and go on")
        return job.outcome()
    if stop.fatal:
        # QEMU may well have answered before it died; the death counts.
        raise MonitorLost(stop.sentence())
    if stop.asked:
        raise Interrupted("interrupted", "the monitor may still be at the last command")
    raise Interrupted(
        f"{stop.sentence()} while qmr let it run",
        "disable that stop (GDB: disable, delete, handle SIGNAL nostop) and try again",
    )


class RunningMonitor(Monitor):
    """A monitor whose every call lets the VM run and stops it again.

    :param inferior: the VM.
    :param open_inner: opens the real monitor; is called while the VM runs.
    """

    def __init__(self, inferior: Inferior, open_inner: Callable[[], Monitor]) -> None:
        self._inferior = inferior
        self._failure: QmrError | None = None
        self._inner = run_while(inferior, open_inner)
        self.address = self._inner.address
        self.version = self._inner.version
        self.passes_descriptors = self._inner.passes_descriptors

    def drive(self, step: Callable[[Monitor], T]) -> T:
        """Run a step of several commands without a stop between them."""
        if self._failure is not None:
            raise self._failure
        try:
            return run_while(self._inferior, lambda: step(self._inner))
        except (Interrupted, MonitorLost) as error:
            # The thread may still be at it: nobody else may use that connection.
            self._failure = error
            raise

    def _exchange(
        self, command: str, arguments: Arguments, timeout: float, descriptor: int | None = None
    ) -> object:
        return self.drive(
            lambda monitor: monitor._exchange(command, arguments, timeout, descriptor)
        )

    def events(self) -> list[Event]:
        return self.drive(lambda monitor: monitor.events())

    def wait_event(self, wanted: Wanted, timeout: float) -> Event | None:
        return self.drive(lambda monitor: monitor.wait_event(wanted, timeout))

    @property
    def dropped(self) -> int:
        return self._inner.dropped

    def close(self) -> None:
        self._inner.close()
