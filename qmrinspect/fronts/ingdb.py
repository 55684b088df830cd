"""Inside GDB
----------

The only module that imports ``gdb``.  It runs on the Python of any GDB from 3.9
on, with the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import traceback
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Callable, TypeVar

import gdb
import gdb.printing

from ..audit.check import Report, check
from ..errors import LayoutError, MonitorError, ObjectNotFound, QmrError, TargetError, UsageError
from ..hotplug.monitor import Monitor, MonitorBusy, monitor_addresses
from ..hotplug.plainqmp import PlainMonitor
from ..hunt.cycle import Driver
from ..index import Index, printable
from ..layout import Layout
from ..layout.model import FORMAT, from_json
from ..layout.schema import SCHEMA
from ..reading import Reader
from ..snapshot import Obj, Pointer, Snapshot
from ..target.core import Core
from ..target.debugger import Attached, Debugged, Signal, core_path, parse_signal
from ..target.image import Target
from . import gdbprint, render
from .complete import complete
from .line import parse
from .running import RunningMonitor, Stop
from .table import Outcome, Verb, parser_for

__all__ = ["dump_layout", "dwarf_layout", "dwarf_structs", "register"]

T = TypeVar("T")

_ADDRESS_MASK = (1 << 64) - 1
# What makes a text an expression even where it could be a name.
_EXPRESSION = re.compile(r"^[$(&*]|->|[()&*]")
# While qmr lets the VM run, SIGINT stops it.  What QEMU's threads send each other
# (SIG_IPI is SIGUSR1, coroutines use SIGUSR2) and broken connections do not.
_SIGNALS = (
    Signal("SIGINT", True, True, False),
    Signal("SIGUSR1", False, False, True),
    Signal("SIGUSR2", False, False, True),
    Signal("SIGPIPE", False, False, True),
)


# Layouts ---------------------------------------------------------------------------


def _lookup(name: str) -> gdb.Type | None:
    for text in (f"struct {name}", name):
        try:
            return gdb.lookup_type(text).strip_typedefs()
        except gdb.error:
            continue
    return None


def _fields(kind: gdb.Type, base: int, out: dict[str, tuple[int, int]]) -> None:
    """Collect the fields of a structure, those of nameless unions inside it included."""
    for field in kind.fields():
        bits = getattr(field, "bitpos", None)
        if bits is None or field.type is None:
            continue
        offset = base + bits // 8
        if field.name:
            out.setdefault(field.name, (offset, field.type.sizeof))
        else:
            _fields(field.type.strip_typedefs(), offset, out)


def dwarf_structs() -> dict[str, dict[str, object]]:
    """Return the structures of the schema as DWARF describes them."""
    out: dict[str, dict[str, object]] = {}
    for struct, wanted in SCHEMA.items():
        kind = _lookup(struct)
        if kind is None or not kind.sizeof:
            continue
        found: dict[str, tuple[int, int]] = {}
        _fields(kind, 0, found)
        out[struct] = {
            "size": kind.sizeof,
            "fields": {name: found[name] for name in wanted.split() if name in found},
        }
    return out


# How deep a field of a field is named.
_NESTED = 4
_TYPE_NAME = re.compile(r"^\d+:\t(?:typedef )?struct (?:\S+ )?(\w+);", re.MULTILINE)


def instance_structs() -> dict[str, dict[str, object]]:
    """Return every structure that begins with an ``Object``, all of its fields named.

    A field is [offset, size, name, stride] in bytes; the stride is that of an array's
    elements, 0 for anything else.
    """
    out: dict[str, dict[str, object]] = {}
    listing = str(gdb.execute("info types -q .", to_string=True))
    for name in sorted(set(_TYPE_NAME.findall(listing))):
        kind = _lookup(name)
        if kind is None or kind.code != gdb.TYPE_CODE_STRUCT or not kind.fields():
            continue
        first = _first(kind)
        base, depth = first, 0
        while base is not None and base.tag != "Object" and depth < _DEPTH:
            base, depth = _first(base), depth + 1
        if first is None or base is None or base.tag != "Object":
            continue
        rows: list[tuple[int, int, str, int]] = []
        _leaves(kind, 0, "", rows, _NESTED)
        out[name] = {"size": kind.sizeof, "first": first.tag or "", "fields": rows}
    return out


def _first(kind: gdb.Type) -> gdb.Type | None:
    """Return the structure that is the first member of another, None when none is."""
    members = kind.fields() if kind.code == gdb.TYPE_CODE_STRUCT else []
    inner = members[0].type if members else None
    return inner.strip_typedefs() if inner is not None else None


_DEPTH = 16


def _leaves(
    kind: gdb.Type, base: int, prefix: str, out: list[tuple[int, int, str, int]], depth: int
) -> None:
    for field in kind.fields():
        if getattr(field, "bitpos", None) is None or field.type is None:
            continue
        offset, inner = base + int(field.bitpos or 0) // 8, field.type.strip_typedefs()
        name = f"{prefix}{field.name}" if field.name else prefix.rstrip(".")
        nested = inner.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION) and depth > 0
        if nested and (inner.tag != "Object"):
            _leaves(inner, offset, f"{name}." if field.name else prefix, out, depth - 1)
        else:
            array = inner.code == gdb.TYPE_CODE_ARRAY
            stride = inner.target().sizeof if array else 0
            out.append((offset, inner.sizeof, name, stride or 0))


def dump_instance_structs(path: str) -> None:
    """Write what :func:`instance_structs` finds in the program that this GDB has open."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(instance_structs(), file)


