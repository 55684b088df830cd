"""All verbs
---------

One table serves the command line, the REPL and GDB: a verb that is added here
appears in all of them.
"""

from __future__ import annotations

import difflib

from ..errors import UsageError
from ..index import printable
from . import (
    repl_verbs,
    verbs_campaign,
    verbs_check,
    verbs_files,
    verbs_hunt,
    verbs_monitor,
    verbs_mtree,
    verbs_ps,
    verbs_refs,
    verbs_repl,
    verbs_tree,
)
from .table import Verb

__all__ = ["VERBS", "find_verb"]

VERBS: dict[str, Verb] = {
    verb.name: verb
    for module in (
        verbs_ps,
        verbs_tree,
        verbs_mtree,
        verbs_refs,
        verbs_check,
        verbs_files,
        verbs_hunt,
        verbs_campaign,
        verbs_monitor,
        verbs_repl,
        repl_verbs,
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
