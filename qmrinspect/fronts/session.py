"""A session without a debugger
----------------------------

How the target that the command line names is opened, read and driven.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..errors import MonitorError, TargetError
from ..text import printable
from .options import LIBVIRT, TARGETS, Options

if TYPE_CHECKING:
    from ..audit.check import Report
    from ..hunt.driver import Driver
    from ..index import Index
    from ..layout import Layout
    from ..monitor.base import Monitor
    from ..reading import Reader
    from ..search.blocks import Blocks
    from ..search.named import Named
    from ..search.place import Place
    from ..search.stale import Where
    from ..snapshot import Obj, Pointer, Snapshot, Stale
    from ..target.image import Target
    from ..trace.recorder import OnEvents
    from ..trace.tracing import Tracing

__all__ = ["ShellSession"]


class ShellSession:
    """What the command line and the REPL give to their verbs.

    The target is found when it is first needed, and kept.
    """

    # Seconds that its monitors have, all together, to greet.
    _patience = 1.0

    def __init__(self, options: Options, front: str = "shell") -> None:
        self.front = front
        self._options = options
        self._target: Target | None = None
        self._reader: Reader | None = None
        self._monitor: Monitor | None = None
        self._progress: str | None = None

    @property
    def options(self) -> Options:
        """What was given beside the verb."""
        return self._options

    @property
    def layout_file(self) -> str | None:
        """The user's own layout (``--layout``), None for none."""
        return self._options.get("--layout")

    def has_target(self) -> bool:
        """Whether the user named a target."""
        return bool(self._options.name) or any(o in self._options.values for o in TARGETS)

    def target(self) -> Target:
        """Return the target.

        :raises TargetError: it cannot be used, or there is none, or more than one.
        """
        if self._target is None:
            self._target = self._open()
        return self._target

    def _open(self) -> Target:
        options = self._options
        if options.get("--snapshot"):
            raise TargetError(
                "a saved snapshot is no process", "this verb needs a running QEMU: see qmr ps"
            )
        core, server = options.get("--core"), options.get("--remote")
        if core is not None:
            from ..target.core import Core

            return Core(core, options.get("--exe"))
        if server is not None:
            from ..target.remote import Remote

            remote = Remote(server)
            remote.progress = self.progress
            return remote
        return self._process(self._pid())

    def _process(self, pid: int) -> Target:
        from ..target.process import Process

        return Process(pid)

    def _pid(self) -> int:
        options = self._options
        text = options.get("--pid") or options.name
        if text is not None and text.isdigit():
            return int(text)
        from ..monitor.processes import find_by_name, running

        if text is not None:
            if text.startswith(LIBVIRT):
                from ..monitor.libvirt import domain_pid

                return domain_pid(text)
            return find_by_name(text)
        here, named = running(), options.get("--qmp")
        if named is not None:
            here = [p for p in here if _same_socket(named, p.qmp)] or here
        if len(here) == 1:
            return here[0].pid
        if not here:
            raise TargetError(
                "no QEMU runs here that qmr can see",
                "start one, or name a target: --core FILE, --snapshot FILE",
            )
        names = ", ".join(
            p.name if p.name == str(p.pid) else f"{p.name} (pid {p.pid})" for p in here
        )
        raise TargetError(f"{len(here)} QEMUs run here", f"name one of them: {names}")

    def snapshot(self) -> Snapshot:
        """Take a new reading, or return the one that a saved snapshot is."""
        saved = self._options.get("--snapshot")
        if saved:
            from ..store import load

            return load(saved)
        return self.reader().read()

    def report(self) -> Report:
        """Audit a new reading, or the saved one."""
        if self._options.get("--snapshot"):
            from ..audit.check import check

            return check(self.snapshot())
        return self.reader().check()

    def pointers(self, snapshot: Snapshot, targets: Collection[int]) -> Sequence[Pointer]:
        """Return the words that point to objects of the last reading, or the saved ones."""
        if self._options.get("--snapshot"):
            return [pointer for pointer in snapshot.pointers if pointer.target in targets]
        return self.reader().pointers(snapshot, targets)

    def stale(self, snapshot: Snapshot, where: Where) -> Sequence[Stale]:
        """Search the last reading for callbacks that outlive what they need."""
        return self.reader().stale(snapshot, where)

    def place(self, snapshot: Snapshot, address: int) -> Place:
        """Find out what an address belongs to.

        :raises TargetError: the target is a saved snapshot, which has no memory.
        """
        if self._options.get("--snapshot"):
            raise TargetError(
                f"a saved snapshot has no memory, so that {address:#x} can only be an object",
                "ask while the VM runs, or give a core dump",
            )
        return self.reader().place(snapshot, address)

    def named(
        self, snapshot: Snapshot, name: str | None, address: int | None
    ) -> tuple[Sequence[Named], str | None]:
        """Find what is no object and has a name; see :meth:`Reader.named`."""
        if self._options.get("--snapshot"):
            return (), "a saved snapshot has no memory"
        return self.reader().named(snapshot, name, address)

    def blocks(self, snapshot: Snapshot) -> Blocks | None:
        """Return the live blocks of the last reading, None where they are not known."""
        return self.reader().blocks(snapshot)

    def layout(self) -> Layout | None:
        """Return the layout of the last reading, None when a saved snapshot was read."""
        return None if self._options.get("--snapshot") else self.reader().layout

    def reader(self) -> Reader:
        """Return what reads the target, again and again."""
        if self._reader is None:
            from ..earlier import recall
            from ..layout.dwarf import debug_info
            from ..reading import Reader

            target = self.target()
            debug = debug_info(target, report=self.progress)
            self._reader = Reader(
                target, given=self.layout_file, debug=debug, earlier=recall(target)
            )
        return self._reader

    def resolve(self, index: Index, text: str) -> Obj:
        """Find the object that ``OBJ`` names."""
        return index.resolve(text)

    def monitor(self) -> Monitor:
        """Return the monitor of the target, connected.

        :raises MonitorError: the target has none, or another client holds it.
        """
        if self._monitor is None:
            self._monitor = self._connect()
        return self._monitor

    def _connect(self) -> Monitor:
        from ..monitor.addresses import monitors_of
        from ..monitor.connecting import connect_first
        from ..monitor.open import open_monitor
        from ..monitor.whose import checked

        patience = self._patience
        if "--remote" in self._options.values:
            raise MonitorError(
                "QEMU stands still behind a gdbserver, and its monitor does not answer",
                "end the gdbserver, and use --qmp without --remote",
            )
        named = self._options.get("--qmp")
        if named and self._target is None and not self.has_target():
            return open_monitor(named, patience)
        name = self._options.name
        if name is not None and name.startswith(LIBVIRT) and not named:
            from ..monitor.libvirt import LibvirtMonitor

            return LibvirtMonitor(name)
        target = self.target()
        if target.kind != "process":
            raise MonitorError(
                f"the QEMU of a {target.kind} is no more, and every monitor is another one's",
                "name a QEMU that runs: see qmr ps",
            )
        addresses = [named] if named else monitors_of(target.pid, target.argv)
        each = patience / len(addresses)
        return connect_first(
            addresses, lambda address: checked(open_monitor(address, each), target.pid)
        )

    def drop_monitor(self) -> None:
        """Forget a monitor that was lost, so that the next use connects again."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.close()

    def driver(self) -> Driver:
        """Return what a hunt on the target reads and drives it with."""
        from ..hunt.attached import Attached

        # The monitor comes last: what it says of the target is less clear.
        self.target()
        return Attached(self.snapshot, self.monitor(), self.stale, self.tracing, self.blocks)

    def tracing(self, only: Collection[int] = (), on_events: OnEvents | None = None) -> Tracing:
        """Return what traces the target."""
        from ..trace.tracing import tracing_of

        self.target()
        return tracing_of(self.reader(), only, on_events)

    def say(self, text: str) -> None:
        """Tell the user what is no part of the answer: on stderr."""
        with self.above():
            print(f"qmr: {printable(text, 1000)}", file=sys.stderr, flush=True)

    def confirm(self, question: str) -> bool:
        """Ask on the terminal; without one the answer is no."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return False
        with self.above():
            print(f"{printable(question, 1000)} [y/N] ", end="", file=sys.stderr, flush=True)
            return sys.stdin.readline().strip().lower() in ("y", "yes")

    def progress(self, text: str | None) -> None:
        """Show on stderr how far a long work is; None ends it.

        Only a terminal that can erase a line gets it.
        """
        if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
            return
        if text or self._progress:
            # What is longer than a line could not be erased.
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            sys.stderr.write(f"\r\033[K{printable(text or '')[: width - 1]}")
            sys.stderr.flush()
        self._progress = text

    @contextlib.contextmanager
    def above(self) -> Iterator[None]:
        """Give way to a line of output: what shows progress is erased, and comes back below."""
        text = self._progress
        self.progress(None)
        yield
        if text and sys.stdout.isatty():
            self.progress(text)

    def close(self) -> None:
        """Close target and monitor."""
        self.drop_monitor()
        learned = self._reader.learned() if self._reader is not None else None
        if self._target is not None:
            if learned is not None:
                from ..earlier import remember

                remember(self._target, learned)
            self._target.close()


def _same_socket(named: str, addresses: Iterable[str]) -> bool:
    path = os.path.realpath(named[len("unix:") :] if named.startswith("unix:") else named)
    return any(address == named or os.path.realpath(address) == path for address in addresses)
