"""The command line
----------------

``qmr [TARGET] VERB ...``: finds the target, runs a verb of the table, prints what
it answers.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ... import __version__
from ...errors import QmrError, TargetError, UsageError
from ...text import printable
from ..options import Options
from .words import repl_options, split

if TYPE_CHECKING:
    from ...verbs.verb import Answer, Verb
    from ..session import ShellSession

__all__ = ["main"]

_UNEXPECTED, _INTERRUPTED = 3, 130
_COMPLAINT_MAX = 4000
_FRONTS = {"gdb": "GDB", "repl": "the REPL (qmr repl)", "shell": "the command line"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run qmr and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    _prepare_streams()
    # What is read is kept until the end, and looking for garbage in it costs a tenth.
    gc.set_threshold(100_000, 50, 20)
    if not words and sys.stdin.isatty() and sys.stdout.isatty() and _one_runs():
        words = ["repl"]
    try:
        code = _run(words)
        _flush()
        return code
    except KeyboardInterrupt as interrupt:
        if debug:
            _traceback()
        # A terminal shows ^C where the cursor is.
        begin = "\n" if sys.stderr.isatty() else ""
        _say(f"{begin}qmr: interrupted{': ' if str(interrupt) else ''}{interrupt}")
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
    repl = repl_options(words)
    if repl is not None:
        from ..repl.start import start

        return start(repl, None, True)
    from .table import EVERY

    options, name, own = split(words)
    if options.version:
        _put(f"qmr {__version__}")
        return 0
    if name == "help":
        name, own, options.help = _topic(own), [], True
    if not name:
        if not options.help:
            raise UsageError("no verb was given", "qmr check, say; qmr --help lists all")
        from .overview import overview

        _put("\n".join(overview()))
        return 0
    return _answer(EVERY[name], options, own)


def _answer(verb: Verb, options: Options, own: list[str]) -> int:
    """Run a verb on its words, and return the exit code."""
    from ...verbs.verb import parsed, parser_for

    if options.json and verb.reports and "--json" not in own:
        own = ["--json", *own]
    if options.help or {"-h", "--help"} & set(own[: own.index("--") if "--" in own else None]):
        _put(parser_for(verb).format_help().rstrip())
        return 0
    args = parsed(verb, own)
    options.check()
    if "shell" not in verb.fronts:
        raise UsageError(
            f"{verb.name} makes no sense on the command line",
            f"use it in {' or '.join(_FRONTS[front] for front in sorted(verb.fronts))}",
        )
    from ..hints import typed_error
    from ..output import fitted
    from ..session import ShellSession

    session = ShellSession(options)
    try:
        answer = fitted(verb.run(session, args), args, "shell", options.target_words())
        return _show(session, answer, as_json=getattr(args, "json", False))
    except QmrError as error:
        raise typed_error(error, "shell", options.target_words()) from error.__cause__
    finally:
        session.progress(None)
        session.close()


def _topic(words: Sequence[str]) -> str | None:
    """Return the verb that ``qmr help`` is asked for, None for all."""
    from .table import find_verb

    if len(words) > 1:
        raise UsageError("help takes one verb", "qmr help refs, say; qmr help lists them")
    return find_verb(words[0]).name if words else None


def _show(session: ShellSession, answer: Answer, as_json: bool) -> int:
    """Print what a verb answers, and return the exit code."""
    try:
        return _printed(session, answer, as_json)
    except KeyboardInterrupt:
        if answer.interrupted is None:
            raise
        raise KeyboardInterrupt(answer.interrupted()) from None


def _printed(session: ShellSession, answer: Answer, as_json: bool) -> int:
    from ...report import render

    lasts = answer.late is not None or answer.stream
    if not as_json:
        for line in answer.lines:
            with session.above():
                _put(render.safe(line), flush=lasts)
    else:
        for text in answer.json():
            with session.above():
                _put(text, flush=answer.stream)
    _flush()
    return answer.late() if answer.late is not None else answer.code


# Streams ---------------------------------------------------------------------------


def _prepare_streams() -> None:
    # One that was closed takes what is written, and drops it.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    # A name from the VM, or a file's, may be none that the terminal's encoding has.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _put(text: str, flush: bool = False) -> None:
    """Print to stdout.

    :raises TargetError: nothing can be written there, a full disk maybe.
    """
    try:
        print(text, flush=flush)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from None


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from None


def _unwritable(error: OSError) -> TargetError:
    # What is left in the buffer would fail once more when Python ends.
    _pipe_closed()
    return TargetError(
        f"the output cannot be written: {error.strerror}", "make room, or send it elsewhere"
    )


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _pipe_closed() -> int:
    # Who read our output has seen enough.  Python would complain at its own exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _complain(text: str, hint: str | None, lines: Iterable[str] = ()) -> None:
    # QEMU's own words may quote what a guest or a user made up.
    first = f"qmr: {text}" + (f": {hint}" if hint else "")
    width = _stderr_width()
    for line in (printable(part, _COMPLAINT_MAX) for part in (first, *lines)):
        if width and len(line) > width:
            from ...report.render import between_words

            _say("\n".join(between_words(line, width)))
        else:
            _say(line)


def _stderr_width() -> int | None:
    """Return the columns of the terminal that complaints go to, None where it is none."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else None
    except (OSError, ValueError):
        return None


def _traceback() -> None:
    import traceback

    from ...masking import masked

    _say(masked(traceback.format_exc().rstrip()))
