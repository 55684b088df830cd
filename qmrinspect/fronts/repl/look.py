"""Colours while typing, and the menu of completions
-------------------------------------------------
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Callable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.lexers import Lexer

from ...errors import QmrError
from ...report import render
from .completion import LineCompleter
from .line import first_word
from .session import ReplSession
from .table import REPL_VERBS

__all__ = ["LineLexer", "MenuCompleter", "highlighted"]

# Longer documents are shown as they are: colouring them would take longer than reading.
_JSON_MAX = 500_000
_LINE_MAX = 4000

_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*"?|'[^']*'?)
      | (?P<key>[\w.-]+(?==))
      | (?P<option>(?<!\S)--?[A-Za-z][\w-]*)
      | (?P<number>(?<![\w.-])(?:0x[0-9a-fA-F]+|-?\d+)\b|\b(?:true|false|null)\b)
      | (?P<operator>>>?|\||[{}\[\],:])
      | (?P<other>[\w./-]+|\s+|.)""",
    re.X,
)


class LineLexer(Lexer):
    """Colours a line: its verb, the keys and values, JSON, where the output goes."""

    def __init__(self, session: ReplSession) -> None:
        self._session = session

    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        lines = document.lines

        def line(number: int) -> StyleAndTextTuples:
            try:
                text = lines[number]
            except IndexError:
                return []
            if len(text) > _LINE_MAX:
                return [("", text)]
            return self._colored(text, number == 0)

        return line

    def _colored(self, text: str, first: bool) -> StyleAndTextTuples:
        if text.lstrip().startswith("#"):
            return [("class:comment", text)]
        out: StyleAndTextTuples = []
        word = first_word(text)[0] if first else ""
        at = 0
        if word and not word.startswith("{"):
            at = text.index(word) + len(word)
            out.append((self._style_of(word), text[:at]))
        for match in _TOKEN.finditer(text, at):
            kind = match.lastgroup or "other"
            out.append(("" if kind == "other" else f"class:{kind}", match.group(0)))
        return out

    def _style_of(self, word: str) -> str:
        if word in REPL_VERBS or word in self._session.aliases or word == "info":
            return "class:verb"
        schema = self._session.knowledge.known_schema()
        return "class:command" if schema is not None and word in schema.commands else ""


class MenuCompleter(Completer):
    """Completions as prompt_toolkit wants them; it calls this in a thread."""

    def __init__(self, session: ReplSession) -> None:
        self._lines = LineCompleter(session, session.knowledge, REPL_VERBS)
        self._files = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        line = document.text_before_cursor
        behind = re.search(r">>?\s*(\S*)$", line)
        if behind:
            yield from self._paths(behind.group(1), complete_event)
            return
        try:
            found = self._lines.complete(line)
        except QmrError:
            return
        for name in found.candidates:
            yield Completion(name, start_position=-len(found.token))
        if found.file:
            yield from self._paths(found.token, complete_event)

    def _paths(self, token: str, event: CompleteEvent) -> Iterable[Completion]:
        for found in self._files.get_completions(Document(token), event):
            if found.text.isprintable():
                yield found


def highlighted(text: str) -> str:
    """Return JSON in colours, where there are any.

    It is ASCII already: what a name may do to a terminal is escaped by JSON itself.
    """
    if not render.style().color or len(text) > _JSON_MAX:
        return text
    from pygments import highlight
    from pygments.formatters import TerminalFormatter
    from pygments.lexers.data import JsonLexer

    dark = "15;" not in os.environ.get("COLORFGBG", "")
    formatter = TerminalFormatter(bg="dark" if dark else "light")
    return str(highlight(text, JsonLexer(), formatter)).rstrip("\n")