def dump_layout(path: str) -> None:
    """Write the layout of the program that this GDB has open."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, "structs": dwarf_structs()}, file)


def dwarf_layout() -> Layout | None:
    """Return the layout that GDB knows from debug information, None when it knows none."""
    if _lookup("Object") is None or _lookup("MemoryRegion") is None:
        return None
    try:
        layout = from_json({"format": FORMAT, "structs": dwarf_structs()}, "dwarf")
    except LayoutError:
        return None
    return None if layout.missing() else layout


# Targets ---------------------------------------------------------------------------


class _Running(Exception):
    """The inferior runs in the background; it has to be stopped for a reading."""


def _ask(command: str) -> str:
    try:
        return str(gdb.execute(command, to_string=True) or "")
    except gdb.error as error:
        raise TargetError(f"GDB refuses {command.split()[0]}: {error}") from None


def _connection() -> str:
    """Return how GDB has its inferior: ``native``, ``core``, ..., empty for none."""
    inferior = gdb.selected_inferior()
    try:
        connection = inferior.connection
    except AttributeError:  # before GDB 12
        text = _ask("info files")
        if core_path(text):
            return "core"
        return "native" if "Native process:" in text else "remote" if inferior.pid else ""
    return str(connection.type) if connection is not None else ""


def _memory(address: int, size: int) -> bytes | None:
    try:
        return bytes(gdb.selected_inferior().read_memory(address, size))
    except (gdb.error, OverflowError):
        return None


def _runs() -> bool:
    inferior = gdb.selected_inferior()
    if inferior.pid and _connection() == "native" and _dead(inferior.pid):
        raise TargetError(f"process {inferior.pid} has ended", "start it again, or attach PID")
    return any(t.is_valid() and t.is_running() for t in inferior.threads())


def _program() -> str:
    space = gdb.current_progspace()
    return (space.filename if space is not None else "") or ""


def _open_target() -> Target:
    inferior = gdb.selected_inferior()
    exe = _program()
    how = _connection()
    if how == "core":
        return Core(core_path(_ask("info files")), exe or None)
    if not inferior.pid:
        raise TargetError("GDB debugs no process", "attach PID, run, or core-file FILE")
    if how == "native":
        return Attached(inferior.pid)
    return Debugged(inferior.pid, _ask, _memory, exe)


# The VM that runs and stops --------------------------------------------------------


class _Inferior:
    """GDB's inferior, as :class:`~qmrinspect.fronts.running.Inferior`."""

    def __init__(self) -> None:
        self._turn = 0
        self._going = False
        #: How the VM died while it ran, "" as long as it lives.
        self.death = ""

    def interrupter(self) -> Callable[[], None]:
        turn = self._turn = self._turn + 1

        def stop() -> None:
            # Runs in GDB's own thread, as all that touches GDB; also too late, maybe.
            if self._going and self._turn == turn:
                with contextlib.suppress(gdb.error):
                    gdb.execute("interrupt", to_string=True)

        return lambda: gdb.post_event(stop)

    def go(self) -> Stop:
        if _connection() == "core":
            raise TargetError("a core dump does not run", "this needs a live QEMU")
        if gdb.parameter("non-stop"):
            raise TargetError("qmr cannot let the VM run in non-stop mode", "set non-stop off")
        seen: list[Any] = []
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
                    if _connection() == "native" and _dead(pid):
                        self.death = Stop("exit", "", "").sentence()
                        return Stop("exit", "", "")
                    raise TargetError(f"GDB cannot let the VM run: {error}") from None
                except KeyboardInterrupt:
                    seen.clear()
                finally:
                    self._going = False
                stop = _classify(seen)
                if stop.asked:
                    # Where the user lets SIGINT pass it would end QEMU as soon as that runs.
                    _ask("queue-signal 0")
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


