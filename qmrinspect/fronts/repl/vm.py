"""What a REPL is attached to
--------------------------

A VM, or a core, or a file: its memory, its monitor, and the last reading, which stays
when the VM has gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional

from ...errors import MonitorError, TargetError
from ...index import Index
from ...layout import Layout
from ...monitor.base import Event, Monitor, MonitorLost
from ...snapshot import Pointer, Snapshot
from ...target.image import Capture, Image, Peek, Ranges, Target
from ...target.instant import Choose, Frozen
from ...target.process import Process
from ...text import printable
from ..events import EventLog, SharedMonitor, run_state
from ..jobs import check_cancelled
from ..options import Options
from ..session import ShellSession

if TYPE_CHECKING:
    from ...audit.check import Report
    from ...hunt.driver import Driver
    from ...search.named import Named
    from ...search.place import Place
    from ...trace.recorder import OnEvents
    from ...trace.tracing import Tracing

__all__ = ["Notify", "Summary", "Vm"]

#: How a session tells what nobody asked for: a text and a look of ``render.paint``.
Notify = Callable[[str, Optional[str]], None]

# A QEMU that ends closes its monitor a little before it is gone.
_DYING_S = 0.5
_POLL_MS = 500


class Summary(NamedTuple):
    """The last reading in numbers, for the status bar.

    :param unexplained: objects whose count is not what is expected.
    :param stop_us: how long the VM stood for it, in microseconds.
    :param leaked: objects outside the tree that should have been finalized.
    :param errors: findings that are errors.
    """

    policy: str
    objects: int
    unexplained: int
    stop_us: int
    leaked: int = 0
    errors: int = 0


class _LiveProcess(Process):
    """A process that is read by one command at a time, and not for one that was given up."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self._one = threading.Lock()

    def capture_all(
        self, choose: Choose, quiet: Callable[[Peek], bool] | None = None
    ) -> tuple[Image, Capture]:
        check_cancelled()
        with self._one:
            taken = super().capture_all(choose, quiet)
        check_cancelled()
        return taken

    def freeze(self, ranges: Ranges, quiet: Callable[[Peek], bool] | None = None) -> Frozen:
        check_cancelled()
        with self._one:
            frozen = super().freeze(ranges, quiet)
        check_cancelled()
        return frozen


class _Shell(ShellSession):
    """The command line's session, with what a REPL needs of it."""

    # The user has to know within a second that somebody else holds the monitor.
    _patience = 0.7

    def _process(self, pid: int) -> Target:
        return _LiveProcess(pid)


