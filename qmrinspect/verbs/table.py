"""All verbs
---------

One table serves the command line, the REPL and GDB: a verb that is added here
appears in all of them.
"""

from __future__ import annotations

import difflib

from ..errors import UsageError
from ..fronts.repl import verbs as repl
from ..fronts.shell import repl_verb
from ..index import printable
from . import campaign, check, files, forecast, hunt, layout, monitor, mtree, policy, ps, refs, tree
from .verb import Verb

__all__ = ["VERBS", "find_verb"]

VERBS: dict[str, Verb] = {
    verb.name: verb
    for module in (
        ps,
        tree,
        mtree,
        refs,
        check,
        policy,
        forecast,
        layout,
        files,
        hunt,
        campaign,
        monitor,
        repl_verb,
        repl,
    )
    for verb in module.VERBS
}


def find_verb(name: str) -> Verb:
    """Return the verb of that name.

    :raises UsageError: there is none; the hint names the nearest.
    """
    if name in VERBS:
        return VERBS[name]
    near = difflib.get_close_matches(name, VERBS, 2, 0.5)
    raise UsageError(
        f"there is no verb {printable(name)}",
        "did you mean " + " or ".join(near) + "?" if near else "qmr --help lists them",
    )
