"""The verb that opens the REPL
----------------------------
"""

from __future__ import annotations

import argparse

from ...verbs.verb import Answer, Session
from ..repl.start import start
from ..session import ShellSession

__all__ = ["run_repl"]


def run_repl(session: Session, args: argparse.Namespace) -> Answer:
    """Open the REPL on what the command line names."""
    assert isinstance(session, ShellSession)
    if args.python:
        from ..python import run_python

        return Answer(None, (), run_python(session, args.command))
    return Answer(None, (), start(session.options, args.command, not args.no_startup_file))
