"""Where a hunt takes place
------------------------

On a QEMU that qmr starts for it, and starts again after a crash, or on one that
runs already.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Callable, TypeVar

from ..hotplug.monitor import Monitor
from ..hotplug.recipes import Recipe, vm_arguments
from ..hotplug.vm import Vm
from ..reading import Reader
from ..snapshot import Snapshot
from ..target.process import Process

__all__ = ["Attached", "OwnVm"]

T = TypeVar("T")

# Seconds that a QEMU which has closed its monitor takes to be gone.
_DYING_S = 2.0


class Attached:
    """A QEMU that runs already; it is never restarted.

    :param read: takes a reading.
    :param monitor: of that QEMU.
    """

    def __init__(self, read: Callable[[], Snapshot], monitor: Monitor) -> None:
        self._read = read
        self._monitor = monitor

    def read(self) -> Snapshot:
        """Take a reading."""
        return self._read()

    def drive(self, step: Callable[[Monitor], T]) -> T:
        """Run ``step``; the VM runs anyway."""
        return step(self._monitor)

    def death(self) -> str:
        """Nothing is known of the death of somebody else's process."""
        return ""


class OwnVm:
    """A QEMU of our own, started when it is needed and again after it died.

    :param recipes: what will be plugged; they say which buses the VM needs.
    """

    def __init__(
        self, recipes: Iterable[Recipe], qemu: str = "qemu-system-x86_64", machine: str = "pc"
    ) -> None:
        self._qemu, self._machine = qemu, machine
        self._extra = vm_arguments(recipes, machine)
        self._start()

    def _start(self) -> None:
        self.vm = Vm(self._qemu, self._machine, extra=self._extra)
        try:
            self._monitor = self.vm.monitor()
            self._process = Process(self.vm.pid)
        except BaseException:
            self.vm.kill()
            raise
        self._reader = Reader(self._process)

    def renew(self) -> None:
        """Start the VM again: it has died, or something leaked in it.

        A leaked device keeps the name of its RAM block, and QEMU aborts when the
        next one in the same slot asks for it.
        """
        self.close()
        self._start()

    def read(self) -> Snapshot:
        """Take a reading."""
        return self._reader.read()

    def drive(self, step: Callable[[Monitor], T]) -> T:
        """Run ``step``; the VM runs anyway."""
        return step(self._monitor)

    def death(self) -> str:
        """Return how QEMU died: signal and last message; empty while it lives."""
        self.vm.wait(_DYING_S)
        return self.vm.exit_text()

    def close(self) -> None:
        """End the VM."""
        self._monitor.close()
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
