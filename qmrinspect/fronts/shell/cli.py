"""The command line
----------------

``qmr [TARGET] VERB ...``: finds the target, runs a verb of the table, prints what
it answers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ... import __version__
from ...errors import QmrError, UsageError
from ...text import printable
from ..options import ANYWHERE, LIBVIRT, VALUED, Options, take

if TYPE_CHECKING:
    from ...verbs.verb import Outcome, Verb

__all__ = ["main"]

_UNEXPECTED, _INTERRUPTED = 3, 130
_COMPLAINT_MAX = 4000
_FRONTS = {"gdb": "GDB", "repl": "the REPL (qmr repl)", "shell": "the command line"}


def _split(words: Sequence[str]) -> tuple[Options, str, list[str]]:
    """Return the options, the verb (empty for none) and the verb's own words."""
    from .table import EVERY, find_verb

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
        if word in EVERY or len(places) == 2:
            break
        if not any(other in EVERY for other in rest) and not _could_be_target(word, rest):
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
    options.name = "" if places[0] in EVERY and len(places) == 1 else places[0]
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
            if options.name or not (rest[0].isdigit() or rest[0].startswith(LIBVIRT)):
                return None
            options.name = rest.pop(0)
    if rest != ["repl"]:
        return None
    options.check()
    return options


def _could_be_target(word: str, rest: Sequence[str]) -> bool:
    # With one more word it may be the verb that is misspelt.  A number, and the name
    # of a VM that runs, are targets all the same.
    if word.isdigit() or word.startswith(LIBVIRT):
        return True
    from ...monitor.processes import running

    return any(process.name == word for process in running())


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
    from ...monitor.processes import running

    return len(running()) == 1


def _run(words: Sequence[str]) -> int:
    repl = _repl_options(words)
    if repl is not None:
        from ..repl.start import start

        return start(repl, None, True)
    from ...verbs.verb import parser_for
    from .table import EVERY

    options, name, own = _split(words)
    if options.version:
        print(f"qmr {__version__}")
        return 0
    if not name:
        if not options.help:
            raise UsageError("no verb was given", "qmr check, say; qmr --help lists all")
        print("\n".join(_help()))
        return 0
    verb = EVERY[name]
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
    from ..session import ShellSession

    session = ShellSession(options)
    try:
        return _show(verb.run(session, args), as_json=getattr(args, "json", False))
    finally:
        session.progress("")
        session.close()


def _show(outcome: Outcome, as_json: bool) -> int:
    """Print what a verb answers, and return the exit code."""
    from ...report import render

    if not as_json:
        for line in outcome.lines:
            print(render.safe(line), flush=outcome.late is not None or outcome.stream)
    else:
        for text in outcome.json():
            print(text, flush=outcome.stream)
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
    from .table import EVERY

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
    yield from _rows([(name, verb.help) for name, verb in EVERY.items() if _here(verb)])
    yield ""
    yield "in the REPL also (help VERB there says more):"
    yield from _rows([(n, v.help) for n, v in EVERY.items() if v.fronts == {"repl"}])
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
    from ...report import render

    return render.table((), [render.Row(row) for row in rows])
