"""The command line
----------------

``qmr [TARGET] VERB ...``: finds the target, runs a verb of the table, prints what
it answers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from ... import __version__
from ...errors import MonitorError, QmrError, TargetError, UsageError
from ...index import Index, printable
from ...report import render
from ..options import ANYWHERE, TARGETS, VALUED, Options, take, target_options

if TYPE_CHECKING:
    from ...audit.check import Report
    from ...hunt.cycle import Driver
    from ...layout import Layout
    from ...monitor.base import Monitor
    from ...reading import Reader
    from ...snapshot import Obj, Pointer, Snapshot
    from ...target.image import Target
    from ...verbs.verb import Outcome, Verb
    from ...walk.place import Place

__all__ = ["Options", "ShellSession", "main", "show", "target_options"]

_UNEXPECTED, _INTERRUPTED = 3, 130
_COMPLAINT_MAX = 4000
_LIBVIRT = "libvirt:"
_FRONTS = {"gdb": "GDB", "repl": "the REPL (qmr repl)", "shell": "the command line"}


def _split(words: Sequence[str]) -> tuple[Options, str, list[str]]:
    """Return the options, the verb (empty for none) and the verb's own words."""
    from ...verbs.table import VERBS, find_verb

    options = Options()
    places: list[str] = []
    rest = list(words)
    while rest:
        word = rest[0]
        if take(options, rest, VALUED):
            continue
        if word.startswith("-") and word != "-":
            raise UsageError(f"there is no option {printable(word)}", "see qmr --help")
        rest.pop(0)
        places.append(word)
        # A first word that is no verb is the target; then the verb has to come.
        if word in VERBS or len(places) == 2:
            break
        if not any(other in VERBS for other in rest) and not _could_be_target(word, rest):
            find_verb(word)
    own: list[str] = []
    while rest:
        if rest[0] == "--":
            own += rest
            break
        if not take(options, rest, ANYWHERE, own=True):
            own.append(rest.pop(0))
    if not places:
        return options, "", own
    options.name = "" if places[0] in VERBS and len(places) == 1 else places[0]
    if len(places) == 1 and options.name:
        if options.help or options.version:
            return options, "", own
        raise UsageError(
            f"{printable(places[0])} is no verb, and as a target it wants one",
            f"say what to do: qmr {printable(places[0])} check; qmr --help lists all verbs",
        )
    verb = places[-1]
    find_verb(verb)
    return options, verb, own


def _repl_options(words: Sequence[str]) -> Options | None:
    """Return the options of a plain ``qmr [TARGET] repl``, None for anything else.

    The prompt is to be there at once, so that this looks into no verb.
    """
    options = Options()
    rest = list(words)
    while len(rest) > 1:
        if not take(options, rest, VALUED, own=True):
            # A name might be a verb's.
            if options.name or not (rest[0].isdigit() or rest[0].startswith(_LIBVIRT)):
                return None
            options.name = rest.pop(0)
    if rest != ["repl"]:
        return None
    options.check()
    return options


def _could_be_target(word: str, rest: Sequence[str]) -> bool:
    # With one more word it may be the verb that is misspelt.  A number, and the name
    # of a VM that runs, are targets all the same.
    if word.isdigit() or word.startswith(_LIBVIRT):
        return True
    from ...verbs.processes import running

    return any(process.name == word for process in running())


