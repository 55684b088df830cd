"""Where a hunt takes place
------------------------

On a QEMU that qmr starts for it, and starts again after a crash, or on one that
runs already.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Callable, TypeVar

from ..hotplug.recipes import Recipe, vm_arguments
from ..hotplug.vm import Vm
from ..layout import Layout
from ..monitor.base import Monitor
from ..monitor.recording import RecordingMonitor
from ..reading import Reader
from ..snapshot import Snapshot
from ..target.process import Process

__all__ = ["Attached", "OwnVm"]

T = TypeVar("T")

# Seconds that a QEMU which has closed its monitor takes to be gone.
_DYING_S = 2.0
_DYING_POLL_S = 0.01


def ended(pid: int, timeout: float) -> bool:
    """Wait until a process has ended, for ``timeout`` seconds at most; say whether it has."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                if stat.read().rpartition(b")")[2].split()[0] in (b"Z", b"X"):
                    return True
        except OSError:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_DYING_POLL_S)


class Attached:
    """A QEMU that runs already; it is never restarted.

    :param read: takes a reading.
    :param monitor: of that QEMU.
    """

    def __init__(self, read: Callable[[], Snapshot], monitor: Monitor) -> None:
        self._read = read
        self._monitor = monitor
        self._pid = 0

    def read(self) -> Snapshot:
        """Take a reading."""
        snapshot = self._read()
        self._pid = snapshot.target.pid
        return snapshot

    def drive(self, step: Callable[[Monitor], T]) -> T:
        """Run ``step``; the VM runs anyway."""
        return step(self._monitor)

    def death(self) -> str:
        """Say whether the process has ended; how is for its parent to know."""
        return f"QEMU {self._pid} has ended" if self._pid and ended(self._pid, _DYING_S) else ""


class OwnVm:
    """A QEMU of our own, started when it is needed and again after it died.

    :param recipes: what will be plugged; they say what the VM needs.
    :param extra: more arguments for QEMU.
    :param accel: QEMU's accelerator.
    :param ready: waits for the guest of a VM that has one, and makes the VM run.
    :param layout: what fitted an earlier VM of this QEMU; it is tried first.
    """

    def __init__(
        self,
        recipes: Iterable[Recipe],
        qemu: str = "qemu-system-x86_64",
        machine: str = "pc",
        extra: Sequence[str] = (),
        accel: str = "tcg",
        ready: Callable[[Vm], None] | None = None,
        layout: Layout | None = None,
    ) -> None:
        self._qemu, self._machine, self._accel, self._ready = qemu, machine, accel, ready
        self._extra = [*vm_arguments(recipes, machine), *extra]
        #: What fitted.
        self.layout = layout
        self._start()

    def _start(self) -> None:
        stopped = self._ready is None
        self.vm = Vm(self._qemu, self._machine, self._accel, self._extra, stopped)
        try:
            if self._ready is not None:
                self._ready(self.vm)
            self.monitor = self.vm.monitor(RecordingMonitor)
            self._process = Process(self.vm.pid)
        except BaseException:
            self.vm.kill()
            raise
        self._reader = Reader(self._process, [self.layout] if self.layout else [])

    @property
    def transcript(self) -> list[dict[str, object]]:
        """What went over the monitor since :meth:`forget`."""
        assert isinstance(self.monitor, RecordingMonitor)
        return self.monitor.transcript

    def forget(self) -> None:
        """Begin the transcript anew."""
        assert isinstance(self.monitor, RecordingMonitor)
        self.monitor.forget()

    def renew(self) -> None:
        """Start the VM again: it has died, or something leaked in it.

        A leaked device keeps the name of its RAM block, and QEMU aborts when the
        next one in the same slot asks for it.
        """
        self.close()
        self._start()

    def read(self) -> Snapshot:
        """Take a reading."""
        snapshot = self._reader.read()
        self.layout = self._reader.layout
        return snapshot

    def drive(self, step: Callable[[Monitor], T]) -> T:
        """Run ``step``; the VM runs anyway."""
        return step(self.monitor)

    def death(self) -> str:
        """Return how QEMU died: signal and last message; empty while it lives."""
        self.vm.wait(_DYING_S)
        return self.vm.exit_text()

    def close(self) -> None:
        """End the VM."""
        self.monitor.close()
        self._process.close()
        self.vm.kill()

    def __enter__(self) -> OwnVm:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
