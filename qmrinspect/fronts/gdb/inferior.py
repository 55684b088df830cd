"""The VM that runs and stops
--------------------------
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Sequence
from typing import Callable

import gdb

from ...errors import TargetError
from ...target.debugger import Signal, parse_signal
from ...target.proc import command_line, dying
from .stops import Stop
from .targets import ask, inferior_kind

__all__ = ["Inferior"]

# (SIG_IPI is SIGUSR1, coroutines use SIGUSR2) and broken connections do not.
_SIGNALS = (
    Signal("SIGINT", True, True, False),
    Signal("SIGUSR1", False, False, True),
    Signal("SIGUSR2", False, False, True),
    Signal("SIGPIPE", False, False, True),
)


class Inferior:
    """GDB's inferior, as :class:`~qmrinspect.fronts.gdb.running.Inferior`."""

    def __init__(self) -> None:
        self._turn = 0
        self._going = False
        #: How the VM died while it ran, None as long as it lives.
        self.death: str | None = None

    def interrupter(self) -> Callable[[], None]:
        turn = self._turn = self._turn + 1

        def stop() -> None:
            # Runs in GDB's own thread, as all that touches GDB; also too late, maybe.
            if self._going and self._turn == turn:
                with contextlib.suppress(gdb.error):
                    gdb.execute("interrupt", to_string=True)

        return lambda: gdb.post_event(stop)

    def go(self) -> Stop:
        if inferior_kind() == "core":
            raise TargetError("a core dump does not run", "this needs a live QEMU")
        if gdb.parameter("non-stop"):
            raise TargetError("qmr cannot let the VM run in non-stop mode", "set non-stop off")
        seen: list[gdb.ThreadEvent | gdb.ExitedEvent] = []
        pid, thread = gdb.selected_inferior().pid, gdb.selected_thread()
        gdb.events.stop.connect(seen.append)
        gdb.events.exited.connect(seen.append)
        said: list[str] = []
        try:
            with _signals(), _unlocked(), _unsaid(said):
                self._going = True
                try:
                    gdb.execute("continue", to_string=True)
                except gdb.error as error:
                    if inferior_kind() == "native" and dying(pid):
                        self.death = Stop("exit").sentence()
                        return Stop("exit")
                    raise TargetError(f"GDB cannot let the VM run: {error}") from None
                except KeyboardInterrupt:
                    seen.clear()
                finally:
                    self._going = False
                stop = _classify(seen)
                if stop.asked:
                    # Where the user lets SIGINT pass it would end QEMU as soon as that runs.
                    ask("queue-signal 0")
        finally:
            gdb.events.stop.disconnect(seen.append)
            gdb.events.exited.disconnect(seen.append)
        if not stop.asked:
            gdb.write("".join(said))
        if stop.fatal:
            self.death = stop.sentence()
        elif thread is not None and thread.is_valid():
            thread.switch()
        return stop


def _classify(events: Sequence[gdb.ThreadEvent | gdb.ExitedEvent]) -> Stop:
    for event in events:
        if isinstance(event, gdb.ExitedEvent):
            code = getattr(event, "exit_code", None)
            return Stop("exit", "by a signal" if code is None else f"exit status {code}")
    if not events:
        return Stop("signal", "SIGINT")
    event = events[-1]
    if isinstance(event, gdb.BreakpointEvent):
        numbers = " and ".join(str(b.number) for b in event.breakpoints)
        return Stop("breakpoint", f"breakpoint {numbers}")
    if isinstance(event, gdb.SignalEvent):
        try:
            where = gdb.newest_frame().name()
        except gdb.error:
            where = None
        return Stop("signal", str(event.stop_signal), where)
    return Stop("breakpoint", "an event of GDB")


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Handle signals as qmr needs them, and as before afterwards."""
    changed = []
    for wanted in _SIGNALS:
        now = parse_signal(ask(f"info signals {wanted.name}"), wanted.name)
        if now is not None and now != wanted:
            changed.append(now)
            _handle(wanted)
    try:
        yield
    finally:
        for before in changed:
            _handle(before)


def _handle(wanted: Signal) -> None:
    # GDB asks back for signals that it uses itself, and stumbles over a process that died.
    with contextlib.suppress(TargetError):
        ask(f"with confirm off -- {wanted.command()}")


@contextlib.contextmanager
def _unsaid(said: list[str]) -> Iterator[None]:
    """Keep back what GDB prints of a stop, which no setting and no redirection does."""
    if any(word.startswith(("-i", "--i")) and "mi" in word for word in _command_line()):
        yield  # a front end reads what GDB says
        return
    libc = ctypes.CDLL(None)
    gdb.flush()
    libc.fflush(None)
    out = os.dup(1)
    try:
        with open(os.memfd_create("qmr"), "w+b") as kept:
            os.dup2(kept.fileno(), 1)
            try:
                yield
            finally:
                gdb.flush()
                libc.fflush(None)
                os.dup2(out, 1)
            kept.seek(0)
            said.append(kept.read().decode("utf-8", "backslashreplace"))
    finally:
        os.close(out)


def _command_line() -> Sequence[str]:
    return command_line("self")


@contextlib.contextmanager
def _unlocked() -> Iterator[None]:
    """Let all threads run, also where the scheduler is locked to one."""
    before = gdb.parameter("scheduler-locking")
    if before not in ("on", "step"):
        yield
        return
    ask("set scheduler-locking off")
    try:
        yield
    finally:
        with contextlib.suppress(TargetError):
            ask(f"set scheduler-locking {before}")