# The session -----------------------------------------------------------------------


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
        self._progress = False

    @property
    def options(self) -> Options:
        """What was given beside the verb."""
        return self._options

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
        if "--core" in options.values:
            from ...target.core import Core

            return Core(options.get("--core"), options.get("--exe") or None)
        if "--remote" in options.values:
            from ...target.remote import Remote

            return Remote(options.get("--remote"))
        return self._process(self._pid())

    def _process(self, pid: int) -> Target:
        from ...target.process import Process

        return Process(pid)

    def _pid(self) -> int:
        from ...verbs.processes import find_by_name, running

        options = self._options
        text = options.get("--pid") or options.name
        if text.isdigit():
            return int(text)
        if text.startswith(_LIBVIRT):
            from ...monitor.libvirt import domain_pid

            return domain_pid(text)
        if text:
            return find_by_name(text)
        here = running()
        if options.get("--qmp"):
            here = [p for p in here if _same_socket(options.get("--qmp"), p.qmp)] or here
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
            from ...store import load

            return load(saved)
        return self.reader().read()

    def report(self) -> Report:
        """Audit a new reading, or the saved one."""
        if self._options.get("--snapshot"):
            from ...audit.check import check

            return check(self.snapshot())
        return self.reader().check()

    def pointers(self, snapshot: Snapshot, targets: Collection[int]) -> Sequence[Pointer]:
        """Return the words that point to objects of the last reading, or the saved ones."""
        if self._options.get("--snapshot"):
            return [pointer for pointer in snapshot.pointers if pointer.target in targets]
        return self.reader().pointers(snapshot, targets)

    def place(self, snapshot: Snapshot, address: int) -> Place:
        """Find out what an address belongs to."""
        if self._options.get("--snapshot"):
            raise TargetError(
                f"a saved snapshot has no memory, so that {address:#x} can only be an object",
                "ask while the VM runs, or give a core dump",
            )
        return self.reader().place(snapshot, address)

    def layout(self) -> Layout | None:
        """Return the layout of the last reading, None when a saved snapshot was read."""
        return None if self._options.get("--snapshot") else self.reader().layout

    def reader(self) -> Reader:
        """Return what reads the target, again and again."""
        if self._reader is None:
            from ...layout.dwarf import debug_info
            from ...reading import Reader

            debug = debug_info(self.target(), tell=self.progress)
            self._reader = Reader(self.target(), given=self._options.get("--layout"), debug=debug)
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
        from ...monitor.addresses import monitors_of
        from ...monitor.base import open_monitor
        from ...monitor.connecting import connect_first

        patience = self._patience
        if "--remote" in self._options.values:
            raise MonitorError(
                "QEMU stands still behind a gdbserver, and its monitor does not answer",
                "end the gdbserver, and use --qmp without --remote",
            )
        named = self._options.get("--qmp")
        if named:
            return open_monitor(named, patience)
        if self._options.name.startswith(_LIBVIRT):
            from ...monitor.libvirt import LibvirtMonitor

            return LibvirtMonitor(self._options.name)
        target = self.target()
        if target.kind != "process":
            raise MonitorError(
                f"a {target.kind} has no monitor of its own", "name one: --qmp SOCKET"
            )
        addresses = monitors_of(target.pid, target.argv)
        each = patience / len(addresses)
        return connect_first(addresses, lambda address: open_monitor(address, each))

    def drop_monitor(self) -> None:
        """Forget a monitor that was lost, so that the next use connects again."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.close()

    def driver(self) -> Driver:
        """Return what a hunt on the target reads and drives it with."""
        from ...hunt import Attached

        # The monitor comes last: what it says of the target is less clear.
        self.target()
        return Attached(self.snapshot, self.monitor())

    def progress(self, text: str) -> None:
        """Show on stderr how far a long work is; an empty text ends it."""
        if not sys.stderr.isatty():
            return
        if text or self._progress:
            sys.stderr.write(f"\r\033[K{printable(text)}")
            sys.stderr.flush()
        self._progress = bool(text)

    def close(self) -> None:
        """Let go of target and monitor."""
        self.drop_monitor()
        if self._target is not None:
            self._target.close()


def _same_socket(named: str, addresses: Iterable[str]) -> bool:
    path = os.path.realpath(named[len("unix:") :] if named.startswith("unix:") else named)
    return any(address == named or os.path.realpath(address) == path for address in addresses)


# Running a verb --------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run qmr and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words and sys.stdin.isatty() and sys.stdout.isatty() and _one_runs():
        words = ["repl"]
    debug = "--debug" in words
    # A name from the VM, or a file's, may be none that the terminal's encoding has.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(words)
    except KeyboardInterrupt:
        if debug:
            raise
        print(file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        return _pipe_closed()
    except QmrError as error:
        if debug:
            _traceback()
        _complain(error.text, error.hint, error.lines)
        return error.exit_code
    except SystemExit as error:  # argparse, after --help
        return error.code if isinstance(error.code, int) else 0
    except Exception as error:
        if debug:
            _traceback()
            return _UNEXPECTED
        _complain(
            f"qmr failed unexpectedly ({type(error).__name__}: {printable(str(error))})",
            "run again with --debug, and report what it prints",
        )
        return _UNEXPECTED


def _one_runs() -> bool:
    from ...verbs.processes import running

    return len(running()) == 1


def _run(words: Sequence[str]) -> int:
    repl = _repl_options(words)
    if repl is not None:
        from ..repl.start import start

        return start(repl, None, True)
    from ...verbs.table import VERBS
    from ...verbs.verb import parser_for

    options, name, own = _split(words)
    if options.version:
        print(f"qmr {__version__}")
        return 0
    if not name:
        if not options.help:
            raise UsageError("no verb was given", "qmr check, say; qmr --help lists all")
        print("\n".join(_help()))
        return 0
    verb = VERBS[name]
    if options.help:
        own = ["--help"]
    if options.json and verb.reports and "--json" not in own:
        own = ["--json", *own]
    args = parser_for(verb).parse_args(own)
    options.check()
    if "shell" not in verb.fronts:
        raise UsageError(
            f"{name} makes no sense on the command line",
            f"use it in {' or '.join(_FRONTS[front] for front in sorted(verb.fronts))}",
        )
    session = ShellSession(options)
    try:
        return show(verb.run(session, args), as_json=getattr(args, "json", False))
    finally:
        session.progress("")
        session.close()


def show(outcome: Outcome, as_json: bool) -> int:
    """Print what a verb answers, and return the exit code."""
    if not as_json:
        for line in outcome.lines:
            print(render.safe(line), flush=outcome.late is not None or outcome.stream)
    elif outcome.stream:
        for document in outcome.data:
            print(json.dumps(document), flush=True)
    else:
        print(json.dumps(outcome.data, indent=1))
    sys.stdout.flush()
    return outcome.late() if outcome.late is not None else outcome.code


def _pipe_closed() -> int:
    # Who read our output has seen enough.  Python would complain at its own exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _complain(text: str, hint: str, lines: Iterable[str] = ()) -> None:
    # QEMU's own words may quote what a guest or a user made up.
    line = printable(f"qmr: {text}" + (f": {hint}" if hint else ""), _COMPLAINT_MAX)
    print(line, file=sys.stderr)
    for line in lines:
        print(printable(line, _COMPLAINT_MAX), file=sys.stderr)


def _traceback() -> None:
    import traceback

    traceback.print_exc()


def _help() -> Iterable[str]:
    from ...verbs.table import VERBS

    yield "usage: qmr [TARGET] VERB ..."
    yield ""
    yield "Shows which field holds each reference of every QOM object in a running QEMU."
    yield ""
    yield "TARGET, when more than one QEMU runs:"
    rows: list[tuple[str, str]] = [
        ("NAME | PID | --pid N", "a running QEMU, as qmr ps shows it"),
        ("libvirt:DOMAIN", "one that libvirt runs, its monitor through libvirt"),
        ("--core FILE [--exe QEMU]", "a core dump"),
        ("--snapshot FILE", "what qmr save wrote"),
        ("--remote HOST:PORT", "a gdbserver"),
    ]
    yield from _rows(rows)
    yield ""
    yield "verbs (qmr VERB --help says more):"
    yield from _rows([(name, verb.help) for name, verb in VERBS.items() if _here(verb)])
    yield ""
    yield "in the REPL also (help VERB there says more):"
    yield from _rows([(n, v.help) for n, v in VERBS.items() if v.fronts == {"repl"}])
    yield ""
    yield "options:"
    yield from _rows(
        [
            ("--qmp SOCKET|HOST:PORT", "the monitor, when QEMU's command line does not say it"),
            ("--layout FILE", "where the fields are: what qmr layout --save wrote"),
            ("--json", "print JSON for programs (also after the verb)"),
            ("--debug", "print the traceback of a failure"),
            ("--version", "print the version"),
        ]
    )
    yield ""
    yield "OBJ is a QOM path, a device id, the end of a path, or an address (0x...)."
    yield "exit codes: 0 nothing found, 1 findings, 2 wrong usage or target, 3 no reading"


def _here(verb: Verb) -> bool:
    return "shell" in verb.fronts


def _rows(rows: Sequence[tuple[str, str]]) -> Iterable[str]:
    return render.table((), [render.Row(row) for row in rows])
