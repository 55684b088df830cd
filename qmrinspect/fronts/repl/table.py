"""The verbs of the REPL
---------------------

What it takes beside the verbs of the table, and which of those it answers otherwise:
a session has marks, and keeps events.
"""

from __future__ import annotations

import argparse

from ...verbs.table import VERBS
from ...verbs.verb import Argument, Run, Verb, at_least_1, later

__all__ = ["REPL_VERBS"]

_REPL = frozenset(("repl",))
_LAST_SHOWN = 20


def _run(function: str) -> Run:
    return later(__package__, "verbs", function)


_LAST = Argument(
    ("--last",),
    {"type": at_least_1, "default": _LAST_SHOWN, "metavar": "N", "help": "how many (20)"},
)

_OWN = (
    Verb(
        "mark",
        "keep this instant under a name, to compare with it later",
        (Argument(("name",), {"metavar": "NAME"}, "mark"),),
        _run("run_mark"),
        _REPL,
        example="mark before, plug e1000e id=x, diff before",
    ),
    Verb("marks", "list the instants that were marked", (), _run("run_marks"), _REPL),
    Verb(
        "watch",
        "print an object's reference count whenever it changes; it is read ten times a "
        "second, and the VM is not stopped",
        (
            Argument(("object",), {"nargs": "?", "metavar": "OBJ"}, "object"),
            Argument(("--off",), {"action": "store_true", "help": "end this watch, or all"}),
        ),
        _run("run_watch"),
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
        _run("run_attach"),
        _REPL,
        example="ps lists what runs; attach stock",
    ),
    Verb("detach", "detach from the VM; it runs on", (), _run("run_detach"), _REPL),
    Verb(
        "alias",
        "give a command a short name; alias alone lists them",
        (
            Argument(("name",), {"nargs": "?", "metavar": "NAME"}, "alias"),
            Argument(("text",), {"nargs": argparse.REMAINDER, "metavar": "COMMAND"}),
            Argument(("--remove",), {"action": "store_true", "help": "forget it"}),
        ),
        _run("run_alias"),
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
        _run("run_history"),
        _REPL,
    ),
    Verb(
        "source",
        "run the commands in a file",
        (Argument(("file",), {"metavar": "FILE"}, "file"),),
        _run("run_source"),
        _REPL,
        reports=False,
        example="source recipes.qmr",
    ),
    Verb(
        "help",
        "what a verb or a QMP command takes, with examples",
        (Argument(("topic",), {"nargs": "?", "metavar": "VERB"}, "verb"),),
        _run("run_help"),
        frozenset(("repl", "gdb")),
    ),
    Verb("exit", "leave; the VM runs on (Ctrl-D)", (), _run("run_exit"), _REPL, reports=False),
    Verb("quit", "the same (qmp quit ends the VM)", (), _run("run_exit"), _REPL, reports=False),
)

_PLAIN_EVENTS = VERBS["events"]
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
    run=_run("run_events"),
    example="events DEVICE_DELETED; events --hide 'RTC_CHANGE BLOCK_*'",
)
_DIFF = VERBS["diff"]._replace(run=_run("run_diff"))
_TRACE = VERBS["trace"]._replace(
    arguments=(
        *VERBS["trace"].arguments,
        Argument(("--off",), {"action": "store_true", "help": "end this trace, or all"}),
    ),
    run=later(__package__, "tracing", "run_trace"),
    example="trace --plug intel-hda, unplug qmr0, trace --off",
)

#: Those that the REPL answers, by name.
REPL_VERBS: dict[str, Verb] = {
    **{name: verb for name, verb in VERBS.items() if "repl" in verb.fronts},
    **{verb.name: verb for verb in _OWN},
    "events": _EVENTS,
    "diff": _DIFF,
    "trace": _TRACE,
}
