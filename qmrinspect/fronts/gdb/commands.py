"""Commands
--------
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Collection, Iterator, Sequence
from typing import Callable

import gdb

from ...errors import QmrError, UsageError
from ...index import Index
from ...masking import masked
from ...report import render
from ...verbs.verb import Answer, Verb, parser_for
from ..complete import complete
from ..line import parse
from ..output import fitted
from .session import Session
from .targets import Running, ask, inferior_kind, runs

__all__ = ["Command", "Group", "Help", "errors"]


class Group(gdb.Command):
    """Show which field holds each reference of every QOM object in a QEMU.

    An OBJ is a QOM path, a device id, the end of a path, an address, or any expression."""

    def __init__(self) -> None:
        super().__init__("qmr", gdb.COMMAND_DATA, prefix=True)

    def invoke(self, argument: str, from_tty: bool) -> None:
        if not argument:
            gdb.execute("help qmr")
            return
        from ..shell.table import find_verb

        with errors(False):
            verb = find_verb(argument.split()[0])
            raise UsageError(f"qmr {verb.name} makes no sense inside GDB", "run it from the shell")


class Help(gdb.Command):
    """The verb that the other fronts have: GDB's own help does its work."""

    def __init__(self, verb: Verb) -> None:
        self.__doc__ = f"{_capital(verb.help)}.\n\n{parser_for(verb).format_help().rstrip()}"
        super().__init__("qmr help", gdb.COMMAND_DATA)

    def invoke(self, argument: str, from_tty: bool) -> None:
        gdb.execute(f"help qmr {argument}".rstrip())


class Command(gdb.Command):
    """One verb.

    :param name: how it is called, None for ``qmr VERB``.
    """

    def __init__(self, session: Session, verb: Verb, name: str | None = None) -> None:
        self._session = session
        self._verb = verb
        self.__doc__ = f"{_capital(verb.help)}.\n\n{parser_for(verb).format_help().rstrip()}"
        super().__init__(name or f"qmr {verb.name}", gdb.COMMAND_DATA)

    def invoke(self, argument: str, from_tty: bool) -> None:
        with errors("--debug" in argument.split()):
            if runs() and inferior_kind() != "core":
                _when_stopped(lambda: self._run(argument))
            else:
                self._run(argument)

    def _run(self, argument: str) -> None:
        session = self._session
        _code(2)
        line = parse(self._verb, argument)
        session.qmp, session.layout_file = line.qmp, line.layout
        width = gdb.parameter("width")
        render.use_style(render.Style(_colored(), width if isinstance(width, int) else None))
        try:
            answer = fitted(self._verb.run(session, line.args), line.args)
            _show(answer, getattr(line.args, "json", False))
            _code(answer.late() if answer.late is not None else answer.code)
        except QmrError as error:
            _code(error.exit_code)
            raise
        finally:
            session.progress(None)
            session.close_monitor()

    def complete(self, text: str, word: str | None) -> Sequence[str] | int:
        try:
            found = complete(self._verb, text, self._names, self._more)
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

    def _more(self, kind: str, token: str) -> Collection[str]:
        if kind != "driver":
            return ()
        self._names()
        return self._session.drivers()

    def _names(self) -> Index | None:
        last = self._session.last_index()
        if last is None:
            with contextlib.suppress(QmrError, Running, gdb.error):
                last = self._session.index()
        return last


def _colored() -> bool:
    """Whether GDB itself shows colours here: ``set style enabled``, on a terminal."""
    if not os.isatty(1) or os.environ.get("TERM") == "dumb" or os.environ.get("NO_COLOR"):
        return False
    try:
        return bool(gdb.parameter("style enabled"))
    except RuntimeError:
        return False  # before GDB 8.3


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _code(code: int) -> None:
    """Leave the exit code where a script finds it: ``$_qmr_exitcode``."""
    gdb.set_convenience_variable("_qmr_exitcode", code)


def _show(answer: Answer, as_json: bool) -> None:
    if as_json:
        for text in answer.json():
            _write(text)
    else:
        for text in answer.lines:
            _write(text)


def _write(text: str) -> None:
    # What a VM's memory says need not be text.
    gdb.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")


@contextlib.contextmanager
def errors(debug: bool) -> Iterator[None]:
    """Turn every failure into one sentence of GDB's.

    A user of pwndbg or GEF has full stacks as a setting: what is wrong with a line shows none.
    """
    shown = debug
    try:
        yield
    except SystemExit:
        return  # --help was asked for and answered
    except QmrError as error:
        text = "\n".join((str(error), *error.lines))
    except gdb.GdbError:
        raise
    except gdb.error as error:
        text = f"GDB says: {error}"
    except KeyboardInterrupt:
        raise gdb.GdbError("Quit") from None
    except Running:
        text = "the inferior runs: stop it first (interrupt)"
    except Exception as error:
        text = f"qmr failed ({error!r}): set python print-stack full shows where"
        shown = debug or gdb.parameter("python print-stack") == "full"
    else:
        return
    if shown:
        gdb.write(masked(traceback.format_exc()), gdb.STDERR)
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
            with errors(False):
                work()
        except gdb.GdbError as error:
            gdb.write(f"{error}\n", gdb.STDERR)
        finally:
            _resume(running)

    gdb.events.stop.connect(stopped)
    ask("interrupt -a" if gdb.parameter("non-stop") else "interrupt")


def _resume(threads: list[gdb.InferiorThread]) -> None:
    here = gdb.selected_thread()
    for thread in threads:
        if thread.is_valid() and thread.is_stopped():
            thread.switch()
            ask("continue &")
            if not gdb.parameter("non-stop"):
                break
    if here is not None and here.is_valid():
        here.switch()
