"""What ``qmr --help`` says
------------------------
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...report import render
from .table import EVERY

__all__ = ["EXIT_CODES", "OPTIONS", "TARGET_ROWS", "overview"]

#: What names a target.
TARGET_ROWS = (
    ("NAME | PID | --pid N", "a running QEMU, as qmr ps shows it"),
    ("libvirt:DOMAIN", "one that libvirt runs, its monitor through libvirt"),
    ("--core FILE [--exe QEMU]", "a core dump"),
    ("--snapshot FILE", "what qmr save wrote"),
    ("--remote HOST:PORT", "a gdbserver"),
)
#: What stands beside a verb.
OPTIONS = (
    ("--qmp SOCKET|HOST:PORT", "the monitor, when QEMU's command line does not say it"),
    ("--layout FILE", "where the fields are: what qmr layout --save wrote"),
    ("--json", "print JSON for programs (also after the verb)"),
    ("--wide", "show all of a table, however wide it is (after the verb)"),
    ("--debug", "print the traceback of a failure"),
    ("--version", "print the version"),
)
EXIT_CODES = "0 nothing found, 1 findings, 2 wrong usage or target, 3 no reading"


def overview() -> Iterator[str]:
    """Yield the help on everything."""
    yield "usage: qmr [TARGET] VERB ..."
    yield ""
    yield "Shows which field holds each reference of every QOM object in a running QEMU."
    yield ""
    yield "TARGET, when more than one QEMU runs (it may stand behind the verb, too):"
    yield from _rows(TARGET_ROWS)
    yield ""
    yield "verbs (qmr help VERB says more):"
    yield from _rows([(name, verb.help) for name, verb in EVERY.items() if "shell" in verb.fronts])
    yield ""
    yield "in the REPL also (help VERB there says more):"
    yield from _rows([(n, v.help) for n, v in EVERY.items() if v.fronts == {"repl"}])
    yield ""
    yield "options:"
    yield from _rows(OPTIONS)
    yield ""
    yield "OBJ is a QOM path, a device id, the end of a path, or an address (0x...)."
    yield f"exit codes: {EXIT_CODES}"


def _rows(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    return render.table((), [render.Row(row) for row in rows])
