"""Tracing beside the prompt
-------------------------
"""

from __future__ import annotations

import argparse
import threading
from typing import TYPE_CHECKING, cast

from ...errors import QmrError, UsageError
from ...text import printable
from ...verbs.trace import Work, begin
from ...verbs.trace import run_trace as run_plain
from ...verbs.verb import Answer, Session

if TYPE_CHECKING:
    from .session import ReplSession

__all__ = ["run_trace"]


def run_trace(session: Session, args: argparse.Namespace) -> Answer:
    """Begin a trace whose lines are printed as they come, end one, or list them.

    :raises UsageError: there is no such trace to end.
    """
    repl = cast("ReplSession", session)
    key = args.object or (args.plug[0] if args.plug else None)
    if args.off or key is None:
        names = [key] if key is not None else list(repl.traces)
        for name in names if args.off else ():
            if name not in repl.traces:
                raise UsageError(f"{printable(name)} is not traced", "trace alone lists them")
            repl.traces[name].set()
        text = f"traced: {', '.join(map(printable, names))}" if names else "nothing is traced"
        return _traced(names, [] if args.off and names else [text])
    if args.json or args.folded:
        return run_plain(session, args)
    work = begin(session, args)
    if key in repl.traces:
        repl.traces.pop(key).set()
    repl.traces[key] = work.over
    threading.Thread(target=_report, args=(repl, key, work), daemon=True).start()
    return _traced([key], [f"tracing {printable(key)} beside the prompt; trace --off ends it"])


def _traced(names: list[str], lines: list[str]) -> Answer:
    return Answer({"format": "qmr-traces/1", "traced": names}, lines)


def _report(repl: ReplSession, key: str, work: Work) -> None:
    """Tell the lines of a trace above the prompt, as they come."""
    try:
        for line in work.lines():
            repl.notify(line, None)
    except QmrError as error:
        repl.notify(str(error), "error")
    finally:
        if repl.traces.get(key) is work.over:
            del repl.traces[key]