def _classify(events: list[Any]) -> Stop:
    for event in events:
        if isinstance(event, gdb.ExitedEvent):
            code = getattr(event, "exit_code", None)
            return Stop("exit", "by a signal" if code is None else f"exit status {code}", "")
    if not events:
        return Stop("signal", "SIGINT", "")
    event = events[-1]
    if isinstance(event, gdb.BreakpointEvent):
        numbers = " and ".join(str(b.number) for b in event.breakpoints)
        return Stop("breakpoint", f"breakpoint {numbers}", "")
    if isinstance(event, gdb.SignalEvent):
        try:
            where = gdb.newest_frame().name() or ""
        except gdb.error:
            where = ""
        return Stop("signal", str(event.stop_signal), where)
    return Stop("breakpoint", "an event of GDB", "")


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Handle signals as qmr needs them, and as before afterwards."""
    changed = []
    for wanted in _SIGNALS:
        now = parse_signal(_ask(f"info signals {wanted.name}"), wanted.name)
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
        _ask(f"with confirm off -- {wanted.command()}")


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


def _command_line() -> list[str]:
    try:
        with open("/proc/self/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read().split("\0")
    except OSError:
        return []


@contextlib.contextmanager
def _unlocked() -> Iterator[None]:
    """Let all threads run, also where the scheduler is locked to one."""
    before = gdb.parameter("scheduler-locking")
    if before not in ("on", "step"):
        yield
        return
    _ask("set scheduler-locking off")
    try:
        yield
    finally:
        with contextlib.suppress(TargetError):
            _ask(f"set scheduler-locking {before}")


def _dead(pid: int) -> bool:
    """Whether a process on this machine has ended, though GDB has not seen it yet."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


# The session -----------------------------------------------------------------------