class Vm:
    """One VM that the session is attached to, or a core or a file in its place.

    :param options: which one, as on the command line.
    :param notify: tells what happens to it.
    :param changed: called when the status bar has something new to show.
    :param event: called for each event, by a thread of the monitor.
    """

    def __init__(
        self,
        options: Options,
        notify: Notify,
        changed: Callable[[], None],
        event: Callable[[Vm, Event], None],
    ) -> None:
        self._notify, self._changed, self._tell = notify, changed, event
        self._shell = _Shell(options, "repl")
        self._file = options.get("--snapshot")
        self._monitor: SharedMonitor | None = None
        self._reading = threading.RLock()
        self._connecting = threading.Lock()
        self._closed = threading.Event()
        self._gone = threading.Event()
        self._heard = False
        self.log = EventLog()
        #: The last reading, and what it amounts to.
        self.last: Snapshot | None = None
        self.last_index: Index | None = None
        self.summary: Summary | None = None
        self._summed: Snapshot | None = None
        #: How the VM ended, None while it runs.
        self.ended: str | None = None
        #: QEMU's run state, None when it is not known.
        self.state: str | None = None
        #: Why there is no monitor, None when there is one.
        self.monitor_missing: str | None = None
        self.pid: int | None = None
        if self._file:
            self.name = printable(os.path.basename(self._file))
            self.state = "file"
            return
        target = self._shell.target()
        self.pid = target.pid or None
        self.name = _name(target, options)
        self.state = None if target.kind == "process" else target.kind
        if target.kind == "process":
            threading.Thread(target=self._watch_process, name="watch", daemon=True).start()

    # Reading.

    @property
    def live(self) -> bool:
        """Whether there is a process that may still change."""
        core = self.state is not None and self.state.startswith("core")
        return self.pid is not None and not core and self.ended is None

    def target(self) -> Target:
        """Return what is read; see :meth:`ShellSession.target`."""
        return self._shell.target()

    def snapshot(self) -> Snapshot:
        """Take a reading; of a VM that has gone, return the last one.

        :raises TargetError: it has gone, and there is none.
        """
        check_cancelled()
        if self.ended:
            return self._kept()
        with self._reading:
            check_cancelled()
            return self._keep(self._shell.snapshot())

    def report(self) -> Report:
        """Audit a reading, or the last one of a VM that has gone."""
        check_cancelled()
        if self.ended:
            from ...audit.check import check

            return check(self._kept())
        with self._reading:
            report = self._shell.report()
            self._keep(report.book.index.snapshot)
            self._sum(report)
            return report

    @property
    def layout_file(self) -> str | None:
        """The user's own layout (``--layout``), None for none."""
        return self._shell.layout_file

    def layout(self) -> Layout | None:
        """Return the layout of the last reading, None when a saved snapshot was read."""
        return self._shell.layout()

    def pointers(self, snapshot: Snapshot, targets: Collection[int]) -> Sequence[Pointer]:
        """Search the memory of the last reading; see :meth:`ShellSession.pointers`."""
        try:
            return self._shell.pointers(snapshot, targets)
        except TargetError:
            return ()

    def place(self, snapshot: Snapshot, address: int) -> Place:
        """See :meth:`ShellSession.place`."""
        return self._shell.place(snapshot, address)

    def named(
        self, snapshot: Snapshot, name: str | None, address: int | None
    ) -> tuple[Sequence[Named], str | None]:
        """See :meth:`ShellSession.named`."""
        return self._shell.named(snapshot, name, address)

    def _kept(self) -> Snapshot:
        if self.last is None:
            raise TargetError(
                f"{self.name} has ended, and there is no reading of it",
                "ps lists what runs; attach one of them",
            )
        self._notify(f"{self.name} has ended: this is its last reading", "note")
        return self.last

    def _keep(self, snapshot: Snapshot) -> Snapshot:
        check_cancelled()
        self.last, self.last_index = snapshot, Index(snapshot)
        return snapshot

    def settle(self) -> None:
        """Sum the last reading up for the status bar, when that has not been done."""
        snapshot = self.last
        if snapshot is not None and snapshot is not self._summed:
            from ...audit.check import check

            self._sum(check(snapshot))

    def _sum(self, report: Report) -> None:
        from ...audit.check import each_once
        from ...audit.graph import orphan_groups

        book = report.book
        self._summed = book.index.snapshot
        left = sum(max(0, book.residual(address)) for address in book.index.snapshot.objects)
        stop_us = book.index.snapshot.capture.stop_us
        errors = sum(finding.severity == "error" for finding, _ in each_once(report))
        leaked = {
            member
            for group in (orphan_groups(book) if errors else ())
            if not group.delayed
            for member in group.members
        }
        self.summary = Summary(book.policy.name, report.objects, left, stop_us, len(leaked), errors)
        self._changed()

    def peek(self, address: int) -> tuple[int, int] | None:
        """Return an object's class pointer and its reference count as they are now.

        Two words are read, and the VM runs meanwhile; None when they cannot be.

        :param address: of an ``Object`` of the last reading.
        :raises TargetError: nothing runs whose counts could change.
        """
        layout, target = self._shell.reader().layout, self.target()
        if target.kind != "process" or self.ended or layout is None:
            raise TargetError(f"{self.name} does not run", "its counts do not change any more")
        words = []
        for field in ("class", "ref"):
            offset, size = layout.structs["Object"].fields[field]
            data = target.peek(address + offset, size)
            if data is None:
                return None
            words.append(int.from_bytes(data, "little"))
        return words[0], words[1]

    # The monitor.

    def connected(self) -> SharedMonitor | None:
        """Return the monitor if it is connected; connects nothing, and waits for nothing."""
        return self._monitor

    def monitor(self) -> Monitor:
        """Return the monitor, connected.

        :raises MonitorError: there is none, another client holds it, or the VM has gone.
        """
        check_cancelled()
        with self._connecting:
            if self.ended:
                raise MonitorLost(f"{self.name} has ended: {self.ended}", "attach another VM")
            if self._monitor is None:
                if self._file:
                    self._shell.target()  # says that a file has no monitor
                try:
                    inner = self._shell.monitor()
                except MonitorError as error:
                    self.monitor_missing = error.text
                    self._changed()
                    raise
                self._monitor = SharedMonitor(inner, self._on_event, self._on_lost)
                self.monitor_missing = None
                self._heard = True
                self._ask_state(self._monitor)
            return self._monitor

    def _ask_state(self, monitor: Monitor) -> None:
        with contextlib.suppress(MonitorError):
            answer = monitor.execute("query-status")
            if isinstance(answer, dict):
                self.state = str(answer.get("status", ""))
        self._changed()

    def driver(self) -> Driver:
        """Return what a hunt reads and drives it with."""
        from ...hunt.attached import Attached

        self.target()
        return Attached(
            self.snapshot, self.monitor(), self._shell.stale, self.tracing, self._shell.blocks
        )

    def tracing(self, only: Collection[int] = (), on_events: OnEvents | None = None) -> Tracing:
        """Return what traces it."""
        return self._shell.tracing(only, on_events)

    def _on_event(self, event: Event) -> None:
        self.log.put(event)
        state = run_state(event)
        if state and state != self.state:
            self.state = state
            self._changed()
        self._tell(self, event)

    def _on_lost(self, error: MonitorError) -> None:
        monitor, self._monitor = self._monitor, None
        self._shell.drop_monitor()
        self.monitor_missing = error.text
        if monitor is not None and not self._gone.wait(_DYING_S) and not self._closed.is_set():
            self._notify(f"{error.text}; qmr reads memory only", "warning")
            self._changed()

    def _watch_process(self) -> None:
        assert self.pid is not None
        try:
            handle = os.pidfd_open(self.pid)
        except OSError:
            return
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            while not self._closed.is_set():
                if poll.poll(_POLL_MS):
                    self._on_ended()
                    return
        finally:
            os.close(handle)

    def _on_ended(self) -> None:
        # The last events may still be on their way.
        deadline = time.monotonic() + _DYING_S
        while self._monitor is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._closed.is_set():
            return
        said = self.log.last(1, ["SHUTDOWN"])
        if said:
            self.ended = f"it shut down ({printable(str(said[0].data.get('reason', 'unknown')))})"
            look = "warning"
        elif self._heard:
            self.ended = "it crashed or was killed: no SHUTDOWN was announced"
            look = "error"
        else:
            self.ended = "its process is gone"
            look = "error"
        self._gone.set()
        self.state = "ended"
        kept = "its last reading and the marks stay usable" if self.last else "no reading was taken"
        self._notify(f"{self.name} (pid {self.pid}) has ended: {self.ended}; {kept}", look)
        self._changed()

    def close(self) -> None:
        """Release it; harmless when repeated."""
        self._closed.set()
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.close()
        self._shell.close()


def _name(target: Target, options: Options) -> str:
    from ...monitor.processes import running

    if target.kind != "process":
        return printable(os.path.basename(options.get("--core") or options.get("--remote") or "?"))
    return next((p.name for p in running() if p.pid == target.pid), str(target.pid))
