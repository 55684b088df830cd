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
from ...index import Index
from ...report import render, words
from ...report.render import Row
from ...snapshot import Snapshot
from ...text import printable
from ...verbs.files import compared
from ...verbs.monitor import event_json, event_line
from ...verbs.table import VERBS
from ...verbs.verb import Answer, Session

if TYPE_CHECKING:
    from .session import ReplSession
    from .vm import Vm

__all__ = [
    "run_alias",
    "run_attach",
    "run_detach",
    "run_diff",
    "run_events",
    "run_exit",
    "run_help",
    "run_history",
    "run_mark",
    "run_marks",
    "run_source",
    "run_watch",
]

_WATCH_S = 0.1


def _of(session: Session) -> ReplSession:
    return cast("ReplSession", session)


# Instants --------------------------------------------------------------------------


def run_mark(session: Session, args: argparse.Namespace) -> Answer:
    """Keep the VM as it is now under a name (``qmr-mark/1``); an older mark of the name goes."""
    repl = _of(session)
    snapshot = session.snapshot()
    again = args.name in repl.marks
    repl.marks[args.name] = snapshot
    count = render.plural(len(snapshot.objects), "object")
    name = printable(args.name)
    data = {**words.head_json("qmr-mark/1", snapshot), "name": args.name}
    moved = " is now" if again else ":"
    return Answer(data, [f"{name}{moved} this instant, {count}; diff {name} compares with it"])


def run_marks(session: Session, args: argparse.Namespace) -> Answer:
    """List the marks with the pid of their VM and the number of objects (``qmr-marks/1``)."""
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
    return Answer(
        data,
        render.table(("mark", "pid", "objects"), rows, right=(1, 2), indent=0)
        if rows
        else ["no instant is marked yet: mark NAME keeps one"],
    )


def run_diff(session: Session, args: argparse.Namespace) -> Answer:
    """Compare a mark, a file or the VM as it is with another (``qmr-diff/1``)."""
    repl = _of(session)
    before = _instant(repl, args.before)
    return compared(before, _instant(repl, args.after))


def _instant(repl: ReplSession, name: str) -> Snapshot:
    if name == "-":
        return repl.snapshot()
    if name in repl.marks:
        return repl.marks[name]
    if name in repl.results:
        snapshot = repl.results[name].snapshot
        if snapshot is None:
            raise TargetError(f"{printable(name)} read nothing", "mark NAME keeps an instant")
        return snapshot
    from ...store import load

    try:
        return load(name)
    except TargetError as error:
        known = ", ".join(map(printable, repl.marks))
        hint = f"these instants are marked: {known}" if known else "mark NAME keeps one"
        raise TargetError(error.text, hint) from None


# watch -----------------------------------------------------------------------------


def run_watch(session: Session, args: argparse.Namespace) -> Answer:
    """Print every change of an object's count, end that, or list what is watched.

    :raises UsageError: there is no such watch to end.
    :raises TargetError: the VM cannot be read any more.
    """
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
        target=_report_changes,
        args=(repl, vm, name, args.object, address, first, stop),
        daemon=True,
    ).start()
    count = render.plural(first[1], "reference")
    return _watched([args.object], [f"{name} has {count}; every change is printed"])


def _watched(names: Sequence[str], lines: Sequence[str]) -> Answer:
    return Answer({"format": "qmr-watch/1", "watched": list(names)}, lines)


def _report_changes(
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
            break  # the VM has gone, which is said elsewhere
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


def run_events(session: Session, args: argparse.Namespace) -> Answer:
    """Print the events that QEMU sends (``qmr-event/1``), those kept before as well."""
    log = _of(session).attached().log
    if args.seconds is not None or args.count is not None:
        return VERBS["events"].run(session, args)
    if args.show is not None or args.hide is not None:
        log.shown = _patterns(args.show) or log.shown
        log.hidden = _patterns(args.hide) if args.hide is not None else log.hidden
        hidden = f", not {' '.join(log.hidden)}" if log.hidden else ""
        text = f"shown as they come: {' '.join(log.shown)}{hidden}"
        data = {"format": "qmr-events/1", "show": list(log.shown), "hide": list(log.hidden)}
        return Answer(data, [printable(text)])
    found = log.last(args.last, args.name)
    documents = [event_json(event) for event in found]
    lines = [event_line(event) for event in found]
    total = render.plural(log.total, "event")
    if not lines:
        lines = [f"none of {total} so far fits" if log.total else "no event yet"]
        lines.append("those to come are shown as they come; events --count 1 waits for one")
    return Answer(documents, lines, stream=True)


def _patterns(text: str | None) -> tuple[str, ...]:
    return tuple(part for part in (text or "").replace(",", " ").split() if part != "none")


# attach, detach --------------------------------------------------------------------


def run_attach(session: Session, args: argparse.Namespace) -> Answer:
    """Go to another VM; the monitor of the one before is closed."""
    from ..options import target_options

    vm = _of(session).attach(target_options(args.target))
    missing = vm.monitor_missing
    data = {
        "format": "qmr-attach/1",
        "name": vm.name,
        "pid": vm.pid or 0,
        "monitor": not missing and vm.connected() is not None,
    }
    state = f", {vm.state}" if vm.state else ""
    pid = f" (pid {vm.pid})" if vm.pid else ""
    return Answer(data, [f"attached to {vm.name}{pid}{state}"])


def run_detach(session: Session, args: argparse.Namespace) -> Answer:
    """Leave the VM; it runs on."""
    repl = _of(session)
    name = repl.attached().name
    repl.detach()
    return Answer({"format": "qmr-detach/1", "name": name}, [f"detached from {name}"])


# The session itself ----------------------------------------------------------------


def run_help(session: Session, args: argparse.Namespace) -> Answer:
    """Explain a verb, a QMP command or a driver; without a name list the verbs."""
    from .help import overview, topic

    lines = list(topic(_of(session), args.topic) if args.topic else overview(_of(session)))
    return Answer({"format": "qmr-help/1", "text": lines}, lines)


def run_alias(session: Session, args: argparse.Namespace) -> Answer:
    """Give a command a name, take one back, or list them (``qmr-alias/1``).

    :raises UsageError: there is no such name, or it may not be given.
    """
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
        return Answer({"format": "qmr-alias/1", "aliases": dict(aliases)}, [])
    rows = [Row((printable(key), printable(value))) for key, value in sorted(aliases.items())]
    return Answer(
        {"format": "qmr-alias/1", "aliases": dict(aliases)}, render.table((), rows, indent=0)
    )


def run_history(session: Session, args: argparse.Namespace) -> Answer:
    """List the last lines, or those with a word in them (``qmr-history/1``)."""
    lines = [line for line in _of(session).history if not args.word or " ".join(args.word) in line]
    shown = [printable(line, 2000) for line in lines[-args.last :]]
    return Answer({"format": "qmr-history/1", "lines": lines[-args.last :]}, shown)


def run_source(session: Session, args: argparse.Namespace) -> Answer:
    """Refuse ``source`` where it is not alone in its line: the engine runs files.

    :raises UsageError: always.
    """
    raise UsageError("source stands alone in its line", "source FILE")  # the engine runs it


def run_exit(session: Session, args: argparse.Namespace) -> Answer:
    """End the session; a VM that it started ends as well."""
    _of(session).over = True
    return Answer({"format": "qmr-exit/1"}, [])