class _Session:
    """What this front gives to its verbs; also the driver of a hunt."""

    front = "gdb"

    def __init__(self) -> None:
        self.qmp = ""
        self.inferior = _Inferior()
        self._key: tuple[object, ...] = ()
        self._target: Target | None = None
        self._reader: Reader | None = None
        self._index: Index | None = None
        self._monitor: RunningMonitor | None = None
        self._drew = False
        self._listening = False

    def listen(self) -> None:
        """Follow what happens to the inferior; harmless when repeated."""
        if not self._listening:
            self._listening = True
            gdb.events.cont.connect(self._changed)
            gdb.events.memory_changed.connect(self._changed)
            gdb.events.inferior_call.connect(self._changed)
            gdb.events.exited.connect(self._ended)

    def target(self) -> Target:
        inferior = gdb.selected_inferior()
        connection = getattr(inferior, "connection", None)
        key = (
            inferior.num,
            inferior.pid,
            connection.num if connection is not None else 0,
            _program(),
        )
        if key != self._key or self._target is None:
            self._forget_target()
            self._target, self._key = _open_target(), key
        return self._target

    def _forget_target(self) -> None:
        if self._target is not None:
            self._target.close()
        self._target = self._reader = self._index = None

    def snapshot(self) -> Snapshot:
        return self.index().snapshot

    def index(self) -> Index:
        """Read, unless nothing can have changed since the last reading."""
        target = self.target()
        if _runs():
            raise _Running
        if self._index is None:
            reader = self._reader
            if reader is None:
                layout = dwarf_layout()
                reader = Reader(target, [layout] if layout is not None else [], runs=False)
            self._index = Index(reader.read())
            self._reader = reader
        return self._index

    def report(self) -> Report:
        return check(self.snapshot())

    def pointers(self, snapshot: Snapshot, targets: Collection[int]) -> Sequence[Pointer]:
        return self._reader.pointers(snapshot, targets) if self._reader is not None else ()

    def last_index(self) -> Index | None:
        """Return the last reading if it still holds."""
        return self._index

    def _changed(self, _event: object) -> None:
        # The VM ran, or its memory was written to.
        self._index = None

    def _ended(self, _event: object) -> None:
        self._forget_target()
        self._key = ()

    def resolve(self, index: Index, text: str) -> Obj:
        missing: ObjectNotFound | None = None
        if not _EXPRESSION.search(text) or text.startswith("/"):
            try:
                return index.resolve(text)
            except ObjectNotFound as error:
                missing = error
        try:
            address = _address(gdb.parse_and_eval(text))
        except gdb.error as error:
            raise missing or ObjectNotFound(f"GDB cannot evaluate {text}: {error}") from None
        obj = index.snapshot.objects.get(address)
        if obj is not None:
            return obj
        if missing is not None:
            raise missing
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

    def drive(self, step: Callable[[Monitor], T]) -> T:
        return self._open_monitor().drive(step)

    def death(self) -> str:
        return self.inferior.death

    def monitor(self) -> Monitor:
        return self._open_monitor()

    def _open_monitor(self) -> RunningMonitor:
        if self._monitor is None:
            target = self.target()
            if target.kind == "core":
                raise TargetError("a core dump has no monitor", "this needs a live QEMU")
            if _runs():
                raise _Running
            addresses = [self.qmp] if self.qmp else _monitors(target)
            self.inferior.death = ""
            self._monitor = RunningMonitor(self.inferior, lambda: _connect(addresses))
        return self._monitor

    def close_monitor(self) -> None:
        """Give the monitor back; QEMU serves one client at a time."""
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    def progress(self, text: str) -> None:
        if os.isatty(2) and (text or self._drew):
            self._drew = bool(text)
            gdb.write(f"\r\033[K{text}", gdb.STDERR)
            gdb.flush(gdb.STDERR)


def _address(value: gdb.Value) -> int:
    kind = value.type.strip_typedefs()
    if kind.code in (gdb.TYPE_CODE_REF, gdb.TYPE_CODE_RVALUE_REF):
        return _address(value.referenced_value())
    if kind.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
        return int(value.address) & _ADDRESS_MASK if value.address is not None else 0
    return int(value) & _ADDRESS_MASK


def _monitors(target: Target) -> list[str]:
    try:
        cwd = os.readlink(f"/proc/{target.pid}/cwd")
    except OSError:
        cwd = ""
    found = monitor_addresses(target.argv, cwd)
    if not found:
        raise MonitorError(
            f"QEMU {target.pid} has no QMP socket on its command line",
            "name it with --qmp, or start QEMU with -qmp unix:FILE,server=on,wait=off",
        )
    return found


