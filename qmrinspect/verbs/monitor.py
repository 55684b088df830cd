"""Verbs that drive the monitor
----------------------------
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import TargetError, UsageError
from ..hotplug.reset import death_explained
from ..monitor.arguments import typed
from ..monitor.base import Event
from ..report import render
from ..text import printable
from .properties import json_arguments
from .verb import CLEAN, Answer, Session

__all__ = [
    "event_json",
    "event_line",
    "run_events",
    "run_gdb_script",
    "run_hmp",
    "run_qmp",
]

_EVENT_POLL_S = 0.5
# How the human monitor says that it did not do what it was asked: monitor/hmp.c and
# hmp_handle_error().
_HMP_ERROR = re.compile(
    r"^(?:Error: |unknown command: |Try \"help |Command '.*' not available |invalid char )", re.M
)


# qmp, hmp, events ------------------------------------------------------------------


def run_qmp(session: Session, args: argparse.Namespace) -> Answer:
    """Run a command of QMP, its arguments typed by QEMU's schema (``qmr-qmp/1``)."""
    command = args.command
    if command.startswith("{"):
        command, arguments = _message(" ".join([command, *args.argument]))
    else:
        rest = " ".join(args.argument)
        arguments = (
            json_arguments(rest)
            if rest.startswith("{")
            else typed(session.monitor(), command, args.argument)
        )
    with death_explained(command, session.snapshot):
        answer = session.monitor().execute(command, arguments or None)
    data = {"format": "qmr-qmp/1", "command": command, "return": answer}
    return Answer(data, json.dumps(answer, indent=2).splitlines(), raw=True)


def _message(text: str) -> tuple[str, dict[str, object]]:
    try:
        message = json.loads(text)
        command, arguments = message["execute"], message.get("arguments", {})
        if not isinstance(command, str) or not isinstance(arguments, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            "the command is no QMP message", 'write NAME k=v... or {"execute": "NAME"}'
        ) from None
    return command, arguments


def run_hmp(session: Session, args: argparse.Namespace) -> Answer:
    """Run a line of the human monitor (``qmr-hmp/1``)."""
    line = " ".join(args.line)
    with death_explained(line.strip(), session.snapshot):
        printed = session.monitor().hmp(line)
    data = {"format": "qmr-hmp/1", "line": line, "output": printed}
    # What a guest may name (a device, a block node) comes through here as well.
    lines = [printable(row.expandtabs(), 4000) for row in printed.splitlines()]
    # QEMU has no other word for a failure here.
    return Answer(data, lines, 2 if _HMP_ERROR.search(printed) else CLEAN, raw=True)


def run_events(session: Session, args: argparse.Namespace) -> Answer:
    """Print events as they come (``qmr-event/1``, a line an event)."""
    found = _arriving(session, args.seconds, args.count)
    data = (event_json(event) for event in found)
    return Answer(data, _event_lines(found, args.seconds), stream=True, raw=True)


def _event_lines(found: Iterator[Event], seconds: float | None) -> Iterator[str]:
    event = None
    for event in found:
        yield event_line(event)
    if event is None and seconds is not None:
        yield f"no event came in {seconds:g} s"


def _arriving(session: Session, seconds: float | None, count: int | None) -> Iterator[Event]:
    """Yield events until enough came, the time is over, or the user has seen enough."""
    monitor = session.monitor()
    what = "events" if count is None else render.plural(count, "event")
    until = "Ctrl-C ends it" if seconds is None else f"{seconds:g} s at most"
    waits = f"waiting for {what} of QEMU, {until}"
    deadline = time.monotonic() + seconds if seconds is not None else None
    seen = 0
    try:
        while count is None or seen < count:
            session.progress(f"{waits}; {seen} so far" if seen else waits)
            left = _EVENT_POLL_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return
            event = monitor.wait_event(lambda event: True, min(left, _EVENT_POLL_S))
            if event is not None:
                seen += 1
                session.progress(None)
                yield event
    except KeyboardInterrupt:
        return
    finally:
        session.progress(None)


def event_line(event: Event) -> str:
    """Return an event as one line: when, which, what."""
    data = f" {json.dumps(event.data)}" if event.data else ""
    return f"{event.clock()} {printable(event.name)}{data}"


def event_json(event: Event) -> dict[str, object]:
    """Return an event as ``qmr-event/1``."""
    return {
        "format": "qmr-event/1",
        "event": event.name,
        "data": event.data,
        "timestamp_us": event.timestamp_us or 0,
    }


# gdb-script ------------------------------------------------------------------------


def run_gdb_script(session: Session, args: argparse.Namespace) -> Answer:
    """Print the path of the script that GDB is to source."""
    package = Path(__file__).resolve().parent.parent
    places = (package.parent / "gdb" / "qmr.py", package / "gdb_script" / "qmr.py")
    for place in places:
        if place.is_file():
            data = {"format": "qmr-gdb-script/1", "path": str(place)}
            return Answer(data, [str(place)], raw=True)
    raise TargetError("this installation of qmr has no script for GDB", "install qmr again")
