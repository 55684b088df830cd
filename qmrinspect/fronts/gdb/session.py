"""The session
-----------
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Callable, TypeVar

import gdb

from ...audit.check import Report, check
from ...errors import ObjectNotFound, ReadingError, TargetError, UsageError
from ...index import Index
from ...layout import Layout
from ...layout.dwarf import debug_info
from ...reading import Reader
from ...search.blocks import Blocks
from ...search.named import Named
from ...search.place import Place
from ...search.stale import Where
from ...snapshot import Obj, Pointer, Snapshot, Stale, TypeInfo
from ...target.debugger import Debugged
from ...target.image import Target
from ...walk import version_of
from .inferior import Inferior
from .targets import Running, inferior_kind, open_target, runs, symbol_files
from .types import give_types, known_type

if TYPE_CHECKING:
    from ...hunt.driver import Driver
    from ...monitor.base import Monitor
    from ...trace.recorder import OnEvents
    from ...trace.tracing import Tracing
    from .running import RunningMonitor

__all__ = ["ADDRESS_MASK", "Session"]

T = TypeVar("T")

ADDRESS_MASK = (1 << 64) - 1
# A type inherits from so many others at most.
_DEPTH_MAX = 64
# What makes a text an expression even where it could be a name.
_EXPRESSION = re.compile(r"^[$(&*]|->|[()&*]")


class Session:
    """What this front gives to its verbs; also the driver of a hunt."""

    front = "gdb"

    def __init__(self) -> None:
        self.qmp: str | None = None
        self.layout_file: str | None = None
        self.inferior = Inferior()
        self._key: tuple[object, ...] | None = None
        self._target: Target | None = None
        self._reader: Reader | None = None
        self._index: Index | None = None
        self._monitor: RunningMonitor | None = None
        self._drew = self._wrote = False
        self._met: tuple[int, int] | None = None
        self._listening = False

    def listen(self) -> None:
        """Follow what happens to the inferior; harmless when repeated."""
        if not self._listening:
            self._listening = True
            gdb.events.cont.connect(self._changed)
            gdb.events.memory_changed.connect(self._changed)
            gdb.events.inferior_call.connect(self._changed)
            gdb.events.exited.connect(self._ended)
            gdb.events.before_prompt.connect(self.acquaint)
        self.acquaint()

    def acquaint(self, _event: object = None) -> None:
        """Give GDB the types of a stripped QEMU that it stands in, before any verb is run.

        Called at every prompt, and does nothing but once for each process.
        """
        inferior = gdb.selected_inferior()
        met = (inferior.num, inferior.pid)
        if not inferior.pid or met == self._met:
            return
        # Nobody has asked for it: no failure of it is printed, and nothing slow is done.
        with contextlib.suppress(Exception):
            if inferior_kind() in ("native", "core") and not runs():
                self._met = met
                if known_type("Object") is None and version_of(self.target().elf()):
                    self.index()

    def target(self) -> Target:
        inferior = gdb.selected_inferior()
        connection = getattr(inferior, "connection", None)
        key = (
            inferior.num,
            inferior.pid,
            connection.num if connection is not None else None,
            symbol_files(),
            self.layout_file,
        )
        if key != self._key or self._target is None:
            self._forget_target()
            self._target, self._key = open_target(), key
            if isinstance(self._target, Debugged):
                self._target.progress = self.progress
        return self._target

    def _forget_target(self) -> None:
        if self._target is not None:
            self._target.close()
        self._target = self._reader = self._index = None

    def snapshot(self) -> Snapshot:
        return self.index().snapshot

    def index(self) -> Index:
        """Read, unless nothing can have changed since the last reading.

        :raises Running: the VM runs.
        :raises ReadingError: no trustworthy reading can be made.
        """
        target = self.target()
        if runs():
            raise Running
        if self._index is None:
            reader = self._reader
            if reader is None:
                debug = debug_info(target, report=self._report)
                reader = Reader(target, runs=False, given=self.layout_file, debug=debug)
            self.progress("reading QEMU's memory")
            try:
                self._index = Index(reader.read())
            except ReadingError as error:
                if "no machine yet" in error.text:
                    hint = "continue, and interrupt it when it has started (break qemu_main_loop)"
                    raise ReadingError(error.text, hint) from None
                raise
            finally:
                self.progress(None)
            self._reader = reader
            if reader.layout is not None:
                give_types(reader.layout)
        return self._index

    def report(self) -> Report:
        snapshot = self.snapshot()
        return self._reader.audit(snapshot) if self._reader is not None else check(snapshot)

    def pointers(self, snapshot: Snapshot, targets: Collection[int]) -> Sequence[Pointer]:
        return self._reader.pointers(snapshot, targets) if self._reader is not None else ()

    def place(self, snapshot: Snapshot, address: int) -> Place:
        if self._reader is None:
            raise TargetError("nothing was read yet", "qmr tree reads the VM")
        return self._reader.place(snapshot, address)

    def drivers(self) -> Collection[str]:
        """Return the device types that may be plugged: those that no other inherits from."""
        types = self._reader.types() if self._reader is not None else {}
        parents = {info.parent for info in types.values()}
        return [name for name in types if name not in parents and _is_device(types, name)]

    def named(
        self, snapshot: Snapshot, name: str | None, address: int | None
    ) -> tuple[Sequence[Named], str | None]:
        if self._reader is None:
            return (), "nothing was read yet"
        return self._reader.named(snapshot, name, address)

    def layout(self) -> Layout | None:
        return self._reader.layout if self._reader is not None else None

    def last_index(self) -> Index | None:
        """Return the last reading, None where it no longer holds."""
        return self._index

    def _changed(self, _event: object) -> None:
        # The VM ran, or its memory was written to.
        self._index = None

    def _ended(self, _event: object) -> None:
        self._forget_target()
        self._key = None

    def resolve(self, index: Index, text: str) -> Obj:
        missing: ObjectNotFound | None = None
        if not _EXPRESSION.search(text) or text.startswith("/"):
            try:
                return index.resolve(text)
            except ObjectNotFound as error:
                missing = error
        try:
            address = address_of(gdb.parse_and_eval(text))
        except gdb.error as error:
            raise missing or ObjectNotFound(f"GDB cannot evaluate {text}: {error}") from None
        obj = index.snapshot.objects.get(address) if address is not None else None
        if obj is not None:
            return obj
        if missing is not None:
            raise missing
        if address is None:
            raise ObjectNotFound(f"{text} is in no memory", "give its address, or a pointer to it")
        if not address:
            raise ObjectNotFound(f"{text} is a NULL pointer")
        inside = index.containing(address)
        hint = f"it is inside {index.label(inside)}" if inside else "qmr tree lists them"
        raise ObjectNotFound(f"there is no live object at {text} = {address:#x}", hint)

    def has_target(self) -> bool:
        return True

    def driver(self) -> Driver:
        return self

    def read(self) -> Snapshot:
        if self.inferior.death:
            raise TargetError(f"{self.inferior.death}, and the hunt ends with it", "run it again")
        return self.snapshot()

    def stale(self, snapshot: Snapshot, where: Where) -> Sequence[Stale]:
        return self._reader.stale(snapshot, where) if self._reader is not None else ()

    def blocks(self, snapshot: Snapshot) -> Blocks | None:
        return self._reader.blocks(snapshot) if self._reader is not None else None

    def drive(self, step: Callable[[Monitor], T]) -> T:
        return self._open_monitor().drive(step)

    def death(self) -> str | None:
        return self.inferior.death

    def tracing(self, only: Collection[int] = (), on_events: OnEvents | None = None) -> Tracing:
        pid = gdb.selected_inferior().pid
        raise UsageError(
            "GDB holds the process, and a trace needs a second tracer beside it",
            f"in another terminal: qmr {pid or 'NAME'} trace OBJ, whether GDB lets the process run "
            "or not",
        )

    def monitor(self) -> Monitor:
        return self._open_monitor()

    def _open_monitor(self) -> RunningMonitor:
        from ...monitor.addresses import monitors_of
        from ...monitor.connecting import connect_first
        from ...monitor.plain import PlainMonitor
        from ...monitor.whose import checked
        from .running import RunningMonitor

        if self._monitor is None:
            target = self.target()
            if target.kind == "core":
                raise TargetError("a core dump has no monitor", "this needs a live QEMU")
            if runs():
                raise Running
            here = target.pid if target.kind == "process" else None
            addresses = [self.qmp] if self.qmp else monitors_of(here, target.argv)
            self.inferior.death = None

            def connect(address: str) -> Monitor:
                monitor = PlainMonitor(address)
                return monitor if here is None else checked(monitor, here)

            self._monitor = RunningMonitor(self.inferior, lambda: connect_first(addresses, connect))
        return self._monitor

    def close_monitor(self) -> None:
        """Give the monitor back; QEMU serves one client at a time."""
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    def _report(self, text: str) -> None:
        """Say what takes long while the VM stands, once where that cannot be drawn over."""
        if os.isatty(2) and os.environ.get("TERM") != "dumb":
            self.progress(text)
        elif text and not self._wrote:
            # Past GDB: what a script takes as the answer of a verb shall not begin with it.
            os.write(2, f"{text}\n".encode())
        self._wrote = bool(text)

    def say(self, text: str) -> None:
        """Tell the user what is no part of the answer; see :meth:`_report`."""
        if os.isatty(2):
            gdb.write(f"{text}\n", gdb.STDERR)
        else:
            os.write(2, f"{text}\n".encode())

    def confirm(self, question: str) -> bool:
        return False

    def progress(self, text: str | None) -> None:
        draws = os.isatty(2) and os.environ.get("TERM") != "dumb"
        if draws and (text or self._drew):
            self._drew = bool(text)
            gdb.write(f"\r\033[K{text or ''}", gdb.STDERR)
            gdb.flush(gdb.STDERR)


def _is_device(types: Mapping[str, TypeInfo], name: str) -> bool:
    for _ in range(_DEPTH_MAX):
        if name == "device" or name not in types:
            break
        name = types[name].parent
    return name == "device"


def address_of(value: gdb.Value) -> int | None:
    """Return the number that GDB finds an expression to be, None of a structure in no memory.

    :raises gdb.error: it is no expression, or no number.
    """
    kind = value.type.strip_typedefs()
    if kind.code in (gdb.TYPE_CODE_REF, gdb.TYPE_CODE_RVALUE_REF):
        return address_of(value.referenced_value())
    if kind.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
        return int(value.address) & ADDRESS_MASK if value.address is not None else None
    return int(value) & ADDRESS_MASK
