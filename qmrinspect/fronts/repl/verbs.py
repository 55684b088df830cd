"""Verbs that only the REPL has
----------------------------

They concern the session itself: what it is attached to, the instants it keeps, what
it shows as it happens.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from ...errors import QmrError, TargetError, UsageError
from ...index import Index, printable
from ...report import render, words
from ...report.render import Row
from ...snapshot import Snapshot
from ...verbs.files import compared
from ...verbs.monitor import VERBS as MONITOR_VERBS
from ...verbs.monitor import event_line
from ...verbs.verb import Argument, Outcome, Session, Verb

if TYPE_CHECKING:
    from .session import ReplSession
    from .vm import Vm

__all__ = ["VERBS", "repl_verb"]

_REPL = frozenset(("repl",))
_WATCH_S = 0.1
_EVENTS_SHOWN = 20


def _of(session: Session) -> ReplSession:
    return cast("ReplSession", session)


# Instants --------------------------------------------------------------------------


def _mark(session: Session, args: argparse.Namespace) -> Outcome:
    repl = _of(session)
    snapshot = session.snapshot()
    again = args.name in repl.marks
    repl.marks[args.name] = snapshot
    count = render.plural(len(snapshot.objects), "object")
    name = printable(args.name)
    data = {**words.head_json("qmr-mark/1", snapshot), "name": args.name}
    moved = " is now" if again else ":"
    return Outcome(data, [f"{name}{moved} this instant, {count}; diff {name} compares with it"])


def _marks(session: Session, args: argparse.Namespace) -> Outcome:
    marks = _of(session).marks
    data = {
        "format": "qmr-marks/1",
        "marks": [
            {"name": name, "pid": s.target.pid, "objects": len(s.objects)}
            for name, s in marks.items()
        ],
    }
    rows = [
        Row((printable(name), str(s.target.pid), str(len(s.objects)))) for name, s in marks.items()
    ]
    return Outcome(
        data,
        render.table(("mark", "pid", "objects"), rows, right=(1, 2), indent=0)
        if rows
        else ["no instant is marked yet: mark NAME keeps one"],
    )


def _diff(session: Session, args: argparse.Namespace) -> Outcome:
    repl = _of(session)
    before = _instant(repl, args.before)
    return compared(before, _instant(repl, args.after))


def _instant(repl: ReplSession, name: str) -> Snapshot:
    if name == "-":
        return repl.snapshot()
    if name in repl.marks:
        return repl.marks[name]
    from ...store import load

    try:
        return load(name)
    except TargetError as error:
        known = ", ".join(map(printable, repl.marks))
        hint = f"these instants are marked: {known}" if known else "mark NAME keeps one"
        raise TargetError(error.text, hint) from None


# watch -----------------------------------------------------------------------------


def _watch(session: Session, args: argparse.Namespace) -> Outcome:
    repl = _of(session)
    if args.off:
        names = [args.object] if args.object else list(repl.watches)
        for name in names:
            if name not in repl.watches:
                raise UsageError(f"{printable(name)} is not watched", "watch alone lists them")
            repl.watches.pop(name).set()
        return _watched(names, [f"{render.plural(len(names), 'watch', 'watches')} ended"])
    if not args.object:
        names = list(repl.watches)
        lines = (
            [f"watched: {', '.join(map(printable, names))}"] if names else ["nothing is watched"]
        )
        return _watched(names, lines)
    vm = repl.attached()
    index = Index(repl.snapshot())
    address = repl.resolve(index, args.object).address
    first = vm.peek(address)
    if first is None:
        raise TargetError(f"{printable(args.object)} cannot be read", "check says what is wrong")
    name = words.short(index, address)
    if args.object in repl.watches:
        repl.watches.pop(args.object).set()
    stop = repl.watches[args.object] = threading.Event()
    threading.Thread(
        target=_look, args=(repl, vm, name, args.object, address, first, stop), daemon=True
    ).start()
    count = render.plural(first[1], "reference")
    return _watched([args.object], [f"{name} has {count}; every change will be told"])


def _watched(names: Sequence[str], lines: Sequence[str]) -> Outcome:
    return Outcome({"format": "qmr-watch/1", "watched": list(names)}, lines)


def _look(
    repl: ReplSession,
    vm: Vm,
    name: str,
    key: str,
    address: int,
    first: tuple[int, int],
    stop: threading.Event,
) -> None:
    """Tell every change of a count until it is enough, or the object has gone."""
    kind, count = first
    while not stop.wait(_WATCH_S):
        try:
            now = vm.peek(address)
        except QmrError:
            break  # the VM has gone, which is told elsewhere
        # Freed memory keeps neither its class nor a count that makes sense.
        if now is None or now[0] != kind or not now[1]:
            if not vm.ended:
                repl.notify(f"{name}: {count} -> 0 references, it was finalized", "good")
            break
        if now[1] != count:
            repl.notify(f"{name}: {count} -> {now[1]} references", "note")
            count = now[1]
    if repl.watches.get(key) is stop:
        del repl.watches[key]


# events ----------------------------------------------------------------------------


def _events(session: Session, args: argparse.Namespace) -> Outcome:
    log = _of(session).attached().log
    if args.seconds is not None or args.count is not None:
        return _PLAIN_EVENTS.run(session, args)
    if args.show is not None or args.hide is not None:
        log.shown = _patterns(args.show) or log.shown
        log.hidden = _patterns(args.hide) if args.hide is not None else log.hidden
        hidden = f", not {' '.join(log.hidden)}" if log.hidden else ""
        text = f"shown as they come: {' '.join(log.shown)}{hidden}"
        data = {"format": "qmr-events/1", "show": list(log.shown), "hide": list(log.hidden)}
        return Outcome(data, [printable(text)])
    found = log.last(args.last, args.name)
    documents = [
        {
            "format": "qmr-event/1",
            "event": event.name,
            "data": event.data,
            "timestamp_us": event.timestamp_us,
        }
        for event in found
    ]
    lines = [event_line(event) for event in found]
    total = render.plural(log.total, "event")
    return Outcome(documents, lines or [f"none of {total} so far fits"], stream=True)


def _patterns(text: str | None) -> tuple[str, ...]:
    return tuple(part for part in (text or "").replace(",", " ").split() if part != "none")


# attach, detach --------------------------------------------------------------------


def _attach(session: Session, args: argparse.Namespace) -> Outcome:
    from ..options import target_options

    vm = _of(session).attach(target_options(args.target))
    missing = vm.monitor_missing
    data = {
        "format": "qmr-attach/1",
        "name": vm.name,
        "pid": vm.pid,
        "monitor": not missing and vm.connected() is not None,
    }
    state = f", {vm.state}" if vm.state else ""
    pid = f" (pid {vm.pid})" if vm.pid else ""
    return Outcome(data, [f"attached to {vm.name}{pid}{state}"])


def _detach(session: Session, args: argparse.Namespace) -> Outcome:
    repl = _of(session)
    name = repl.attached().name
    repl.detach()
    return Outcome({"format": "qmr-detach/1", "name": name}, [f"detached from {name}"])


# The session itself ----------------------------------------------------------------


def _help(session: Session, args: argparse.Namespace) -> Outcome:
    from .help import overview, topic

    lines = list(topic(_of(session), args.topic) if args.topic else overview())
    return Outcome({"format": "qmr-help/1", "text": lines}, lines)


def _alias(session: Session, args: argparse.Namespace) -> Outcome:
    aliases = _of(session).aliases
    name, text = args.name, " ".join(args.text).lstrip("= ")
    if name and "=" in name:
        name, _, first = name.partition("=")
        text = f"{first} {text}".strip()
    if name and not text and not args.remove:
        raise UsageError(f"what shall {printable(name)} stand for?", "alias NAME COMMAND")
    if args.remove:
        if name not in aliases:
            raise UsageError(f"there is no alias {printable(name or '')}", "alias lists them")
        del aliases[name]
    elif name:
        aliases[name] = text
        return Outcome({"format": "qmr-alias/1", "aliases": dict(aliases)}, [])
    rows = [Row((printable(key), printable(value))) for key, value in sorted(aliases.items())]
    return Outcome(
        {"format": "qmr-alias/1", "aliases": dict(aliases)}, render.table((), rows, indent=0)
    )


def _history(session: Session, args: argparse.Namespace) -> Outcome:
    lines = [line for line in _of(session).history if not args.word or " ".join(args.word) in line]
    shown = [printable(line, 2000) for line in lines[-args.last :]]
    return Outcome({"format": "qmr-history/1", "lines": lines[-args.last :]}, shown)


def _source(session: Session, args: argparse.Namespace) -> Outcome:
    raise UsageError("source stands alone in its line", "source FILE")  # the engine runs it


def _exit(session: Session, args: argparse.Namespace) -> Outcome:
    _of(session).over = True
    return Outcome({"format": "qmr-exit/1"}, [])


_LAST = Argument(
    ("--last",), {"type": int, "default": _EVENTS_SHOWN, "metavar": "N", "help": "how many (20)"}
)

VERBS = (
    Verb(
        "mark",
        "keep this instant under a name, to compare with it later",
        (Argument(("name",), {"metavar": "NAME"}, "mark"),),
        _mark,
        _REPL,
        example="mark before, plug e1000e id=x, diff before",
    ),
    Verb("marks", "list the instants that were marked", (), _marks, _REPL),
    Verb(
        "watch",
        "tell an object's reference count whenever it changes; it is peeked at ten times a "
        "second, and the VM is not stopped",
        (
            Argument(("object",), {"nargs": "?", "metavar": "OBJ"}, "object"),
            Argument(("--off",), {"action": "store_true", "help": "end this watch, or all"}),
        ),
        _watch,
        _REPL,
        example="watch nic0",
    ),
    Verb(
        "attach",
        "work on another VM, a core or a saved snapshot",
        (
            Argument(
                ("target",),
                {
                    "nargs": argparse.REMAINDER,
                    "metavar": "TARGET",
                    "help": "NAME, PID, libvirt:DOMAIN, --core FILE, --snapshot FILE, --remote "
                    "HOST:PORT; with --qmp SOCKET if need be",
                },
                "target",
            ),
        ),
        _attach,
        _REPL,
        example="ps lists what runs; attach stock",
    ),
    Verb("detach", "let go of the VM; it runs on", (), _detach, _REPL),
    Verb(
        "alias",
        "give a command a short name; alias alone lists them",
        (
            Argument(("name",), {"nargs": "?", "metavar": "NAME"}, "alias"),
            Argument(("text",), {"nargs": argparse.REMAINDER, "metavar": "COMMAND"}),
            Argument(("--remove",), {"action": "store_true", "help": "forget it"}),
        ),
        _alias,
        _REPL,
        example="alias t tree --depth 2",
    ),
    Verb(
        "history",
        "the last lines that were typed (Ctrl-R searches them)",
        (
            Argument(("word",), {"nargs": "*", "metavar": "WORD", "help": "only those with it"}),
            _LAST,
        ),
        _history,
        _REPL,
    ),
    Verb(
        "source",
        "run the commands in a file",
        (Argument(("file",), {"metavar": "FILE"}, "file"),),
        _source,
        _REPL,
        reports=False,
        example="source recipes.qmr",
    ),
    Verb(
        "help",
        "what a verb or a QMP command takes, with examples",
        (Argument(("topic",), {"nargs": "?", "metavar": "VERB"}, "verb"),),
        _help,
        _REPL,
    ),
    Verb("exit", "leave; the VM runs on (Ctrl-D)", (), _exit, _REPL, reports=False),
    Verb("quit", "the same (qmp quit ends the VM)", (), _exit, _REPL, reports=False),
)

_PLAIN_EVENTS = next(verb for verb in MONITOR_VERBS if verb.name == "events")
_EVENTS = _PLAIN_EVENTS._replace(
    help="the last events, and which are shown as they come; with --seconds or --count, what "
    "QEMU announces from now on",
    arguments=(
        Argument(("name",), {"nargs": "*", "metavar": "NAME", "help": "only these"}, "event"),
        _LAST,
        Argument(
            ("--show",),
            {"metavar": "NAMES", "help": "tell these as they come: *, BLOCK_*"},
            "event",
        ),
        Argument(
            ("--hide",), {"metavar": "NAMES", "help": "but not these; none for none"}, "event"
        ),
        *_PLAIN_EVENTS.arguments,
    ),
    run=_events,
    example="events DEVICE_DELETED; events --hide 'RTC_CHANGE BLOCK_*'",
)


def repl_verb(verb: Verb) -> Verb:
    """Return a verb of the table as a session answers it: it has marks, and keeps events."""
    if verb.name == "events":
        return _EVENTS
    return verb._replace(run=_diff) if verb.name == "diff" else verb
