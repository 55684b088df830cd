"""The verbs of all fronts
-----------------------

Those of the table, those of the REPL, and the one that opens it.
"""

from __future__ import annotations

from ...errors import UsageError
from ...text import nearest, printable
from ...verbs.table import VERBS
from ...verbs.verb import Argument, Verb, later
from ..repl.table import REPL_VERBS

__all__ = ["EVERY", "find_verb"]

_OPEN = Verb(
    "repl",
    "work on a live VM interactively; or run commands from -c or standard input",
    (
        Argument(
            ("-c", "--command"),
            {"action": "append", "metavar": "COMMAND", "help": "run this; may be repeated"},
        ),
        Argument(
            ("--python",),
            {
                "action": "store_true",
                "help": "a Python prompt, or program, with the reading as objects: snapshot, book, "
                "findings",
            },
        ),
        Argument(
            ("--no-startup-file",),
            {"action": "store_true", "help": "do not run ~/.config/qmr/replrc"},
        ),
    ),
    later(__package__, "opening", "run_repl"),
    frozenset(("shell",)),
    reports=False,
    example="qmr repl < commands; qmr repl -c 'plug e1000e id=x' -c 'unplug x'",
)

# The command line answers it itself: with what --help says.
_HELP = REPL_VERBS["help"]._replace(fronts=frozenset(("gdb", "repl", "shell")), reports=False)

#: By name.  Where the REPL answers otherwise, this is what the others answer.
EVERY: dict[str, Verb] = {
    **VERBS,
    _OPEN.name: _OPEN,
    _HELP.name: _HELP,
    **{name: verb for name, verb in REPL_VERBS.items() if name not in (*VERBS, _HELP.name)},
}


def find_verb(name: str) -> Verb:
    """Return the verb of that name, of whatever front.

    :raises UsageError: there is none; the hint names the nearest.
    """
    if name in EVERY:
        return EVERY[name]
    near = nearest(name, EVERY, 2)
    raise UsageError(
        f"there is no verb {printable(name)}",
        "did you mean " + " or ".join(near) + "?" if near else "qmr --help lists them",
    )
