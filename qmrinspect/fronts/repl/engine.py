"""Running lines
-------------

One line of the REPL, from text to output: a verb of the table, a QMP command or a line
of the human monitor, printed, written to a file or sent through a shell pipeline.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Callable

from ...errors import QmrError, TargetError, UsageError
from ...report import render
from ...text import nearest, printable
from ...verbs.properties import json_arguments
from ...verbs.verb import Answer, Verb
from .. import line as words_of
from ..hints import typed
from ..jobs import Cancelled, current
from ..output import fitted
from .line import expand, first_word, logical_lines, parse_command
from .output import Kept, Output, opened, piped
from .session import ReplSession
from .statements import LAST, Result, assigned, habit, statements
from .table import REPL_VERBS

__all__ = ["Engine", "complaint", "guarded"]

_UNEXPECTED = 3
_COMPLAINT_MAX = 4000
_SOURCE_DEPTH_MAX = 8


def complaint(error: Exception) -> str:
    """Return a failure as one line for people."""
    if isinstance(error, QmrError):
        return printable(typed(str(error), "repl"), _COMPLAINT_MAX)
    return printable(
        f"qmr failed unexpectedly ({type(error).__name__}: {error}): run qmr repl --debug, and "
        "report what it prints",
        _COMPLAINT_MAX,
    )


class Engine:
    """Runs lines for a session."""

    def __init__(self, session: ReplSession) -> None:
        self.session = session
        session.verbs = REPL_VERBS
        self._depth = 0

    def run(self, line: str, output: Output) -> int:
        """Run a line and return its exit code, 0 or 1.

        :raises QmrError: it makes no sense, or failed.
        """
        code = 0
        for part in statements(line):
            # What an alias stands for may be several commands.
            for text in statements(expand(part, self.session.aliases)):
                code = max(code, self._statement(text, output))
                if self.session.over:
                    return code
        return code

    def _statement(self, text: str, output: Output) -> int:
        if text.startswith("#"):
            return 0
        if text.startswith("!"):
            return self._shell(text[1:].strip(), output)
        if first_word(text)[0] == "%time":
            return self._timed(first_word(text)[1], output)
        name, text = assigned(text, REPL_VERBS)
        command = parse_command(habit(text, REPL_VERBS))
        word, rest = first_word(command.text)
        if not word:
            return 0
        if word == "source":
            return self._source(rest.strip().strip("'\""), output)
        code = 0
        with opened(command, output) as out:
            kept = Kept(out)
            answer, as_json = self._answer(word, rest, command.text)
            try:
                code = _print(answer, as_json, kept)
            finally:
                self.session.activity = None
                # A pipeline may have read enough before the end.
                self._remember(name, word, text, answer, kept)
        return code

    def _remember(self, name: str | None, word: str, text: str, answer: Answer, kept: Kept) -> None:
        vm = self.session.vm
        data = None if answer.stream else answer.data
        result = Result(text, tuple(kept.lines), data, vm.last if vm is not None else None)
        if word not in self.session.results:
            self.session.results[LAST] = result
        if name:
            self.session.results[name] = result

    def _again(self, result: Result, rest: str) -> tuple[Answer, bool]:
        """Show once more what a command answered."""
        as_json, rest = _json_option(rest)
        if rest.strip():
            raise UsageError(
                f"it is what {printable(result.command)} answered, and takes nothing",
                "show it, or name it where an object or an instant is wanted: why _, diff _",
            )
        return Answer(result.data, result.lines), as_json

    def _timed(self, text: str, output: Output) -> int:
        if not text:
            raise UsageError("%time is given no command", "%time COMMAND")
        begin = time.perf_counter()
        code = self._statement(text, output)
        output.line(f"took {time.perf_counter() - begin:.3f} s")
        return code

    def _shell(self, text: str, output: Output) -> int:
        if not text:
            raise UsageError("! is given no command", "! COMMAND runs one of the shell")
        with piped(text, output):
            return 0

    def settle(self) -> None:
        """Sum up what a command read, for the status bar."""
        vm = self.session.vm
        if vm is not None:
            with contextlib.suppress(QmrError):
                vm.settle()

    def _source(self, file: str, output: Output) -> int:
        if not file:
            raise UsageError("which file?", "source FILE")
        if self._depth >= _SOURCE_DEPTH_MAX:
            raise UsageError(f"{file} is read within itself", "it must not source itself")
        try:
            lines = Path(file).expanduser().read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise TargetError(f"{file} cannot be read: {error.strerror}") from None
        self._depth += 1
        code = 0
        try:
            for number, line in logical_lines(lines.splitlines()):
                try:
                    code = max(code, self.run(line, output))
                except QmrError as error:
                    if isinstance(error, Cancelled):
                        raise
                    where = f"{printable(file)}, line {number}: {error.text}"
                    raise UsageError(where, error.hint) from error
        finally:
            self._depth -= 1
        return code

    def _answer(self, word: str, rest: str, text: str) -> tuple[Answer, bool]:
        if word.startswith("{"):
            return self._message(text), False
        if word == "info":
            return self._hmp(text), False
        if word == "hmp":
            as_json, rest = _json_option(rest)
            if rest.strip() not in ("-h", "--help", ""):
                return self._hmp(rest), as_json
        if word == "qmp":
            as_json, rest = _json_option(rest)
            if rest.startswith("{"):
                return self._message(rest), as_json
            if rest.strip() not in ("-h", "--help", ""):
                return self._command(rest), as_json
        verb = REPL_VERBS.get(word)
        if verb is not None:
            return self._verb(verb, rest)
        if word in self.session.results:
            return self._again(self.session.results[word], rest)
        if word == LAST:
            raise UsageError("nothing was answered yet", "_ is what the last command answered")
        if word == "repl":
            raise UsageError("repl makes no sense in the REPL", "use it on the command line")
        return self._command(text), False

    def _verb(self, verb: Verb, rest: str) -> tuple[Answer, bool]:
        if set(rest.split()) & {"-h", "--help"}:
            from .help import topic

            return Answer(None, topic(self.session, verb.name)), False
        if verb.name == "attach":
            # What it takes are options of qmr, not of a verb.
            as_json, rest = _json_option(rest)
            return verb.run(self.session, argparse.Namespace(target=words_of.split(rest))), as_json
        try:
            args = words_of.parse(verb, rest).args
        except UsageError as error:
            raise UsageError(error.text.replace("qmr ", "", 1), f"see help {verb.name}") from None
        return fitted(verb.run(self.session, args), args, "repl"), getattr(args, "json", False)

    # The monitor.

    def _hmp(self, line: str) -> Answer:
        return REPL_VERBS["hmp"].run(
            self.session, argparse.Namespace(line=[line.strip()], json=False)
        )

    def _message(self, text: str) -> Answer:
        try:
            message = json.loads(text)
            command, arguments = str(message["execute"]), message.get("arguments")
            if arguments is not None and not isinstance(arguments, dict):
                raise TypeError
        except ValueError as error:
            raise UsageError(f"this is no JSON: {error}", '{"execute": "NAME"}') from None
        except (KeyError, TypeError):
            raise UsageError(
                "this is no QMP message", 'write {"execute": "NAME", "arguments": {...}}'
            ) from None
        return self._execute(command, arguments)

    def _command(self, text: str) -> Answer:
        command, rest = first_word(text)
        schema = self.session.knowledge.schema()
        if schema is None:
            vm = self.session.vm
            if vm is None or not _like_qmp(command):
                raise self._unknown(command, ())
            self.session.monitor()  # says why there is none
            schema = self.session.knowledge.schema()
        if schema is None or command not in schema.commands:
            raise self._unknown(command, schema.commands if schema else ())
        if rest.startswith("{"):
            return self._execute(command, json_arguments(rest))
        words = words_of.split(rest)
        typed = schema.typed(command, words, self.session.knowledge.properties)
        return self._execute(command, typed)

    def _unknown(self, word: str, commands: Iterable[str]) -> UsageError:
        known = [*REPL_VERBS, *self.session.aliases, *commands]
        near = nearest(word, known)
        hint = "did you mean " + " or ".join(near) + "?" if near else "help lists the verbs"
        return UsageError(f"there is no verb and no QMP command {printable(word)}", hint)

    def _execute(self, command: str, arguments: Mapping[str, object] | None) -> Answer:
        answer = self.session.monitor().execute(command, arguments or None)
        data = {"format": "qmr-qmp/1", "command": command, "return": answer}
        return Answer(data, [_JSON + json.dumps(answer, indent=2)])


# Marks a line of text that is a JSON document; no verb prints such a character.
_JSON = "\0"


def _json_option(rest: str) -> tuple[bool, str]:
    word, after = first_word(rest)
    return (True, after) if word == "--json" else (False, rest)


def _like_qmp(word: str) -> bool:
    return bool(word) and word.replace("-", "").replace("_", "").isalnum()


def _print(answer: Answer, as_json: bool, out: Output) -> int:
    job = current()
    if not as_json:
        for text in answer.lines:
            if job is not None:
                job.check()
            if text.startswith(_JSON):
                out.json(text[1:])
            else:
                out.line(render.safe(text))
    else:
        for text in answer.json():
            if job is not None:
                job.check()
            out.json(text)
    return answer.late() if answer.late is not None else answer.code


def guarded(engine: Engine, line: str, output: Output, complain: Callable[[str], None]) -> int:
    """Run a line and return its exit code; what fails is printed, not raised."""
    try:
        return engine.run(line, output)
    except Cancelled:
        return 130
    except SystemExit:
        return 0
    except Exception as error:
        job = current()
        if job is None or not job.cancelled:
            complain(complaint(error))
            for text in error.lines if isinstance(error, QmrError) else ():
                complain(printable(text, _COMPLAINT_MAX))
        return error.exit_code if isinstance(error, QmrError) else _UNEXPECTED
    finally:
        engine.session.activity = None