def _connect(addresses: list[str]) -> Monitor:
    for address in addresses[:-1]:
        try:
            return PlainMonitor(address)
        except MonitorBusy:
            continue  # another client holds it, and there is one more
    return PlainMonitor(addresses[-1])


# Commands --------------------------------------------------------------------------


class _Group(gdb.Command):
    """Show which field holds each reference of every QOM object in a QEMU.

    An OBJ is a QOM path, a device id, the end of a path, an address, or any expression."""

    def __init__(self) -> None:
        super().__init__("qmr", gdb.COMMAND_DATA, prefix=True)

    def invoke(self, argument: str, from_tty: bool) -> None:
        if not argument:
            gdb.execute("help qmr")
            return
        from .verbs import find_verb

        with _errors(False):
            verb = find_verb(argument.split()[0])
            raise UsageError(f"qmr {verb.name} makes no sense inside GDB", "run it from the shell")


class _Command(gdb.Command):
    """One verb."""

    def __init__(self, session: _Session, verb: Verb) -> None:
        self._session = session
        self._verb = verb
        self.__doc__ = f"{_capital(verb.help)}.\n\n{parser_for(verb).format_help().rstrip()}"
        super().__init__(f"qmr {verb.name}", gdb.COMMAND_DATA)

    def invoke(self, argument: str, from_tty: bool) -> None:
        with _errors("--debug" in argument.split()):
            if _runs() and _connection() != "core":
                _when_stopped(lambda: self._run(argument))
            else:
                self._run(argument)

    def _run(self, argument: str) -> None:
        session = self._session
        _code(2)
        line = parse(self._verb, argument)
        session.qmp = line.qmp
        width = gdb.parameter("width")
        render.use_style(render.Style(False, width if isinstance(width, int) else 0))
        try:
            outcome = self._verb.run(session, line.args)
            _show(outcome, getattr(line.args, "json", False))
            _code(outcome.late() if outcome.late is not None else outcome.code)
        except QmrError as error:
            _code(error.exit_code)
            raise
        finally:
            session.progress("")
            session.close_monitor()

    def complete(self, text: str, word: str | None) -> Any:
        try:
            found = complete(self._verb, text, self._names)
        except Exception:
            # A key press is no place for errors.
            return []
        if found.file:
            return gdb.COMPLETE_FILENAME
        if word is None:
            return []
        # GDB's words begin behind a slash, a dash and the like.
        cut = len(found.token) - len(word)
        return [name[cut:] for name in found.candidates]

    def _names(self) -> Index | None:
        last = self._session.last_index()
        if last is None:
            with contextlib.suppress(QmrError, _Running, gdb.error):
                last = self._session.index()
        return last


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _code(code: int) -> None:
    """Leave the exit code where a script finds it: ``$_qmr_exitcode``."""
    gdb.set_convenience_variable("_qmr_exitcode", code)


def _show(outcome: Outcome, as_json: bool) -> None:
    if as_json and outcome.stream:
        for document in outcome.data:
            _write(json.dumps(document))
    elif as_json:
        _write(json.dumps(outcome.data, indent=1))
    else:
        for text in outcome.lines:
            _write(text)


def _write(text: str) -> None:
    # What a VM's memory says need not be text.
    gdb.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")


@contextlib.contextmanager
def _errors(debug: bool) -> Iterator[None]:
    """Turn every failure into one sentence of GDB's."""
    try:
        yield
    except SystemExit:
        return  # --help was asked for and answered
    except QmrError as error:
        text = str(error)
    except gdb.GdbError:
        raise
    except gdb.error as error:
        text = f"GDB says: {error}"
    except KeyboardInterrupt:
        raise gdb.GdbError("Quit") from None
    except _Running:
        text = "the inferior runs: stop it first (interrupt)"
    except Exception as error:
        text = f"qmr failed ({error!r}): set python print-stack full shows where"
    else:
        return
    if debug or gdb.parameter("python print-stack") == "full":
        gdb.write(traceback.format_exc(), gdb.STDERR)
    raise gdb.GdbError(text) from None


