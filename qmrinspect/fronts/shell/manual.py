"""Man pages
---------

``qmr.1``, and one page a verb, made from the verbs when the package is built.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

from ... import __version__
from ...verbs.verb import Verb, parser_for
from .overview import EXIT_CODES, OPTIONS, TARGET_ROWS
from .table import EVERY

__all__ = ["pages"]


def pages() -> dict[str, str]:
    """Return the pages by the names of their files."""
    verbs = [verb for verb in EVERY.values() if "shell" in verb.fronts]
    found = {"qmr.1": _text(_overview(verbs))}
    for verb in verbs:
        found[f"qmr-{verb.name}.1"] = _text(_verb(verb))
    return found


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


def _head(name: str, what: str) -> Iterator[str]:
    yield f'.TH {name.upper()} 1 "" "qmr {__version__}" "User Commands"'
    yield ".SH NAME"
    yield f"{_plain(name)} \\- {_plain(what)}"
    yield ".SH SYNOPSIS"


def _overview(verbs: Iterable[Verb]) -> Iterator[str]:
    yield from _head("qmr", "shows which field holds each reference of every QOM object")
    yield f".B qmr\n{_plain('[TARGET] VERB ...')}"
    yield ".SH DESCRIPTION"
    yield _plain(
        "Reads the structures of a running QEMU, of a core dump or of a saved snapshot, and shows "
        "which field of which structure holds each reference of each QOM object."
    )
    yield ".SH TARGET"
    yield from _items(TARGET_ROWS)
    yield ".SH VERBS"
    yield from _items((verb.name, f"{verb.help}: see qmr-{verb.name}(1)") for verb in verbs)
    yield ".SH OPTIONS"
    yield from _items(OPTIONS)
    yield from _codes()


def _codes() -> Iterator[str]:
    yield ".SH EXIT STATUS"
    yield _plain(EXIT_CODES)


def _verb(verb: Verb) -> Iterator[str]:
    parser = parser_for(verb)
    yield from _head(f"qmr-{verb.name}", verb.help)
    usage = " ".join(parser.format_usage().split()).replace("usage: qmr ", "qmr [TARGET] ")
    yield _plain(usage)
    yield ".SH DESCRIPTION"
    yield _plain(verb.help[:1].upper() + verb.help[1:] + ".")
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    places = [action for action in actions if not action.option_strings]
    options = [action for action in actions if action.option_strings]
    for title, found in (("ARGUMENTS", places), ("OPTIONS", options)):
        if found:
            yield f".SH {title}"
            yield from _items((_called(action), action.help or "") for action in found)
    if verb.example:
        yield ".SH EXAMPLE"
        yield _plain(verb.example.replace("example: ", "", 1))
    yield from _codes()
    yield ".SH SEE ALSO"
    yield "qmr(1)"


def _called(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    value = " ".join(value) if isinstance(value, tuple) else value
    return ", ".join(f"{name} {value}".strip() for name in action.option_strings) or value


def _items(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, text in rows:
        yield ".TP"
        yield f".B {_plain(name)}"
        yield _plain(text) or "\\&"


def _plain(text: str) -> str:
    """Return a text in which nothing means anything to troff."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text[:1] in (".", "'") else text
