"""Help in the REPL
----------------
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...errors import UsageError
from ...report import render
from ...report.render import Row
from ...text import nearest, printable
from ...verbs.verb import parser_for

if TYPE_CHECKING:
    from .session import ReplSession

__all__ = ["overview", "topic"]

_LINES = (
    ("NAME k=v ...", "a QMP command, its values typed as QEMU wants them: help device_add"),
    ('{"execute": ...}', "the same as JSON, over several lines if need be"),
    ('NAME {"k": v}', "the same with its arguments as JSON"),
    ("COMMAND; COMMAND", "one after the other, until one fails"),
    (
        "NAME = COMMAND",
        "keep an answer; NAME shows it, why NAME, diff NAME use it; _ is the last",
    ),
    ("!COMMAND", "one of the shell; %time COMMAND tells how long one takes"),
    ("info WORD", "short for hmp info WORD"),
    ("COMMAND | PIPELINE", "output through the shell: refs nic0 | grep subregion"),
    ("COMMAND > FILE", "output to a file, >> appends"),
    ("# ...", "a comment, for scripts and the startup file ~/.config/qmr/replrc"),
)
_KEYS = (
    ("Tab", "completes verbs, commands, arguments, ids, paths, drivers, buses"),
    ("Ctrl-R, Up", "search and walk the history"),
    ("Ctrl-C", "cancels the command, or clears the line"),
    ("Ctrl-D", "leaves; the VM runs on"),
)


def overview(session: ReplSession) -> Iterator[str]:
    """Yield what there is."""
    verbs = session.verbs.values()
    own = [verb for verb in verbs if verb.fronts == {"repl"}]
    yield render.paint("verbs (help VERB says more)", "bold")
    yield from render.table((), [Row((v.name, v.help)) for v in verbs if v not in own])
    yield render.paint("of this session", "bold")
    yield from render.table((), [Row((v.name, v.help)) for v in own])
    yield render.paint("lines", "bold")
    yield from render.table((), [Row(row) for row in _LINES])
    yield render.paint("keys", "bold")
    yield from render.table((), [Row(row) for row in _KEYS])


def topic(session: ReplSession, name: str) -> Iterator[str]:
    """Yield what a verb, an alias or a QMP command takes.

    :raises UsageError: there is none of that name.
    """
    if name in session.aliases:
        yield f"{printable(name)} is an alias of: {printable(session.aliases[name])}"
        return
    verb = session.verbs.get(name)
    if verb is not None:
        parser = parser_for(verb, "")
        # The prompt is qmr's already.
        yield from (
            parser.format_help().replace("qmr ", "").replace(":  ", ": ", 1).rstrip().splitlines()
        )
        return
    yield from _command(session, name)


def _command(session: ReplSession, name: str) -> Iterator[str]:
    schema = session.knowledge.schema()
    if schema is None or name not in schema.commands:
        known = [*session.verbs, *(schema.commands if schema else ())]
        near = nearest(name, known)
        raise UsageError(
            f"there is no help on {printable(name)}",
            "did you mean " + " or ".join(near) + "?" if near else "help alone lists the verbs",
        )
    members = schema.members(name, {})
    yield f"{name} is a QMP command" + ("" if members else " without arguments")
    rows = [
        Row((member.name, "" if member.optional else "needed", schema.describe(member.type)))
        for member in members
    ]
    yield from render.table(("argument", "", "type"), rows)
    tag = schema.open_ended(name)
    if tag is not None:
        yield f"and the properties of the {tag}: Tab shows them once {tag}= is typed"
    wanted = " ".join(f"{m.name}=..." for m in members if not m.optional)
    yield f"example: {name} {wanted}".rstrip()