def _when_stopped(work: Callable[[], None]) -> None:
    """Stop an inferior that runs in the background, do the work, let it run on."""
    running = [t for t in gdb.selected_inferior().threads() if t.is_running()]

    def stopped(_event: object) -> None:
        if any(t.is_valid() and t.is_running() for t in running):
            return
        gdb.events.stop.disconnect(stopped)
        gdb.post_event(go)

    def go() -> None:
        try:
            with _errors(False):
                work()
        except gdb.GdbError as error:
            gdb.write(f"{error}\n", gdb.STDERR)
        finally:
            _resume(running)

    gdb.events.stop.connect(stopped)
    _ask("interrupt -a" if gdb.parameter("non-stop") else "interrupt")


def _resume(threads: list[gdb.InferiorThread]) -> None:
    here = gdb.selected_thread()
    for thread in threads:
        if thread.is_valid() and thread.is_stopped():
            thread.switch()
            _ask("continue &")
            if not gdb.parameter("non-stop"):
                break
    if here is not None and here.is_valid():
        here.switch()


# Functions and printers ------------------------------------------------------------


class _Locate(gdb.Function):
    """Return the object that a QOM path, a device id or the end of a path names.

    $qmr("PATH") is an Object * where the type is known, else a void *."""

    def __init__(self, session: _Session) -> None:
        super().__init__("qmr")
        self._session = session

    def invoke(self, *args: Any) -> gdb.Value:
        with _errors(False):
            if len(args) != 1:
                raise TargetError('$qmr takes one object: $qmr("/machine/peripheral/ID")')
            place = args[0]
            index = self._session.index()
            code = place.type.strip_typedefs().code
            text = place.string() if code in (gdb.TYPE_CODE_ARRAY, gdb.TYPE_CODE_PTR) else ""
            obj = index.resolve(text or f"{int(place):#x}")
            return gdb.Value(obj.address).cast(_pointer_type())
        raise AssertionError


def _pointer_type() -> gdb.Type:
    for name in ("Object", "struct Object", "void"):
        try:
            return gdb.lookup_type(name).pointer()
        except gdb.error:
            continue
    return gdb.lookup_type("unsigned long")


class _Printer:
    def __init__(self, text: str) -> None:
        self._text = text

    def to_string(self) -> str:
        return self._text


class _Printers(gdb.printing.PrettyPrinter):
    """The printers of :mod:`qmrinspect.fronts.gdbprint`, by type."""

    def __init__(self, session: _Session) -> None:
        super().__init__("qmr")
        self._session = session

    def path(self, address: int) -> str:
        index = self._session.last_index()
        if index is None or address not in index.snapshot.objects:
            return ""
        return printable(index.path(address))

    def bytes(self, value: gdb.Value) -> bytes:
        address, size = value.address, value.type.sizeof
        return (_memory(int(address), size) if address is not None else None) or b""

    def __call__(self, value: gdb.Value) -> _Printer | None:
        try:
            kind = value.type.strip_typedefs()
            pointer = kind.code == gdb.TYPE_CODE_PTR
            if pointer:
                kind = kind.target().strip_typedefs()
            name = kind.tag or ""
            if name not in gdbprint.KINDS:
                return None
            if pointer:
                address = int(value) & _ADDRESS_MASK
                value = value.dereference()
            else:
                address = int(value.address) & _ADDRESS_MASK if value.address is not None else 0
            text = gdbprint.summary(name, value, address, self)
        except gdb.error:
            return None
        if not text:
            return None
        return _Printer(f"({name} *) {address:#x} <{text}>" if pointer else f"<{text}>")


_session = _Session()


def register() -> None:
    """Define the commands, ``$qmr()`` and the pretty-printers; harmless when repeated."""
    from .verbs import VERBS

    _session.listen()
    _Group()
    for verb in VERBS.values():
        if "gdb" in verb.fronts:
            _Command(_session, verb)
    _Locate(_session)
    gdb.printing.register_pretty_printer(None, _Printers(_session), replace=True)
