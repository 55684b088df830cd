"""The verb that opens the REPL
----------------------------
"""

from __future__ import annotations

import argparse

from ...verbs.verb import Argument, Outcome, Session, Verb

__all__ = ["VERBS"]


def _repl(session: Session, args: argparse.Namespace) -> Outcome:
    from ..repl.start import start
    from .cli import ShellSession

    assert isinstance(session, ShellSession)
    return Outcome(None, (), start(session.options, args.command, not args.no_startup_file))


VERBS = (
    Verb(
        "repl",
        "work on a live VM interactively; or run commands from -c or standard input",
        (
            Argument(
                ("-c", "--command"),
                {"action": "append", "metavar": "COMMAND", "help": "run this; may be repeated"},
            ),
            Argument(
                ("--no-startup-file",),
                {"action": "store_true", "help": "do not run ~/.config/qmr/replrc"},
            ),
        ),
        _repl,
        frozenset(("shell",)),
        reports=False,
        example="qmr repl < commands; qmr repl -c 'plug e1000e id=x' -c 'unplug x'",
    ),
)
