"""Output of a verb
----------------

What all fronts do with the lines of a verb before they print them.
"""

from __future__ import annotations

import argparse

from ..report import render
from ..verbs.verb import Answer
from .hints import typed

__all__ = ["fitted"]


def fitted(
    answer: Answer, args: argparse.Namespace, front: str = "gdb", target: str | None = None
) -> Answer:
    """Return an answer whose lines are as wide as the terminal, or whole with ``--wide``.

    :param front: ``shell``, ``repl`` or ``gdb``, whose form hints take.
    :param target: what names the target on the command line, None when nothing does.
    """
    if answer.raw:
        return answer
    lines = (typed(line, front, target) for line in answer.lines)
    return answer._replace(lines=render.fitted(lines, getattr(args, "wide", False)))
